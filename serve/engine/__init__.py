"""The engine: scheduler, slots, KV cells and prefix tree. Pure Python; accesses the model through a protocol."""
