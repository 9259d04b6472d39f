"""Training data: rows to ids and labels, with lint, loss-mask proof and preview."""
