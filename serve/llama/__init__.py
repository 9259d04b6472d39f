"""The llama.cpp backend: cache sizes, warm-up, decoding and sampling."""
