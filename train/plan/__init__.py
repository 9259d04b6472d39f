"""Planning before training: memory, disk and time, machine capabilities, and the resolved settings."""
