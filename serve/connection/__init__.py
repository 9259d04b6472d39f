"""Limits and deadlines of connections that uvicorn and h11 don't have."""
