"""Store decoder layers' activation checkpoints in host memory until the backward pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.graph import saved_tensors_hooks

from burnish.console import warn


@dataclass
class Offloaded:
    """A layer's input in pinned host memory, copied back to the GPU when backward needs it."""

    host: torch.Tensor
    device: torch.device
    back: torch.Tensor | None = None
    ready: torch.cuda.Event | None = None


class Offload:
    """Copies layer inputs to the host in forward, and prefetches each during the next layer's backward pass.

    Copies run on a separate stream, in parallel with computation. The last layer's input, needed first, stays.
    """

    def __init__(self, layers: int) -> None:
        self._layers = layers
        self._stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._offloaded: list[Offloaded] = []
        self._full = False

    def clear(self) -> None:
        """Drop the inputs saved by a forward pass without a backward pass, once pending copies have finished."""
        if self._offloaded:
            torch.cuda.current_stream().wait_stream(self._stream)
        self._offloaded.clear()

    def wrap(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a layer's call so that its first argument [1, T, hidden] is offloaded when saved for backward."""

        def offloading(hidden: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            address, shape = hidden.data_ptr(), hidden.shape

            def offload(saved: torch.Tensor) -> torch.Tensor | Offloaded:
                same = saved.data_ptr() == address and saved.shape == shape
                space = not self._full and len(self._offloaded) < self._layers - 1
                return self._store(saved) if same and space else saved

            with saved_tensors_hooks(offload, self._load):
                return call(hidden, *args, **kwargs)

        return offloading

    def _store(self, saved: torch.Tensor) -> Offloaded | torch.Tensor:
        try:
            host = torch.empty(saved.shape, dtype=saved.dtype, pin_memory=True)
        except RuntimeError:  # CUDA's own error, not torch.OutOfMemoryError
            self._full = True
            warn("the host has no pinned memory left for activation checkpoints: the others stay on the GPU")
            return saved
        entry = Offloaded(host, saved.device)
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            entry.host.copy_(saved, non_blocking=True)
        saved.record_stream(self._stream)
        self._offloaded.append(entry)
        return entry

    def _load(self, entry: torch.Tensor | Offloaded) -> torch.Tensor:
        if isinstance(entry, torch.Tensor):
            if self._offloaded:
                self._fetch(self._offloaded[-1])  # last layer's backward: prefetch the layer before
            return entry
        while self._offloaded and self._offloaded.pop() is not entry:
            pass
        self._fetch(entry)
        if self._offloaded:
            self._fetch(self._offloaded[-1])
        assert entry.back is not None and entry.ready is not None
        torch.cuda.current_stream().wait_event(entry.ready)
        return entry.back

    def _fetch(self, entry: Offloaded) -> None:
        if entry.back is not None:
            return
        entry.back = torch.empty(entry.host.shape, dtype=entry.host.dtype, device=entry.device)
        self._stream.wait_stream(torch.cuda.current_stream())  # the new tensor's memory may still be in use
        with torch.cuda.stream(self._stream):
            entry.back.copy_(entry.host, non_blocking=True)
            entry.ready = self._stream.record_event()
