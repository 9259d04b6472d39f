"""Merging an adapter onto its base, a slice of rows at a time."""
