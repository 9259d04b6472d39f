"""Constraints and stop conditions of generation, independent of the engine and the model."""
