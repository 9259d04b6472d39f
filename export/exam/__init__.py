"""Examining artefacts: their answers, prompt parity and the gate."""
