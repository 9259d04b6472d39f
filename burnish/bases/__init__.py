"""Base models: finding and checking them, and making a trainable checkpoint from a GGUF file."""
