"""What replies hold that grows with prompts and answers, and how it is written."""
