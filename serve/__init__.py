"""Stage three: an exported run in, an OpenAI-compatible endpoint out. Never torch, never transformers."""
