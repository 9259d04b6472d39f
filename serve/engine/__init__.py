"""The engine: scheduler, slots, KV cells and prefix tree. Pure Python; it reaches the model through a protocol."""
