"""Turn columns of any name into conversations and texts: templates, conditions, and transcripts."""
