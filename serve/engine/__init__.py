"""The engine: scheduler, slots, KV cells and prefix tree. Pure Python; it knows the model through a protocol."""
