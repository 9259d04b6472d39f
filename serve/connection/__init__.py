"""What happens between a socket and a request: limits and deadlines that uvicorn and h11 don't have."""
