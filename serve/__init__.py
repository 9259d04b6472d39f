"""Stage three: serves an exported run behind an OpenAI-compatible API. Never imports torch or transformers."""
