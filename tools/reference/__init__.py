"""The pages of docs/ that are generated from the code: settings.md and openai-api.md."""
