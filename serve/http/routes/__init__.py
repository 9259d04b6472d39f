"""The routes, one module an API; each adds its own to the application."""
