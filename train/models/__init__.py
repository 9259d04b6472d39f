"""Models for training: loaders, adapters and the device."""
