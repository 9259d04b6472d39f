"""Evaluations of a run: their records, the thresholds on them, and where the base's GGUF is cached."""
