"""Read a LoRA adapter: its change to each base tensor, or why it can't be merged."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from . import adapter_config
from .adapter_config import MergeError
from .conv1d import conv1d_modules
from .shards import FLOATS, Source, file_sources, row_ranges

PREFIX = "base_model.model."
WEIGHTS = "adapter_model.safetensors"
SUFFIXES = {
    ".lora_A.weight": "a", ".lora_B.weight": "b", ".lora_B.bias": "b_bias", ".lora_embedding_A": "embedding_a",
    ".lora_embedding_B": "embedding_b", ".lora_magnitude_vector": "magnitude",
    ".lora_magnitude_vector.weight": "magnitude", ".token_adapter.trainable_tokens_delta": "tokens",
}  # fmt: skip


@dataclass(frozen=True)
class Change:
    """An adapter's change to one base tensor W [m, n]; parts that are not None apply in this order.

    `replacement` replaces W. `left` [m, r] and `right` [r, n]: W += scale * left @ right (stored transposed if the
    module is an embedding or a Conv1D). `magnitude` [m], DoRA: each row is scaled to that norm
    (https://arxiv.org/abs/2402.09353, equation 5). `tokens` replace the rows `indices`. scale * `bias_delta` [m] is
    added to a bias.
    """

    replacement: Source | None = None
    left: Source | None = None
    right: Source | None = None
    transposed: bool = False
    scale: float = 1.0
    magnitude: Source | None = None
    tokens: Source | None = None
    indices: tuple[int, ...] = ()
    bias_delta: Source | None = None

    def open(self) -> LoadedChange:
        """Read the parts in float32, except `replacement`, which is read in slices like a base tensor."""

        def values(source: Source | None) -> torch.Tensor | None:
            return None if source is None else source.read().float()

        left, right = values(self.left), values(self.right)
        if left is not None and right is not None and self.transposed:
            left, right = left.T, right.T
        return LoadedChange(self, left, right, values(self.magnitude), values(self.tokens), values(self.bias_delta))


@dataclass(frozen=True)
class LoadedChange:
    """A change with its parts loaded in float32."""

    change: Change
    left: torch.Tensor | None
    right: torch.Tensor | None
    magnitude: torch.Tensor | None
    tokens: torch.Tensor | None
    bias_delta: torch.Tensor | None

    def apply_to(self, rows: torch.Tensor, start: int) -> torch.Tensor:
        """Apply the change in place to rows [start, start + len(rows)) of the base tensor, and return them."""
        stop = start + rows.shape[0]
        if self.left is not None and self.right is not None:
            rows.add_(torch.mm(self.left[start:stop], self.right).mul_(self.change.scale))
        if self.magnitude is not None:
            rows.mul_((self.magnitude[start:stop] / torch.linalg.norm(rows, dim=1))[:, None])
        if self.bias_delta is not None:
            rows.add_(self.bias_delta[start:stop] * self.change.scale)
        if self.tokens is not None:
            for index, row in zip(self.change.indices, self.tokens, strict=True):
                if start <= index < stop:
                    rows[index - start] = row
        return rows

    def equals(self, other: LoadedChange) -> bool:
        """Return whether both changes have the same effect on a tensor."""
        mine, theirs = self.change, other.change
        if (mine.scale, mine.indices) != (theirs.scale, theirs.indices) or not _same(
            mine.replacement, theirs.replacement
        ):
            return False
        pairs = (
            (self.left, other.left),
            (self.right, other.right),
            (self.magnitude, other.magnitude),
            (self.tokens, other.tokens),
        )
        return all(
            (a is None and b is None) or (a is not None and b is not None and torch.equal(a, b)) for a, b in pairs
        )


@dataclass
class _Parts:
    """One module's tensors in the adapter file."""

    a: Source | None = None
    b: Source | None = None
    b_bias: Source | None = None
    embedding_a: Source | None = None
    embedding_b: Source | None = None
    magnitude: Source | None = None
    tokens: Source | None = None
    tensors: dict[str, Source] = field(default_factory=dict)


def open_adapter(directory: Path, base: Path) -> dict[str, Change]:
    """Return the adapter's changes by base tensor name. Raises MergeError if the adapter can't be merged."""
    config = adapter_config.read(directory)
    conv1d = conv1d_modules(base, config)
    modules: dict[str, _Parts] = defaultdict(_Parts)
    wholes: dict[str, Source] = {}
    for source in file_sources(directory / WEIGHTS):
        if source.dtype not in FLOATS:
            raise MergeError(
                f"{directory / WEIGHTS}: '{source.name}': expected a floating-point dtype, got {source.dtype}"
            )
        name = source.name.removeprefix(PREFIX)
        suffix = next((s for s in SUFFIXES if name.endswith(s)), None)
        if suffix:
            setattr(modules[name.removesuffix(suffix)], SUFFIXES[suffix], source)
        elif ".lora_" in name:
            raise MergeError(f"{directory / WEIGHTS}: tensor '{source.name}' can't be merged")
        elif ".original_module." not in name and ".modules_to_save." not in name:
            # with a resized vocabulary, PEFT saves these copies besides the trained module under its plain name
            wholes[name.replace(".token_adapter.", ".").replace(".base_layer.", ".")] = source
    _check_saved(directory, config, wholes)
    changes = {name: Change(replacement=source) for name, source in wholes.items()}
    for module, parts in modules.items():
        for name, change in _module_changes(directory, config, module, parts, module in conv1d).items():
            whole = wholes.get(name)
            changes[name] = change if whole is None else replace(change, replacement=whole)
    return changes


def _check_saved(directory: Path, config: dict[str, Any], wholes: dict[str, Source]) -> None:
    """Raise MergeError if a module in modules_to_save is missing from the file."""
    modules = [name.rsplit(".", 1)[0] for name in wholes]
    faults = [
        f"{directory / WEIGHTS}: modules_to_save names '{saved}', whose trained weights are missing"
        for saved in config.get("modules_to_save") or []
        if not any(module == saved or module.endswith(f".{saved}") for module in modules)
    ]
    if faults:
        raise MergeError(faults)


def _module_changes(
    directory: Path, config: dict[str, Any], module: str, parts: _Parts, conv1d: bool
) -> dict[str, Change]:
    """Return the changes to one module's weight and bias."""
    a, b, embedding = parts.a, parts.b, False
    if parts.embedding_a is not None:
        a, b, embedding = parts.embedding_a, parts.embedding_b, True
    where = f"{directory / WEIGHTS}: {module}"
    if (a is None) != (b is None) or (parts.magnitude is not None and a is None):
        raise MergeError(f"{where}: one of LoRA's two matrices is missing")
    if config.get("use_dora") and a is not None and not embedding and parts.magnitude is None:
        raise MergeError(f"{where}: DoRA's magnitudes are missing")
    if embedding and config.get("use_dora"):  # DoRA scales an embedding's columns over the whole vocabulary
        raise MergeError(f"{where}: merging DoRA of an embedding is not supported")
    if conv1d and parts.magnitude is not None:
        raise MergeError(f"{where}: merging DoRA of a Conv1D is not supported")
    _check_shapes(where, config, module, parts, a, b)
    if a is not None and parts.tokens is not None:
        raise MergeError(f"{where}: merging LoRA and trained token rows on one embedding is not supported")
    scale = 1.0
    if a is not None:
        rank, alpha = a.shape[0], _pattern(config.get("alpha_pattern") or {}, module, config["lora_alpha"])
        scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    made = Change(
        left=a if embedding or conv1d else b,
        right=b if embedding or conv1d else a,
        transposed=embedding or conv1d,
        scale=scale,
        magnitude=parts.magnitude,
        tokens=parts.tokens,
        indices=_token_indices(config, module) if parts.tokens else (),
    )
    if parts.tokens is not None and len(made.indices) != parts.tokens.shape[0]:
        raise MergeError(
            f"{where}: {parts.tokens.shape[0]} token rows are trained, adapter_config.json names {len(made.indices)}"
        )
    changes = {f"{module}.weight": made}
    if parts.b_bias is not None:
        changes[f"{module}.bias"] = Change(bias_delta=parts.b_bias, scale=scale)
    return changes


def _check_shapes(
    where: str, config: dict[str, Any], module: str, parts: _Parts, a: Source | None, b: Source | None
) -> None:
    """Raise MergeError if a module's tensors have wrong shapes."""
    if a is not None and b is not None:
        ranks = a.shape[:1], b.shape[-1:]
        rank = _pattern(config.get("rank_pattern") or {}, module, config["r"])
        if len(a.shape) != 2 or len(b.shape) != 2 or ranks != ((rank,), (rank,)):
            raise MergeError(
                f"{where}: LoRA's matrices have shapes {list(a.shape)} and {list(b.shape)}, by adapter_config.json they"
                f" should have [{rank}, n] and [m, {rank}]"
            )
    for one in (parts.magnitude, parts.b_bias):
        if one is not None and (b is None or one.shape != b.shape[:1]):
            raise MergeError(
                f"{where}: '{one.name}': expected one number per row of the layer, got shape {list(one.shape)}"
            )
    if parts.tokens is not None and len(parts.tokens.shape) != 2:
        raise MergeError(f"{where}: trained token rows: expected a matrix, got shape {list(parts.tokens.shape)}")


def _pattern(pattern: dict[str, Any], module: str, default: Any) -> Any:
    """Return the value of the first pattern that matches the end of the module name, as PEFT does."""
    return next((value for key, value in pattern.items() if re.match(rf"(.*\.)?({key})$", module)), default)


def _token_indices(config: dict[str, Any], module: str) -> tuple[int, ...]:
    found = config.get("trainable_token_indices") or []
    if isinstance(found, dict):
        named = (i for key, i in found.items() if module == key or module.endswith(f".{key}") or len(found) == 1)
        found = next(named, [])
    return tuple(found)


def _same(a: Source | None, b: Source | None) -> bool:
    """Return whether two stored tensors are equal, comparing slice by slice."""
    if a is None or b is None:
        return a is b
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    return all(torch.equal(a.slice(s, e), b.slice(s, e)) for s, e in row_ranges(a))
