"""Connection limits and deadlines that uvicorn and h11 lack."""
