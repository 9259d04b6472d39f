"""Private TRL API: the trained-token counter, logged as num_tokens."""

from __future__ import annotations

from typing import Any

from burnish.private.needs import Need

_INIT = "trl:SFTTrainer.__init__"
NEEDS = (
    Need("trl:SFTTrainer._metrics", "num_tokens, and with it the speed, are not logged", assigned_in=_INIT),
    Need("trl:SFTTrainer._total_train_tokens", "trained tokens are not counted over a resume", assigned_in=_INIT),
)


def count_tokens(trainer: Any, tokens: int) -> None:
    """Add a step's tokens to the trainer's counter, which is logged and saved in checkpoints."""
    trainer._total_train_tokens += tokens
    trainer._metrics["train"]["num_tokens"] = [trainer._total_train_tokens]


def counted_tokens(trainer: Any) -> int:
    """Return the number of tokens trained so far, including tokens before a resume."""
    return int(trainer._total_train_tokens)
