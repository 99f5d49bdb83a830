"""Training: pure functions for the arithmetic, plain loops around them, and a run folder that resumes."""
