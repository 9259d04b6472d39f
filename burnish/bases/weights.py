"""Check the headers of a checkpoint's weight files for LFS pointers, truncated files and a broken index.

No weights are read: a safetensors header contains every tensor's end offset
(https://github.com/huggingface/safetensors), and a .bin file is a zip archive with its directory at the end.
"""

from __future__ import annotations

import json
import struct
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..console import listed
from ..files import open_regular, read_regular

POINTER = b"version https://git-lfs.github.com/spec/"
MAX_POINTER_BYTES = 1024  # https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
BIN_SINGLE, BIN_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library
LENGTH_BYTES = 8
ZIP, PICKLE = b"PK\x03\x04", b"\x80"
SMALL = (".json", ".model", ".jinja", ".txt", ".py")
FETCH = "restore the file, or download it again"
SHOWN = 3


@dataclass
class Weights:
    """Header contents: each tensor's shape by name (none for .bin files), and one line per error.

    `way` is the remedy appended to each error; `pointers` lists the Git LFS pointer files.
    """

    way: str = FETCH
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    pointers: list[str] = field(default_factory=list)


def examine(directory: Path, way: str = FETCH) -> Weights:
    """Read the headers of the weight files that transformers would load."""
    found = Weights(way)
    small = sorted(path for path in directory.iterdir() if path.suffix in SMALL)
    found.pointers += [path.name for path in small if is_pointer(path)]
    if (directory / INDEX).is_file():
        _indexed(directory / INDEX, found)
    elif (directory / SINGLE).is_file():
        _safetensors(directory / SINGLE, found)
    elif (directory / BIN_INDEX).is_file():
        _indexed(directory / BIN_INDEX, found)
    elif (directory / BIN_SINGLE).is_file():
        _bin(directory / BIN_SINGLE, found)
    else:
        there = [path.name for path in sorted(directory.iterdir()) if path.suffix in (".safetensors", ".bin")]
        found.faults.append(f"{directory}: no {SINGLE}, {BIN_SINGLE} or {INDEX}; found: {listed(there, SHOWN)}")
    if found.pointers:
        what = "is a Git LFS pointer" if len(found.pointers) == 1 else "are Git LFS pointers"
        found.faults.append(
            f"{directory}: {listed(found.pointers, SHOWN)} {what}, not the model's files: run `git lfs pull`"
            " in the clone, or download the model again"
        )
    return found


def is_pointer(path: Path) -> bool:
    """Return whether a file is a Git LFS pointer, as in a clone made without git-lfs."""
    try:
        if not path.is_file() or path.stat().st_size > MAX_POINTER_BYTES:
            return False
        with path.open("rb") as file:
            return file.read(len(POINTER)) == POINTER
    except OSError:
        return False


def gguf_fault(path: Path) -> str:
    """Return the error in a .gguf file's first bytes, or ""."""
    if is_pointer(path):
        return f"{path} is a Git LFS pointer, not the file itself: run `git lfs pull`, or download it again"
    with open_regular(path) as file:
        begin = file.read(4)
    return "" if begin == b"GGUF" else f"{path} is not a GGUF file: it starts with {begin!r}; {FETCH}"


def _indexed(index: Path, found: Weights) -> None:
    """Read the files listed in an index, and compare their tensors with the index."""
    if index.name in found.pointers:
        return
    try:
        content = json.loads(read_regular(index))
        names = content["weight_map"]
        if not names or not all(isinstance(name, str) for name in names.values()):
            raise ValueError("weight_map names no files")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = "no weight_map" if isinstance(error, KeyError | TypeError | AttributeError) else str(error)
        found.faults.append(f"{index}: the weights' index can't be used: {reason}; {found.way}")
        return
    tensors: dict[str, list[str]] = defaultdict(list)
    for tensor, name in names.items():
        tensors[name].append(tensor)
    for name, wanted in sorted(tensors.items()):
        path = index.parent / name
        if path.name != name:
            found.faults.append(f"{index} names '{name}', which is not in the same directory: {found.way}")
        elif not path.is_file():
            found.faults.append(f"{index} names {name}, which is missing: {found.way}")
        elif path.suffix == ".safetensors":
            held = _safetensors(path, found)
            if held is not None and (missing := sorted(set(wanted) - held)):
                found.faults.append(
                    f"{index}: {listed(missing, SHOWN)} should be in {name}, but"
                    f" {'is' if len(missing) == 1 else 'are'} not: index and files are from different downloads;"
                    f" {found.way}"
                )
        else:
            _bin(path, found)


def _safetensors(path: Path, found: Weights) -> set[str] | None:
    """Read one file's header into `found`; return its tensors, or None if the file is damaged."""
    if is_pointer(path):
        found.pointers.append(path.name)
        return None
    try:
        shapes, end = _header(path)
    except (OSError, ValueError, RecursionError) as error:
        found.faults.append(f"{path} is not a safetensors file, or its header is damaged: {error}; {found.way}")
        return None
    size = path.stat().st_size
    if size != end:
        what = "is truncated" if size < end else "is damaged"
        found.faults.append(f"{path} {what}: expected {end:,} bytes by its header, got {size:,}; {found.way}")
        return None
    found.shapes |= shapes
    return set(shapes)


def _header(path: Path) -> tuple[dict[str, tuple[int, ...]], int]:
    """Return the tensor shapes and the expected file size in bytes. Raises ValueError stating the problem."""
    with open_regular(path) as file:
        begin = file.read(LENGTH_BYTES)
        if len(begin) < LENGTH_BYTES:
            raise ValueError(f"only {len(begin)} bytes")
        (length,) = struct.unpack("<Q", begin)
        if length > MAX_HEADER_BYTES:
            raise ValueError(f"expected a valid header length at the start, got {begin!r}")
        text = file.read(length)
    if len(text) < length:
        raise ValueError(f"the file ends inside its header of {length:,} bytes")
    tensors = dict(_tensors(json.loads(text)))
    end = max((stop for _, stop in tensors.values()), default=0)
    return {name: shape for name, (shape, _) in tensors.items()}, LENGTH_BYTES + length + end


def _tensors(header: Any) -> Iterator[tuple[str, tuple[tuple[int, ...], int]]]:
    if not isinstance(header, dict):
        raise ValueError("its header is not a JSON object")
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        try:
            yield name, (tuple(map(int, entry["shape"])), int(entry["data_offsets"][1]))
        except (TypeError, KeyError, IndexError):
            raise ValueError(f"its header has no shape or offsets for '{name}'") from None


def _bin(path: Path, found: Weights) -> None:
    """Check that a .bin file is a complete zip archive; pickles from torch before 1.6 don't store their length."""
    if is_pointer(path):
        found.pointers.append(path.name)
        return
    with open_regular(path) as file:
        begin = file.read(4)
    if begin == ZIP:
        if not zipfile.is_zipfile(path):  # looks for the archive directory at the end
            found.faults.append(f"{path} is truncated: the directory at its end is missing; {found.way}")
    elif not begin.startswith(PICKLE):
        what = f"starts with {begin!r}" if begin else "is empty"
        found.faults.append(f"{path} was not written by torch.save: it {what}; {found.way}")
