"""Tool calls and thoughts in an assistant's text: found, written, parsed; training and serving share them."""
