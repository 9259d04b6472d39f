"""Find, write and parse tool calls and reasoning in an assistant's text; shared by training and serving."""
