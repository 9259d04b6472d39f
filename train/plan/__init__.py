"""Before training: memory, disk and time, what the machine can do, and the resolved settings."""
