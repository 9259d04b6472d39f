"""Data for training: from rows to ids and labels that are proven, linted and shown."""
