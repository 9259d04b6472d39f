"""The shapes of well-known datasets, as turns."""
