"""Training objectives: each computes a loss from rows."""
