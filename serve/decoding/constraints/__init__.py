"""Which tokens a sequence may generate next: JSON schemas, regular expressions, grammars and tool calls."""
