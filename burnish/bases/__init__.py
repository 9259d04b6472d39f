"""Base models: where one comes from, and the trainable checkpoint of a GGUF file."""
