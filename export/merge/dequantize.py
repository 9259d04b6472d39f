"""The base as loaded for training: cast to the load dtype, quantized to NF4 and dequantized."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch

from burnish.records import TrainRecord

from .adapter_config import MergeError
from .shards import NAMES, Source, Stored, row_ranges

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
NF4_BLOCK, SCALES_BLOCK = 64, 256  # values; as in bitsandbytes and QLoRA (https://arxiv.org/abs/2305.14314)
STATE = ".quant_state.bitsandbytes__nf4"
STATE_PARTS = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")

Rows = Callable[[int, int], torch.Tensor]  # (start, stop) -> rows


@dataclass(frozen=True)
class Nf4:
    """One weight in NF4: two values per byte [n / 2], and a float32 scale for every 64 values [n / 64].

    Slices are dequantized separately, so that the whole weight is never held in 16 or 32 bits.
    """

    packed: torch.Tensor
    scales: torch.Tensor
    shape: tuple[int, ...]
    dtype: torch.dtype

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Return rows [start, stop) dequantized; `start` is a multiple of 64."""
        import bitsandbytes.functional as bnb

        row_values = prod(self.shape[1:])
        begin, end = start * row_values, stop * row_values
        scales = self.scales[begin // NF4_BLOCK : -(-end // NF4_BLOCK)]
        state = bnb.QuantState(
            absmax=scales, shape=torch.Size((stop - start, *self.shape[1:])), dtype=self.dtype, blocksize=NF4_BLOCK,
            quant_type="nf4", code=bnb.get_4bit_type("nf4", device="cpu"),
        )  # fmt: skip
        values: torch.Tensor = bnb.dequantize_4bit(self.packed[begin // 2 : -(-end // 2)].unsqueeze(1), state)
        return values.reshape(stop - start, *self.shape[1:])


@dataclass(frozen=True)
class AsTrained:
    """The base as loaded for training. Every linear layer quantized in training is quantized, not only the targets."""

    load_dtype: torch.dtype
    nf4: bool
    double_quant: bool
    skipped: frozenset[str]

    def rows(self, tensor: Source) -> Rows:
        """Return a function that reads rows as in training: cast to the load dtype and, if quantized, through NF4."""
        if self.nf4 and len(tensor.shape) == 2 and tensor.name.removesuffix(".weight") not in self.skipped:
            return self.quantized(tensor).rows
        return lambda start, stop: tensor.slice(start, stop).to(self.load_dtype).float()

    def quantized(self, tensor: Source) -> Nf4:
        """Quantize a tensor as in training. Slicing does not change the result, since blocks have 64 values."""
        import bitsandbytes.functional as bnb

        packed, scales = [], []
        for start, stop in row_ranges(tensor):
            values = tensor.slice(start, stop).to(self.load_dtype)
            quantized, state = bnb.quantize_4bit(values, blocksize=NF4_BLOCK, quant_type="nf4")
            packed.append(quantized.reshape(-1))
            scales.append(state.absmax)
        whole = torch.cat(scales)
        if self.double_quant:
            # the scales are quantized too, around their mean over the whole tensor
            offset = whole.mean()
            whole = bnb.dequantize_blockwise(*bnb.quantize_blockwise(whole - offset, blocksize=SCALES_BLOCK)) + offset
        return Nf4(torch.cat(packed), whole, tensor.shape, self.load_dtype)


def dequantizer(record: TrainRecord) -> AsTrained:
    """Return the base as loaded for the run's training."""
    nf4 = record.quantization == "nf4"
    return AsTrained(DTYPES[record.load_dtype], nf4, record.double_quant, frozenset(record.skipped_modules))


@dataclass(frozen=True)
class Packed(Stored):
    """A tensor stored in NF4 in a checkpoint, with its scales; shape and dtype describe the dequantized weight."""

    packed: Source
    parts: dict[str, Source]

    def open(self) -> Nf4:
        """Read the weight, dequantizing its scales if they are quantized."""
        import bitsandbytes.functional as bnb

        state = bnb.QuantState.from_dict({k: v.read() for k, v in self.parts.items()}, device=torch.device("cpu"))
        scales = bnb.dequantize_blockwise(state.absmax, state.state2) + state.offset if state.nested else state.absmax
        return Nf4(self.packed.read().reshape(-1).view(torch.uint8), scales, self.shape, state.dtype)


def unpack(tensors: Sequence[Source]) -> list[Source | Packed]:
    """Return a checkpoint's tensors, NF4 weights joined to their scales. Raises MergeError if scales are missing."""
    by_name = {tensor.name: tensor for tensor in tensors}
    weights = {name.removesuffix(STATE) for name in by_name if name.endswith(STATE)}
    parts = {f"{weight}{part}" for weight in weights for part in (STATE, *(f".{p}" for p in STATE_PARTS))}
    return [_packed(by_name, t) if t.name in weights else t for t in tensors if t.name not in parts]


def _packed(by_name: dict[str, Source], tensor: Source) -> Packed:
    import bitsandbytes.utils as bnb

    names = [f"{tensor.name}{STATE}", *(f"{tensor.name}.{part}" for part in STATE_PARTS)]
    parts = {name: by_name[name] for name in names if name in by_name}
    if f"{tensor.name}.absmax" not in parts or f"{tensor.name}.quant_map" not in parts:
        raise MergeError(f"{tensor.file}: '{tensor.name}' is stored in NF4 without scales")
    state: dict[str, Any] = bnb.unpack_tensor_to_dict(parts[names[0]].read())
    if state["blocksize"] != NF4_BLOCK:
        raise MergeError(
            f"{tensor.file}: '{tensor.name}': expected NF4 blocks of {NF4_BLOCK} values, got {state['blocksize']}"
        )
    return Packed(tensor.name, NAMES[getattr(torch, state["dtype"])], tuple(state["shape"]), tensor, parts)
