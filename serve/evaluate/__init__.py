"""Scores a run's answers against the untuned base's: `python -m serve evaluate`."""
