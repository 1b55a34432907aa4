"""Attacks that anyone can repeat: ``python -m fuzzing.NAME``."""
