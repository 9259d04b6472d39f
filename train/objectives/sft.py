"""Supervised fine-tuning: the negative log-likelihood of the response tokens."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from ..kernels import attention, loss
from ..private.transformers import attention_configs
from .objective import Row

IGNORED = loss.IGNORED
ROUNDING = 128  # tokens; also the tile size in matrix products, so little of a tile is wasted


class SupervisedFineTuning:
    """The objective for a model with its adapter on `device`; rows in a forward pass are packed or padded."""

    def __init__(self, model: Any, packed: bool, device: torch.device) -> None:
        # done once, since iterating over thousands of modules takes as long as running several layers
        self._inner = model.get_base_model()
        self._configs = attention_configs(self._inner)
        self._packed, self._device = packed, device

    def length(self, row: Row) -> int:
        """Return a row's token count."""
        return len(row["input_ids"])

    def label_tokens(self, row: Row) -> int:
        """Return a row's response-token count; the first token in a row is not predicted."""
        return sum(label != IGNORED for label in row["labels"][1:])

    def loss(self, rows: Sequence[Row]) -> torch.Tensor:
        """Return the summed loss over the rows' response tokens, from one forward pass."""
        inner = self._inner
        inputs, targets, places = (_pack if self._packed else _pad)(rows, self._device)
        head, config = inner.get_output_embeddings(), inner.config.get_text_config()
        if not loss.is_plain(head, config):
            return loss.logits_nll(_logits(inner, inputs, places), targets)
        hidden = getattr(inner, inner.base_model_prefix)(**inputs, use_cache=False).last_hidden_state
        return loss.response_nll(hidden.flatten(0, 1)[places], head, targets)

    def patched(self) -> AbstractContextManager[None]:
        """Restrict attention to within packed rows; padded rows need no change."""
        return attention.packed(self._configs) if self._packed else nullcontext()


def _pack(rows: Sequence[Row], device: torch.device) -> tuple[dict[str, Any], torch.Tensor, torch.Tensor]:
    """Return the forward arguments [1, T], the targets [N] and the sequence positions [N] that predict them.

    On a GPU, a row without targets rounds T up: for every new matrix product size, the libraries spend milliseconds
    choosing a kernel, then cache the choice.
    """
    lengths = [len(row["input_ids"]) for row in rows]
    if device.type == "cuda" and (rest := -sum(lengths) % ROUNDING):
        rows, lengths = [*rows, {"input_ids": [0] * rest, "labels": [IGNORED] * rest}], [*lengths, rest]
    ids = torch.tensor([i for row in rows for i in row["input_ids"]])
    # a row's first token is not a target, since the previous row would predict it
    labels = torch.tensor([label for row in rows for label in [*row["labels"][1:], IGNORED]])
    places = (labels != IGNORED).nonzero().squeeze(1)
    inputs = {"input_ids": ids.unsqueeze(0).to(device, non_blocking=True)}
    inputs |= attention.packed_arguments(lengths, device)
    return inputs, labels[places].to(device, non_blocking=True), places.to(device, non_blocking=True)


def _pad(rows: Sequence[Row], device: torch.device) -> tuple[dict[str, Any], torch.Tensor, torch.Tensor]:
    """Return the same for rows padded on the right: [rows, longest]."""
    longest = max(len(row["input_ids"]) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    labels = torch.full((len(rows), longest), IGNORED)
    mask = torch.zeros_like(ids)
    for number, row in enumerate(rows):
        length = len(row["input_ids"])
        ids[number, :length] = torch.tensor(row["input_ids"])
        labels[number, : length - 1] = torch.tensor(row["labels"][1:])
        mask[number, :length] = 1
    flat = labels.flatten()
    places = (flat != IGNORED).nonzero().squeeze(1)
    inputs = {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
    return inputs, flat[places].to(device), places.to(device)


def _logits(model: Any, inputs: dict[str, Any], places: torch.Tensor) -> torch.Tensor:
    """Return the logits [N, vocabulary] at `places`, for a head that has an adapter or is not just a matrix product."""
    logits = model(**inputs, use_cache=False).logits
    picked: torch.Tensor = logits.flatten(0, 1)[places]
    return picked
