"""The training loop: TRL's trainer, its arguments, callbacks, checkpoints and errors."""
