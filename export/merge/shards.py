"""Read and write safetensors in slices of rows, so that a whole model is never in memory.

Format: https://github.com/huggingface/safetensors (8 bytes little-endian header length, a JSON header, then the data).
Tensors are read, not memory-mapped, because touched pages of a mapping count as resident memory.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import torch

from burnish.errors import UserError
from burnish.files import FileError, read_json

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
HEADER_ALIGNMENT_BYTES = 8
LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library
SLICE_VALUES = 1 << 20  # 4 MB in float32, to fit into the CPU cache
SLICE_ROWS = 64  # slice lengths are multiples of this, so that slices contain whole blocks of 64 values
AHEAD_BYTES = 16 << 20  # read-ahead requested from the kernel while the previous slice is processed
TYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
NAMES = {dtype: name for name, dtype in TYPES.items()}
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})


class ShardError(UserError):
    """Raised when a checkpoint's safetensors files are missing or damaged."""


@dataclass(frozen=True)
class Stored:
    """A tensor as stored in a checkpoint: its name, dtype (as named in safetensors) and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def rows(self) -> int:
        """The first dimension; 1 for a scalar."""
        return self.shape[0] if self.shape else 1

    @property
    def row_values(self) -> int:
        """The number of values in one row."""
        return prod(self.shape[1:])

    @property
    def nbytes(self) -> int:
        """The size of the values in bytes."""
        return prod(self.shape) * TYPES[self.dtype].itemsize


@dataclass(frozen=True)
class Source(Stored):
    """A tensor in a file; its values start at byte `offset`."""

    file: Path
    offset: int

    def renamed(self, name: str) -> Source:
        """Return the same values under another name."""
        return replace(self, name=name)

    def read(self) -> torch.Tensor:
        """Read the whole tensor in its stored dtype."""
        return self.slice(0, self.rows).reshape(self.shape)

    def slice(self, start: int, stop: int) -> torch.Tensor:
        """Read rows [start, stop) in their stored dtype. Raises ShardError if the file is too short."""
        tensor = torch.empty((stop - start, *self.shape[1:]), dtype=TYPES[self.dtype])
        wanted = tensor.reshape(-1).view(torch.uint8).numpy().data
        begin = self.offset + start * self.row_values * tensor.itemsize
        with self.file.open("rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), begin + len(wanted), AHEAD_BYTES, os.POSIX_FADV_WILLNEED)
            file.seek(begin)
            while wanted:
                got = file.readinto(wanted)
                if not got:
                    raise ShardError(f"{self.file} is truncated: it ends inside '{self.name}'")
                wanted = wanted[got:]
        return tensor


def row_ranges(tensor: Stored, values: int = SLICE_VALUES) -> list[tuple[int, int]]:
    """Return consecutive row ranges [start, stop) of about `values` values, in multiples of 64 rows except the last."""
    step = max(1, values // max(1, tensor.row_values) // SLICE_ROWS) * SLICE_ROWS
    return [(start, min(start + step, tensor.rows)) for start in range(0, tensor.rows, step)]


def sources(directory: Path) -> list[Source]:
    """Return a checkpoint's tensors in stored order. Raises ShardError if files are missing or damaged."""
    index = directory / INDEX
    try:
        names = sorted(set(read_json(index)["weight_map"].values())) if index.is_file() else [SINGLE]
    except (FileError, KeyError, TypeError, AttributeError):
        raise ShardError(f"{index} is not an index of weights: expected weight_map, from tensors to files") from None
    missing = [name for name in names if not (directory / name).is_file()]
    if missing:
        raise ShardError([f"{directory / name} is missing; the merge needs safetensors" for name in missing])
    return [source for name in names for source in file_sources(directory / name)]


def file_sources(file: Path) -> list[Source]:
    """Return a safetensors file's tensors in stored order. Raises ShardError if the file is damaged."""
    if not file.is_file():
        raise ShardError(f"{file} is {'not a file' if file.exists() else 'missing'}: expected a safetensors file")
    size = file.stat().st_size
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(LENGTH_BYTES))
            if length > min(size, MAX_HEADER_BYTES):
                raise ValueError(f"its header should have {length:,} bytes, but the file has {size:,}")
            header: dict[str, Any] = json.loads(stream.read(length))
        entries = dict(header)
        entries.pop("__metadata__", None)
        _check_dtypes(file, entries)
        start = LENGTH_BYTES + length
        found = [_source(name, entry, file, start, size) for name, entry in entries.items()]
    except (OSError, struct.error, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        reason = str(error) if isinstance(error, OSError | ValueError) else "its header does not describe tensors"
        raise ShardError(f"{file} is not a safetensors file, or is damaged: {reason}") from None
    return sorted(found, key=lambda source: source.offset)


def _check_dtypes(file: Path, entries: dict[str, Any]) -> None:
    if unknown := sorted({str(entry["dtype"]) for entry in entries.values()} - TYPES.keys()):
        raise ShardError(f"{file} has {', '.join(unknown)[:80]} values: use the model's 16-bit checkpoint")


def _source(name: str, entry: dict[str, Any], file: Path, start: int, size: int) -> Source:
    """Return a tensor from its header entry. Raises ValueError if shape, offsets and file size disagree."""
    shape, (begin, end) = entry["shape"], entry["data_offsets"]
    if not isinstance(shape, list) or any(type(n) is not int or n < 0 for n in (*shape, begin, end)):
        raise ValueError(f"the shape or the offsets of '{name[:80]}' are not non-negative integers")
    made = Source(name, entry["dtype"], tuple(shape), file, start + begin)
    if end - begin != made.nbytes:
        raise ValueError(f"'{name[:80]}' has the shape {shape}, but {end - begin:,} bytes in the file")
    if start + end > size:
        raise ValueError(f"the file ends inside '{name[:80]}'")
    return made


def write(
    directory: Path,
    tensors: Sequence[Stored],
    slices: Callable[[Stored], Iterator[torch.Tensor]],
    max_shard_bytes: int,
) -> None:
    """Write a checkpoint: shards of at most `max_shard_bytes` and, if there are several, their index.

    `slices` is called for each tensor in order and yields consecutive row slices in the stored dtype.
    """
    plan = _plan(tensors, max_shard_bytes)
    names = (
        [SINGLE] if len(plan) == 1 else [f"model-{i + 1:05}-of-{len(plan):05}.safetensors" for i in range(len(plan))]
    )
    for name, part in zip(names, plan, strict=True):
        _write_shard(directory / name, part, slices)
    if len(plan) > 1:
        weight_map = {tensor.name: name for name, part in zip(names, plan, strict=True) for tensor in part}
        index = {"metadata": {"total_size": sum(tensor.nbytes for tensor in tensors)}, "weight_map": weight_map}
        (directory / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _plan(tensors: Sequence[Stored], max_shard_bytes: int) -> list[list[Stored]]:
    shards: list[list[Stored]] = [[]]
    used = 0
    for tensor in tensors:
        if shards[-1] and used + tensor.nbytes > max_shard_bytes:
            shards.append([])
            used = 0
        shards[-1].append(tensor)
        used += tensor.nbytes
    return shards


def _write_shard(path: Path, part: list[Stored], slices: Callable[[Stored], Iterator[torch.Tensor]]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in part:
        end = offset + tensor.nbytes
        header[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % HEADER_ALIGNMENT_BYTES)
    with path.open("wb", buffering=0) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in part:
            left = tensor.nbytes
            for values in slices(tensor):
                raw = values.contiguous().reshape(-1).view(torch.uint8).numpy().data
                left -= len(raw)
                while raw:
                    raw = raw[file.write(raw) :]
            if left:
                raise AssertionError(f"{tensor.name}: {left} bytes are missing or too many")
