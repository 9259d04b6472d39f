"""Private APIs of libraries that serve needs, one module per library."""
