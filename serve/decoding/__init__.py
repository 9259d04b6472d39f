"""Sampling, constraints and stop conditions, independent of the engine and the model."""
