"""Prepared rows on disk: written once, then read by index by every command."""
