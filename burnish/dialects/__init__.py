"""Detect, write and parse tool calls and reasoning in assistant text; shared by training and serving."""
