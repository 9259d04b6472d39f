"""Constrained decoding: JSON schemas, regular expressions, grammars and tool calls."""
