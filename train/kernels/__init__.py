"""Fast training steps: LoRA layers, packed attention, loss, offload, compilation."""
