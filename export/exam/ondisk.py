"""A matrix that stays on disk: embeddings read single rows, and matrix products read a slice at a time."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch.nn import functional

from burnish.exam.memory import HEAD_SLICE_VALUES

from ..merge.shards import TYPES, ShardError, Source, row_ranges

READ_AS_THEY_ARE = frozenset({"detach", "size", "dim", "numel", "stride", "is_floating_point", "requires_grad_"})


def read_float32(source: Source) -> torch.Tensor:
    """Read a whole tensor as float32, a slice at a time; non-float tensors are not converted."""
    if not TYPES[source.dtype].is_floating_point:
        return source.read()
    values = torch.empty(source.shape or (1,), dtype=torch.float32)
    for start, stop in row_ranges(source):
        values[start:stop] = source.slice(start, stop)
    return values.reshape(source.shape)


class OnDisk(torch.Tensor):
    """A stored matrix [rows, columns] as an empty parameter that looks like a float32 tensor on the CPU.

    `functional.embedding` and `functional.linear` read the parts they need. Other functions receive the whole matrix.
    """

    source: Source

    @staticmethod
    def of(source: Source) -> OnDisk:
        """Return a parameter for a stored matrix."""
        empty = torch.empty(source.shape, dtype=torch.float32, device="meta")
        made = empty.as_subclass(OnDisk)
        made.source = source
        return made

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is functional.embedding and isinstance(args[1], OnDisk):
            return _gather(args[0], args[1].source)
        if func is functional.linear and isinstance(args[1], OnDisk) and not isinstance(args[0], OnDisk):
            return _product(args[0], args[1].source, args[2] if len(args) > 2 else kwargs.get("bias"))
        if func == torch.Tensor.device.__get__:
            return torch.device("cpu")
        if func.__name__ in ("__get__", "__set__") or func.__name__ in READ_AS_THEY_ARE:
            return super().__torch_function__(func, types, args, kwargs)  # type: ignore[no-untyped-call]
        whole = [read_float32(a.source) if isinstance(a, OnDisk) else a for a in args]
        named = {k: read_float32(a.source) if isinstance(a, OnDisk) else a for k, a in kwargs.items()}
        return func(*whole, **named)


def _gather(ids: torch.Tensor, source: Source) -> torch.Tensor:
    """Return matrix rows in float32, [*ids.shape, columns]; each distinct row is read once."""
    different, places = torch.unique(ids, return_inverse=True)
    if len(different) and not 0 <= int(different[0]) <= int(different[-1]) < source.rows:
        raise ShardError(f"{source.file}: '{source.name}' has {source.rows} rows; token {int(different[-1])} has none")
    rows = torch.empty((len(different), *source.shape[1:]), dtype=TYPES[source.dtype])
    raw = rows.reshape(len(different), -1).view(torch.uint8).numpy()
    length = raw.shape[1]
    with source.file.open("rb", buffering=0) as file:
        for row, number in zip(raw, different.tolist(), strict=True):
            if os.preadv(file.fileno(), [row.data], source.offset + number * length) != length:
                raise ShardError(f"{source.file} is truncated: it ends inside '{source.name}'")
    return rows.float()[places]


def _product(values: torch.Tensor, source: Source, bias: torch.Tensor | None) -> torch.Tensor:
    """Return values · matrixᵀ + bias in float32, reading a slice of matrix rows at a time."""
    made = torch.empty((*values.shape[:-1], source.rows), dtype=torch.float32)
    for start, stop in row_ranges(source, HEAD_SLICE_VALUES):
        made[..., start:stop] = functional.linear(values, source.slice(start, stop).float())
    return made if bias is None else made.add_(bias)
