"""Data for training: rows to ids and labels, with lint, proof of the loss mask and preview."""
