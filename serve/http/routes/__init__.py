"""The routes, one module per API; each adds its routes to the application."""
