"""The seam between the training loop and what it minimises."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch

Row = dict[str, Any]  # {"input_ids", "labels", "line"}, as TRL's dataset has it


class Objective(Protocol):
    """Rows → loss. A step's loss is the sum of its rows' losses over the sum of their terms, however it is cut."""

    def length(self, row: Row) -> int:
        """Return the tokens that a row puts into a forward pass."""
        ...

    def label_tokens(self, row: Row) -> int:
        """Return how many terms a row's loss sums up: its response tokens."""
        ...

    def loss(self, rows: Sequence[Row]) -> torch.Tensor:
        """Return the summed loss of rows, a scalar that can go backward, after one forward pass."""
        ...

    def patched(self) -> AbstractContextManager[None]:
        """Set the model up for `loss`, and for its backward pass, inside the context."""
        ...
