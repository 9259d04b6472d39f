"""The merge: W + scale · B·A, computed in float32 in slices of rows and stored in 16 bits, never in 4 bits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Container, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from burnish.console import Tick, say
from burnish.files import read_json
from burnish.tokenizers.llama_cpp import for_converter

from .adapter import Change, LoadedChange, open_adapter
from .adapter_config import MergeError
from .dequantize import DTYPES, AsTrained, Packed, Rows, unpack
from .shards import FLOATS, NAMES, Source, Stored, row_ranges, sources, write

FLOAT16_MAX = 65504.0
CODE = "auto_map"  # configuration key for classes in the model's own Python code
HEAD, EMBEDDING = "lm_head.weight", "embed_tokens.weight"


class _Overflow(Exception):
    """A merged value is out of float16's range."""


@dataclass(frozen=True)
class Merged:
    """One tensor of the merged checkpoint: its source and the adapter's change."""

    name: str
    source: Source | Packed
    change: Change | None

    def stored(self, dtype: str) -> Stored:
        """Return the stored tensor's description if floats are stored as `dtype`."""
        origin = self.origin
        return Stored(self.name, dtype if origin.dtype in FLOATS else origin.dtype, origin.shape)

    @property
    def origin(self) -> Source | Packed:
        """The tensor that supplies the initial values: the adapter's replacement, if any, else the base's."""
        return self.change.replacement if self.change and self.change.replacement else self.source


def merge(
    base: Path,
    adapter_directory: Path,
    target: Path,
    as_trained: AsTrained | None,
    dtype: str,
    max_shard_bytes: int,
    tick: Tick,
    tuned: bool = True,
) -> str:
    """Write the merged checkpoint's weights and config into `target`; return the stored dtype.

    Without `tuned`, the base is stored as it is, and only checked against the adapter's tokenizer.

    `as_trained` is the base as loaded for training (None: the original weights). If a merged value overflows float16,
    it is logged and bfloat16 is used. Raises MergeError if the adapter does not fit the base or can't be merged.
    """
    tensors, tied = _plan(base, open_adapter(adapter_directory, base) if tuned else {})
    config = _config(base, tensors, tied)
    _check_tokens(adapter_directory, tensors)
    stored = "float16" if dtype == "auto" else dtype
    try:
        _write(target, tensors, as_trained, stored, max_shard_bytes, tick)
    except _Overflow as overflow:
        if dtype != "auto":
            raise MergeError(f"merge.dtype float16: {overflow}; use bfloat16 or auto") from None
        say(f"merge: {overflow}: storing bfloat16")
        stored = "bfloat16"
        _write(target, tensors, as_trained, stored, max_shard_bytes, tick)
    (target / "config.json").write_text(json.dumps({**config, "dtype": stored}, indent=2) + "\n", encoding="utf-8")
    if (base / "generation_config.json").is_file():
        shutil.copyfile(base / "generation_config.json", target / "generation_config.json")
    return stored


def _plan(base: Path, changes: dict[str, Change]) -> tuple[list[Merged], bool]:
    """Return the merged checkpoint's tensors, and whether its head is tied to its embedding.

    A tied head stays tied only if the adapter changes both in the same way: in training, LoRA on one of them does not
    affect the other.
    """
    there = {tensor.name: tensor for tensor in unpack(sources(base))}
    changes = {_as_stored(name, there): change for name, change in changes.items()}
    embedding = next((name for name in there if name.endswith(EMBEDDING)), None)
    tied = embedding is not None and (HEAD not in there or _read_config(base).get("tie_word_embeddings") is True)
    if tied and embedding is not None:
        there.pop(HEAD, None)
        if _same_change(changes.get(embedding), changes.get(HEAD)):
            changes = {name: change for name, change in changes.items() if name != HEAD}
        else:
            tied = False
            there[HEAD] = replace(there[embedding], name=HEAD)
    missing = sorted(changes.keys() - there.keys())
    if missing:
        raise MergeError([f"{base} has no tensor '{name}', which the adapter changes" for name in missing])
    tensors = [Merged(name, tensor, changes.get(name)) for name, tensor in there.items()]
    if faults := [fault for tensor in tensors if (fault := _fault(tensor))]:
        raise MergeError([f"{base}: {fault}" for fault in faults])
    return tensors, tied


def _as_stored(name: str, there: Container[str]) -> str:
    """Return a tensor's name in the base; a base saved without its head (gpt2) lacks the model prefix."""
    bare = name.split(".", 1)[-1]
    return bare if name not in there and bare in there else name


def _same_change(embedding: Change | None, head: Change | None) -> bool:
    """Return whether a tied tensor's two changes are the same; PEFT saves trained token rows once for both."""
    if embedding is None or head is None:
        only = embedding or head
        return only is None or (head is None and only == Change(tokens=only.tokens, indices=only.indices))
    return embedding.open().equals(head.open())


def _fault(tensor: Merged) -> str:
    """Return why a tensor and its change don't match, or "" if they do."""
    change, shape = tensor.change, tensor.origin.shape
    if change is None:
        return ""
    if change.replacement is not None and (
        len(shape) != len(tensor.source.shape) or shape[1:] != tensor.source.shape[1:]
    ):
        return f"'{tensor.name}' has shape {list(tensor.source.shape)}, the adapter's has {list(shape)}"
    if change.left is not None and change.right is not None:
        m, n = (
            (change.left.shape[-1], change.right.shape[0])
            if change.transposed
            else (change.left.shape[0], change.right.shape[-1])
        )
        if (m, n) != shape:
            return f"'{tensor.name}' has shape {list(shape)}, the adapter's B·A has {[m, n]}"
    if change.indices and max(change.indices) >= shape[0]:
        return f"'{tensor.name}' has {shape[0]} rows, but the adapter trains row {max(change.indices)}"
    return ""


def _check_tokens(adapter: Path, tensors: list[Merged]) -> None:
    """Raise MergeError if head and embedding differ in row count, or an adapter tokenizer's token has no row."""
    rows = {t.name: t.origin.shape[0] for t in tensors if t.name == HEAD or t.name.endswith(EMBEDDING)}
    if len(set(rows.values())) > 1:
        sizes = ", ".join(f"{name} {count}" for name, count in rows.items())
        raise MergeError(f"{adapter}: the vocabulary was resized in only one place ({sizes}): save both in the adapter")
    path = adapter / "tokenizer.json"
    if not rows or not path.is_file():
        return
    try:
        added = read_json(path).get("added_tokens") or []
        last = max(added, key=lambda token: int(token["id"]), default=None)
    except (AttributeError, TypeError, KeyError, ValueError):
        raise MergeError(f"{path} is not a tokenizer: added_tokens can't be read; restore the file") from None
    if last and last["id"] >= min(rows.values()):
        raise MergeError(
            f"{adapter}: token '{last['content']}' has id {last['id']}, the model has {min(rows.values())} rows: train"
            " and save the resized embeddings with the adapter (modules_to_save: embed_tokens, lm_head)"
        )


def _write(
    target: Path, tensors: list[Merged], as_trained: AsTrained | None, dtype: str, max_shard_bytes: int, tick: Tick
) -> None:
    by_name = {tensor.name: tensor for tensor in tensors}
    stored = NAMES[DTYPES[dtype]]
    done = 0

    def slices(wanted: Stored) -> Iterator[torch.Tensor]:
        nonlocal done
        tensor = by_name[wanted.name]
        yield from _slices(tensor, wanted.dtype, as_trained)
        done += 1
        tick(done, tensor.name)

    write(target, [tensor.stored(stored) for tensor in tensors], slices, max_shard_bytes)


def _slices(tensor: Merged, dtype: str, as_trained: AsTrained | None) -> Iterator[torch.Tensor]:
    """Yield the merged tensor in slices of rows, in the stored dtype."""
    origin = tensor.origin
    rows = _origin_rows(tensor, as_trained)
    change = tensor.change.open() if tensor.change else None
    for start, stop in row_ranges(origin):
        values = rows(start, stop)
        if origin.dtype in FLOATS:
            values = _stored(tensor.name, _changed(change, values, start), dtype)
        yield values


def _changed(change: LoadedChange | None, values: torch.Tensor, start: int) -> torch.Tensor:
    return change.apply_to(values.float(), start) if change else values


def _origin_rows(tensor: Merged, as_trained: AsTrained | None) -> Rows:
    """Return a function that reads the rows before the change: the base's as in training, or the adapter's."""
    origin = tensor.origin
    if isinstance(origin, Packed):
        return origin.open().rows
    if as_trained is None or origin is not tensor.source or origin.dtype not in FLOATS:
        return origin.slice
    return as_trained.rows(origin)


def _stored(name: str, values: torch.Tensor, dtype: str) -> torch.Tensor:
    """Convert values to the stored dtype. Raises _Overflow if one exceeds float16, MergeError for NaN or infinity."""
    target = DTYPES["float16"] if dtype == "F16" else DTYPES["bfloat16"]
    low, high = torch.aminmax(values)
    largest = max(-float(low), float(high))
    if not largest <= torch.finfo(torch.bfloat16).max:  # comparisons with NaN are false
        raise MergeError(f"'{name}' has a NaN or an infinity: the weights of the base or of the adapter are damaged")
    if values.dtype == target:
        return values
    if dtype == "F16" and largest > FLOAT16_MAX:
        raise _Overflow(f"{name} has the value {largest:.3g}, above float16's largest ({FLOAT16_MAX:.0f})")
    return values.to(target)


def _read_config(base: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((base / "config.json").read_text(encoding="utf-8"))
    return config


def _config(base: Path, tensors: list[Merged], tied: bool) -> dict[str, Any]:
    """Return the base's config for the merged weights: without quantization, with tying and vocabulary size updated."""
    config = for_converter(_read_config(base))
    config.pop("quantization_config", None)
    config.pop(CODE, None)
    config.pop("torch_dtype", None)
    resized = next((t.origin.rows for t in tensors if t.name.endswith(EMBEDDING) and t.origin is not t.source), None)
    if resized is not None and "vocab_size" in config:
        config["vocab_size"] = resized
    if not tied and any(tensor.name == HEAD for tensor in tensors):
        config["tie_word_embeddings"] = False
    return config
