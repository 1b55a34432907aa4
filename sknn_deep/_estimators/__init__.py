"""The estimators, and the course of a fit."""
