"""The OpenAI-compatible API: routes, schema, errors and server-sent events. The only package that uses FastAPI."""
