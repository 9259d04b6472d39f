"""Convert a base with only .bin weights to safetensors, and cache the result."""

from __future__ import annotations

import pickle
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from burnish.bases.base import Base
from burnish.console import bar, say
from burnish.errors import UserError
from burnish.files import atomic_directory, cache_root, check_writable, first_line, read_json, remove_partial

from .shards import INDEX, NAMES, SINGLE, Stored, write

BIN_INDEX, BIN_SINGLE = "pytorch_model.bin.index.json", "pytorch_model.bin"
KEPT = ("*.json", "*.model", "*.jinja", "*.txt")
MAX_SHARD_BYTES = 4_000_000_000
HEAD = "lm_head.weight"  # a tied model's .bin file may contain it in addition to the embedding


class ConvertError(UserError):
    """Raised when a .bin checkpoint lacks a file, is damaged, or contains more than tensors."""


def with_safetensors(base: Base) -> Base:
    """Return the base with a path to safetensors weights: the base's own, or a copy converted from its .bin files.

    The copy takes as much disk space as the original. Raises ConvertError if a file is missing or can't be read.
    """
    if (base.path / SINGLE).is_file() or (base.path / INDEX).is_file():
        return base
    target = cache_root() / "bases" / f"{base.name}-{base.sha256[:16]}-safetensors"
    if not target.is_dir():
        files = _files(base.path)
        check_writable(target.parent, sum(f.stat().st_size for f in files), "converting .bin weights")
        say(f"base: converting {len(files)} .bin files once into {target}")
        remove_partial(target.parent)
        with atomic_directory(target) as directory:
            _convert(base.path, files, directory)
    return replace(base, path=target)


def _files(directory: Path) -> list[Path]:
    index = directory / BIN_INDEX
    names = sorted(set(read_json(index)["weight_map"].values())) if index.is_file() else [BIN_SINGLE]
    missing = [name for name in names if not (directory / name).is_file()]
    if missing:
        raise ConvertError([f"{directory / name} is missing; the base has no safetensors either" for name in missing])
    return [directory / name for name in names]


def _convert(base: Path, files: list[Path], target: Path) -> None:
    """Write the checkpoint into `target` with one tensor in memory at a time."""
    for pattern in KEPT:
        for path in base.glob(pattern):
            if path.name != BIN_INDEX:
                shutil.copyfile(path, target / path.name)
    tied = bool(read_json(base / "config.json").get("tie_word_embeddings"))
    tensors = {name: t for file in files for name, t in _load(file).items() if not (tied and name == HEAD)}
    stored = [Stored(name, NAMES[tensor.dtype], tuple(tensor.shape)) for name, tensor in tensors.items()]
    with bar("convert", len(stored)) as tick:
        done = 0

        def slices(wanted: Stored) -> Iterator[torch.Tensor]:
            nonlocal done
            yield tensors[wanted.name]
            done += 1
            tick(done, wanted.name)

        write(target, stored, slices, MAX_SHARD_BYTES)


def _load(file: Path) -> dict[str, torch.Tensor]:
    """Load only the tensors of one .bin file: other pickled objects could run code."""
    try:
        # files from torch before 1.6 are not zip archives and can't be memory-mapped, so they are read completely
        content: Any = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        reason = first_line(error, type(error).__name__)
        raise ConvertError(f"{file} can't be read as tensors only: {reason}") from None
    if not isinstance(content, dict) or not all(isinstance(t, torch.Tensor) for t in content.values()):
        raise ConvertError(f"{file} contains something other than named tensors")
    if unknown := {str(t.dtype) for t in content.values()} - {str(dtype) for dtype in NAMES}:
        raise ConvertError(f"{file} has {', '.join(sorted(unknown))} values, which are not supported")
    return content
