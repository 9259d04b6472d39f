"""The base as an adapter saw it while training: cast to the load dtype, quantized to NF4 and dequantized."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from burnish.run import TrainRecord
from export.adapter import MergeError
from export.shards import NAMES, Source, Stored

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
NF4_BLOCK = 64
STATE = ".quant_state.bitsandbytes__nf4"
STATE_PARTS = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")


@dataclass(frozen=True)
class AsTrained:
    """How training held the base. Every linear layer that training quantized is quantized, not only the targets."""

    load_dtype: torch.dtype
    nf4: bool
    double_quant: bool
    skipped: frozenset[str]

    def quantizes(self, tensor: Stored) -> bool:
        """Whether training held this tensor in NF4: then only the whole of it can be dequantized."""
        return self.nf4 and len(tensor.shape) == 2 and tensor.name.removesuffix(".weight") not in self.skipped

    def cast(self, rows: torch.Tensor) -> torch.Tensor:
        """Return rows of a tensor that training did not quantize, float32."""
        return rows.to(self.load_dtype).float()

    def dequantized(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a whole tensor quantized again from the load dtype, as training did, and dequantized, float32."""
        import bitsandbytes.functional as bnb

        quantized, state = bnb.quantize_4bit(
            tensor.to(self.load_dtype).contiguous(),
            blocksize=NF4_BLOCK,
            quant_type="nf4",
            compress_statistics=self.double_quant,
        )
        weight: torch.Tensor = bnb.dequantize_4bit(quantized, state)
        return weight.float().reshape(tensor.shape)


def dequantizer(record: TrainRecord) -> AsTrained:
    """Return how the run's training held its base."""
    nf4 = record.quantization == "nf4"
    return AsTrained(DTYPES[record.load_dtype], nf4, record.double_quant, frozenset(record.skipped_modules))


@dataclass(frozen=True)
class Packed(Stored):
    """A tensor that the checkpoint itself stores in NF4, with its scales; shape and dtype are the weight's."""

    packed: Source
    parts: dict[str, Source]

    def read(self) -> torch.Tensor:
        """Return the whole weight dequantized, as bitsandbytes computes with it."""
        import bitsandbytes.functional as bnb

        state = bnb.QuantState.from_dict({k: v.read() for k, v in self.parts.items()}, device=torch.device("cpu"))
        weight: torch.Tensor = bnb.dequantize_4bit(self.packed.read(), state)
        return weight.reshape(self.shape)


def unpack(tensors: Sequence[Source]) -> list[Source | Packed]:
    """Return a checkpoint's tensors, each NF4 weight and its scales as one. Raises MergeError where scales lack."""
    by_name = {tensor.name: tensor for tensor in tensors}
    weights = {name.removesuffix(STATE) for name in by_name if name.endswith(STATE)}
    parts = {f"{weight}{part}" for weight in weights for part in (STATE, *(f".{p}" for p in STATE_PARTS))}
    return [_packed(by_name, t) if t.name in weights else t for t in tensors if t.name not in parts]


def _packed(by_name: dict[str, Source], tensor: Source) -> Packed:
    import bitsandbytes.utils as bnb

    names = [f"{tensor.name}{STATE}", *(f"{tensor.name}.{part}" for part in STATE_PARTS)]
    parts = {name: by_name[name] for name in names if name in by_name}
    if f"{tensor.name}.absmax" not in parts or f"{tensor.name}.quant_map" not in parts:
        raise MergeError(f"{tensor.file}: '{tensor.name}' is stored in NF4 without its scales")
    state: dict[str, Any] = bnb.unpack_tensor_to_dict(parts[names[0]].read())
    return Packed(tensor.name, NAMES[getattr(torch, state["dtype"])], tuple(state["shape"]), tensor, parts)
