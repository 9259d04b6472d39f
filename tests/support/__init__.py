"""Helpers shared by several test modules: commands, servers, doubles, tokenizers and small models."""
