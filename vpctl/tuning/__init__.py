"""Training: a file for each algorithm, one loop for all of them, and a run folder that resumes."""
