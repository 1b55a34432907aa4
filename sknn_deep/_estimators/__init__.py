"""The estimators, and how they are fitted."""
