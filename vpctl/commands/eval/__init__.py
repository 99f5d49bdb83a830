"""Measure rewards, tuned models and annotators."""
