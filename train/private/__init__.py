"""Uses of libraries' private API, one module per library; nothing else in train/ uses it."""
