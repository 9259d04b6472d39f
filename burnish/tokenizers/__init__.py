"""Tokenizers: loading them, keeping special strings as text, and comparison with llama.cpp."""
