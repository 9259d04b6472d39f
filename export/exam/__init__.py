"""Artifact examination: logits, prompt parity and end tokens."""
