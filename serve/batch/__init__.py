"""Generate answers for the rows of a file: `python -m serve generate`."""
