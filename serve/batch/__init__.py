"""Answers the rows of a file: `python -m serve generate`."""
