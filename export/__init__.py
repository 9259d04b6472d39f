"""Stage two: from an adapter to merged 16-bit weights, GGUF files and export.json."""
