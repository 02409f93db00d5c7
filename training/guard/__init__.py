"""What is fitted on top of a trained guard: for now the temperatures of its scores."""
