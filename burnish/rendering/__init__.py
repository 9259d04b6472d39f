"""Runs templates in a sandbox, with limits on time and memory."""
