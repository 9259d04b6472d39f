"""What several test modules use: commands, servers, doubles, tokenizers and small models."""
