"""Measured numbers: intervals, accuracy, comparisons, agreement, claims, gates; and tables on the terminal."""
