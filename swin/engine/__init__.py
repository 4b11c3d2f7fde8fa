"""Training, evaluation and their state."""
