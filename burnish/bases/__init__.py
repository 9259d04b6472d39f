"""Base models: find and check them, and convert a GGUF file to a trainable checkpoint."""
