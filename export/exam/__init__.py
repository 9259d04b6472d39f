"""Examining artefacts: their logits, prompt parity and end tokens."""
