"""Rows with tools: their definitions, the calls of turns, and what answers them."""
