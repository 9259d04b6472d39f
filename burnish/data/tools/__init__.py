"""Rows with tools: definitions, calls and results."""
