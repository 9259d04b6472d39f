"""The reply parts that grow with prompts and completions, and their encoding."""
