"""What is minimised: each objective turns rows into a loss."""
