"""Checkpoints of decoder layers in the host's memory: what a layer was given waits there for its backward pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.graph import saved_tensors_hooks

from burnish.console import warn


@dataclass
class Kept:
    """One layer's input: in pinned host memory, and on the GPU again once it was asked for."""

    host: torch.Tensor
    device: torch.device
    back: torch.Tensor | None = None
    ready: torch.cuda.Event | None = None


class Offload:
    """Moves the inputs of `layers` layers away while forward goes on, and each back while the layer after it goes back.

    Copies run beside the arithmetic, on a stream of their own. The last layer's input stays: it is needed at once.
    """

    def __init__(self, layers: int) -> None:
        self._layers = layers
        self._stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._kept: list[Kept] = []
        self._full = False

    def clear(self) -> None:
        """Forget what a forward pass kept whose backward pass never came, once copies on the way have arrived."""
        if self._kept:
            torch.cuda.current_stream().wait_stream(self._stream)
        self._kept.clear()

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return a layer's call with its first argument [1, T, hidden] moved away, where it is saved for backward."""

        def moving(hidden: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            address, shape = hidden.data_ptr(), hidden.shape

            def keep(saved: torch.Tensor) -> torch.Tensor | Kept:
                same = saved.data_ptr() == address and saved.shape == shape
                room = not self._full and len(self._kept) < self._layers - 1
                return self._away(saved) if same and room else saved

            with saved_tensors_hooks(keep, self._back):
                return call(hidden, *args, **kwargs)

        return moving

    def _away(self, saved: torch.Tensor) -> Kept | torch.Tensor:
        try:
            host = torch.empty(saved.shape, dtype=saved.dtype, pin_memory=True)
        except RuntimeError:  # CUDA's own error, not torch's of a full device
            self._full = True
            warn("the host has no pinned memory left for checkpoints: the rest of them stay on the GPU")
            return saved
        kept = Kept(host, saved.device)
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            kept.host.copy_(saved, non_blocking=True)
        saved.record_stream(self._stream)
        self._kept.append(kept)
        return kept

    def _back(self, kept: torch.Tensor | Kept) -> torch.Tensor:
        if isinstance(kept, torch.Tensor):
            if self._kept:
                self._fetch(self._kept[-1])  # the last layer begins: the one before is next
            return kept
        while self._kept and self._kept.pop() is not kept:
            pass
        self._fetch(kept)
        if self._kept:
            self._fetch(self._kept[-1])
        assert kept.back is not None and kept.ready is not None
        torch.cuda.current_stream().wait_event(kept.ready)
        return kept.back

    def _fetch(self, kept: Kept) -> None:
        if kept.back is not None:
            return
        kept.back = torch.empty(kept.host.shape, dtype=kept.host.dtype, device=kept.device)
        self._stream.wait_stream(torch.cuda.current_stream())  # its memory may still be in use for something else
        with torch.cuda.stream(self._stream):
            kept.back.copy_(kept.host, non_blocking=True)
            kept.ready = self._stream.record_event()
