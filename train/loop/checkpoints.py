"""A run that had ended when it was interrupted: in its last evaluation or its exam nothing is left to train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import TrainerState

from burnish.files import read_jsonl

from .callbacks import METRICS

STATE = "trainer_state.json"  # transformers' name


def has_ended(checkpoint: Path) -> bool:
    """Whether the checkpoint is of the last step; resumed, transformers' loop would take one more."""
    state = TrainerState.load_from_json(str(checkpoint / STATE))
    stopping = state.stateful_callbacks.get("EarlyStoppingCallback", {})
    waited = stopping.get("attributes", {}).get("early_stopping_patience_counter", 0)
    patience = stopping.get("args", {}).get("early_stopping_patience")
    return bool(state.global_step >= state.max_steps or (patience is not None and waited >= patience))


def take_up(trainer: Any, checkpoint: Path, logs: Path) -> dict[str, float]:
    """Give the trainer the run's state and its weights, the best ones' where those are kept; return its metrics."""
    trainer.state = TrainerState.load_from_json(str(checkpoint / STATE))
    best = trainer.state.best_model_checkpoint if trainer.args.load_best_model_at_end else None
    # by its name: the run may have moved
    weights = checkpoint.parent / Path(best).name if best else checkpoint
    trainer._load_from_checkpoint(str(weights))
    times = [point["time"] for point in read_jsonl(logs / METRICS, partial=True)]
    return {"train_loss": 0.0, "train_runtime": times[-1] - times[0] if times else 0.0}
