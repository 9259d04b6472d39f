"""What may fail in the middle of a training run, said as what a person can do about it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError

from burnish.errors import UserError

from .callbacks import last_checkpoint

FULL_BYTES = 64 * 2**20  # with less left, a write that failed has failed for want of room


@contextmanager
def named(run: Path) -> Iterator[None]:
    """Raise UserError where a run's disk is full, or where memory runs out outside the training steps.

    torch and safetensors have exceptions of their own for a full disk, which say little.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise UserError(
            "out of memory while loading, evaluating or examining: free the GPU of other programs, or take"
            f" base.quantization: nf4, a lower data.max_length or a smaller base; {_kept(run)}"
        ) from None
    except (OSError, RuntimeError, SafetensorError):
        if shutil.disk_usage(run).free > FULL_BYTES:
            raise
        raise UserError(f"{run}: the disk is full: make room, then run the same command again; {_kept(run)}") from None


def _kept(run: Path) -> str:
    """Say where the same command would go on."""
    _, step = last_checkpoint(run / "checkpoints")
    return f"it goes on from the checkpoint at step {step}" if step else "no checkpoint was written yet"
