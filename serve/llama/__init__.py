"""The engine's backend on llama.cpp: sizes, warm-up, decoding and sampling."""
