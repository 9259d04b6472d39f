"""Render templates in a sandbox with time and memory limits."""
