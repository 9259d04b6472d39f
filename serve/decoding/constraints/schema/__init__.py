"""JSON schemas: which parts are supported, and the location of unsupported ones."""
