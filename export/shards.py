"""safetensors read and written one tensor at a time, so that memory never holds a model.

Format: https://github.com/huggingface/safetensors (8 bytes little-endian header length, a JSON header, then the data).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from burnish.errors import UserError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
HEADER_ALIGNMENT_BYTES = 8
NAMES = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32"}
SIZES_BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
FLOATS = frozenset({"F32", "F16", "BF16", "F64"})


class ShardError(UserError):
    """A checkpoint whose safetensors files are missing or damaged."""


@dataclass(frozen=True)
class Source:
    """One tensor of a checkpoint: which file it is in, its dtype by safetensors' name, its shape."""

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]

    def read(self) -> torch.Tensor:
        """Read the tensor as it is stored."""
        with safe_open(self.file, framework="pt") as tensors:
            tensor: torch.Tensor = tensors.get_tensor(self.name)
            return tensor


def sources(directory: Path) -> list[Source]:
    """Return every tensor of a checkpoint in its stored order. Raises ShardError where files are missing or damaged."""
    index = directory / INDEX
    names = sorted(set(json.loads(index.read_text())["weight_map"].values())) if index.is_file() else [SINGLE]
    missing = [name for name in names if not (directory / name).is_file()]
    if missing:
        raise ShardError([f"{directory / name}: not there; the merge reads safetensors" for name in missing])
    return [source for name in names for source in _sources(directory / name)]


def _sources(file: Path) -> Iterator[Source]:
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header: dict[str, Any] = json.loads(stream.read(length))
    except (OSError, struct.error, ValueError, MemoryError) as error:
        raise ShardError(f"{file}: is no safetensors file, or is damaged: {error}") from None
    header.pop("__metadata__", None)
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"][0]):
        yield Source(name, file, entry["dtype"], tuple(entry["shape"]))


def stored_bytes(source: Source, dtype: torch.dtype) -> int:
    """Return a tensor's size once floats are stored as `dtype`."""
    count = 1
    for size in source.shape:
        count *= size
    return count * (SIZES_BYTES[NAMES[dtype]] if source.dtype in FLOATS else SIZES_BYTES[source.dtype])


def write(
    directory: Path,
    tensors: list[Source],
    dtype: torch.dtype,
    make: Callable[[Source], torch.Tensor],
    max_shard_bytes: int,
) -> None:
    """Write the checkpoint: shards of at most `max_shard_bytes` and, where there are several, their index.

    `make` gives each tensor when its turn has come; floats must come as `dtype`, others as stored.
    """
    plan = _plan(tensors, dtype, max_shard_bytes)
    names = (
        [SINGLE] if len(plan) == 1 else [f"model-{i + 1:05}-of-{len(plan):05}.safetensors" for i in range(len(plan))]
    )
    for name, part in zip(names, plan, strict=True):
        _write_shard(directory / name, part, dtype, make)
    if len(plan) > 1:
        weight_map = {source.name: name for name, part in zip(names, plan, strict=True) for source in part}
        total = sum(stored_bytes(source, dtype) for source in tensors)
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (directory / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _plan(tensors: list[Source], dtype: torch.dtype, max_shard_bytes: int) -> list[list[Source]]:
    shards: list[list[Source]] = [[]]
    used = 0
    for source in tensors:
        size = stored_bytes(source, dtype)
        if shards[-1] and used + size > max_shard_bytes:
            shards.append([])
            used = 0
        shards[-1].append(source)
        used += size
    return shards


def _write_shard(path: Path, part: list[Source], dtype: torch.dtype, make: Callable[[Source], torch.Tensor]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for source in part:
        end = offset + stored_bytes(source, dtype)
        stored = NAMES[dtype] if source.dtype in FLOATS else source.dtype
        header[source.name] = {"dtype": stored, "shape": list(source.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % HEADER_ALIGNMENT_BYTES)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)))
        file.write(text)
        for source in part:
            tensor = make(source).contiguous()
            file.write(tensor.reshape(-1).view(torch.uint8).numpy().data)
