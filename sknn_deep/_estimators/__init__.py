"""The three estimators, and the course of a fit."""
