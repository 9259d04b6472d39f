"""GGUF files: llama.cpp's converter and quantizer."""
