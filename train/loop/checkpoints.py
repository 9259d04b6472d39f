"""A run's checkpoints: finding the newest complete one, restoring it, and errors that name the step to resume from."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import TrainerState

from burnish.errors import UserError
from burnish.files import write_atomic

from ..private.transformers import load_checkpoint

COMPLETE = "complete"
STATE = "trainer_state.json"  # the name in transformers
FULL_BYTES = 64 * 2**20  # with less free space, a failed write is attributed to a full disk


def mark_complete(directory: Path, step: int) -> None:
    """Mark a checkpoint as complete. A partial checkpoint left by a kill has no mark and is not used to resume."""
    checkpoint = directory / f"checkpoint-{step}"
    (checkpoint / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
    write_atomic(checkpoint / COMPLETE, "")


def last_checkpoint(directory: Path) -> tuple[Path | None, int]:
    """Return the newest complete checkpoint and its step, or (None, 0)."""
    whole = [p for p in directory.glob("checkpoint-*") if (p / COMPLETE).is_file()]
    newest = max(whole, key=step_of, default=None)
    return newest, step_of(newest) if newest else 0


def step_of(checkpoint: Path) -> int:
    """Return a checkpoint's step."""
    return int(checkpoint.name.rsplit("-", 1)[1])


def is_last(checkpoint: Path) -> bool:
    """Return whether the checkpoint is from the last step; resuming it in transformers would train one extra step."""
    state = TrainerState.load_from_json(str(checkpoint / STATE))
    stopping = state.stateful_callbacks.get("EarlyStoppingCallback", {})
    waited = stopping.get("attributes", {}).get("early_stopping_patience_counter", 0)
    patience = stopping.get("args", {}).get("early_stopping_patience")
    return bool(state.global_step >= state.max_steps or (patience is not None and waited >= patience))


def restore(trainer: Any, checkpoint: Path) -> None:
    """Load the last checkpoint's state, and its weights or, if configured, the best checkpoint's."""
    trainer.state = TrainerState.load_from_json(str(checkpoint / STATE))
    best = trainer.state.best_model_checkpoint if trainer.args.load_best_model_at_end else None
    # by directory name, because the run may have moved
    load_checkpoint(trainer, checkpoint.parent / Path(best).name if best else checkpoint)


@contextmanager
def explained(run: Path) -> Iterator[None]:
    """Raise UserError if a run's disk is full, or memory runs out outside the training steps.

    For a full disk, torch and safetensors raise various unclear exceptions.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise UserError(
            "out of memory while loading, evaluating or examining: end other programs on the GPU, or use"
            f" base.quantization: nf4, a lower data.max_length or a smaller base; {_continuation(run)}"
        ) from None
    except (OSError, RuntimeError, SafetensorError):
        if shutil.disk_usage(run).free > FULL_BYTES:
            raise
        raise UserError(
            f"{run}: the disk is full: free space, then run the same command again; {_continuation(run)}"
        ) from None


def _continuation(run: Path) -> str:
    """Return the step from which the same command would resume, as a message."""
    _, step = last_checkpoint(run / "checkpoints")
    return f"training resumes from the checkpoint at step {step}" if step else "no checkpoint was written yet"
