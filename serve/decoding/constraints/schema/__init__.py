"""JSON schemas: what of them can be honoured, and the place of what can't."""
