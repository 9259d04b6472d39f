"""Tokenizers: loading, special strings as text, and comparison with llama.cpp."""
