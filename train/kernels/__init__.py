"""What makes a training step fast: LoRA layers, packed attention, loss, offload, compilation."""
