"""The model as training holds it: loaders, adapters and the device."""
