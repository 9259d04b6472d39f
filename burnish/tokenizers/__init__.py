"""Tokenizers: one loader, special strings as text, and the comparison with llama.cpp's."""
