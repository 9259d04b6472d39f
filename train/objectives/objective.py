"""The interface between the training loop and the objective being minimised."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch

Row = dict[str, Any]  # {"input_ids", "labels", "line"}, as in TRL's dataset


class Objective(Protocol):
    """Computes row losses. A step's loss is its rows' summed loss divided by their terms, however the step is split."""

    def length(self, row: Row) -> int:
        """Return a row's token count in a forward pass."""
        ...

    def label_tokens(self, row: Row) -> int:
        """Return the number of terms in a row's loss: its response tokens."""
        ...

    def loss(self, rows: Sequence[Row]) -> torch.Tensor:
        """Return the rows' summed loss from one forward pass, a scalar with gradient."""
        ...

    def patched(self) -> AbstractContextManager[None]:
        """Prepare the model for `loss` and its backward pass inside the context."""
        ...
