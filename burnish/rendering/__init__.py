"""How templates run: an environment without dangerous operations, under bounds of time and memory."""
