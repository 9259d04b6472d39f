"""Turns the bytes of a request body into a validated request, within limits of time and memory."""
