"""Uses of libraries' private API, one module per library; nothing else in burnish/ uses it."""
