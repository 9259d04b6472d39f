"""The parts of replies that grow with prompts and completions, and how they are encoded."""
