"""Stage two: an adapter in, merged 16-bit weights, GGUF files and export.json out."""
