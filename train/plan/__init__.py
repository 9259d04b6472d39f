"""Planning before training: memory, disk and time, the machine's abilities, and the resolved settings."""
