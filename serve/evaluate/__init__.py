"""Compares a run's answers with those of the untuned base: `python -m serve evaluate`."""
