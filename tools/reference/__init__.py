"""Generates docs/settings.md and docs/openai-api.md from the code."""
