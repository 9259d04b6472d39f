"""The merge: W + scale · B·A in float32, tensor by tensor, stored in 16 bits. Never into 4-bit weights."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from burnish.console import Tick, say
from burnish.errors import UserError
from burnish.run import TrainRecord
from export.shards import FLOATS, Source, sources, write

PREFIX = "base_model.model."
FLOAT16_MAX = 65504.0
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
NF4_BLOCK = 64


class MergeError(UserError):
    """An adapter that can't be merged onto this base, with the reason."""


class _Overflow(Exception):
    """A merged value that float16 can't hold."""


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter opened for reading. `scale` is alpha/r, or alpha/sqrt(r) for rank-stabilised LoRA.

    `deltas` maps a base weight's name to its module's prefix in the adapter file; `biases` maps a base bias's name to
    the adapter's key that replaces it.
    """

    file: Path
    scale: float
    deltas: dict[str, str]
    biases: dict[str, str]

    def delta(self, weight: str) -> torch.Tensor:
        """Return scale · B·A of one weight, float32, of the weight's shape."""
        prefix = self.deltas[weight]
        with safe_open(self.file, framework="pt") as tensors:
            a = tensors.get_tensor(f"{prefix}.lora_A.weight").float()
            b = tensors.get_tensor(f"{prefix}.lora_B.weight").float()
        return torch.mm(b, a).mul_(self.scale)

    def bias(self, name: str) -> torch.Tensor:
        """Return a trained bias, float32."""
        with safe_open(self.file, framework="pt") as tensors:
            bias: torch.Tensor = tensors.get_tensor(self.biases[name])
            return bias.float()


def open_adapter(directory: Path) -> Adapter:
    """Read an adapter's config and keys. Raises MergeError with every reason why it can't be merged."""
    config = json.loads((directory / "adapter_config.json").read_text(encoding="utf-8"))
    faults = [
        f"{directory}: {key} is set: {reason}"
        for key, reason in (
            ("use_dora", "DoRA rescales whole weights; this merge adds B·A only"),
            ("modules_to_save", "whole trained modules are not merged"),
            ("rank_pattern", "ranks that differ by layer are not merged"),
            ("alpha_pattern", "scales that differ by layer are not merged"),
            ("fan_in_fan_out", "transposed weights (Conv1D) are not merged"),
        )
        if config.get(key)
    ]
    if config.get("peft_type") != "LORA":
        faults.append(f"{directory}: peft_type is {config.get('peft_type')}: only LORA is merged")
    if config.get("init_lora_weights", True) not in (True, False, "gaussian"):
        faults.append(f"{directory}: init_lora_weights {config['init_lora_weights']}: it rewrote the base's weights")
    if faults:
        raise MergeError(faults)
    file = directory / "adapter_model.safetensors"
    with safe_open(file, framework="pt") as tensors:
        keys = set(tensors.keys())
    prefixes = {key.removesuffix(".lora_A.weight") for key in keys if key.endswith(".lora_A.weight")}
    biases = {key.removeprefix(PREFIX).replace(".base_layer.", "."): key for key in keys if key.endswith(".bias")}
    known = {f"{p}.lora_{x}.weight" for p in prefixes for x in "AB"} | set(biases.values())
    if keys - known:
        raise MergeError([f"{file}: tensor '{key}' has no place in a merge" for key in sorted(keys - known)])
    rank = config["r"]
    scale = config["lora_alpha"] / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return Adapter(file, scale, {f"{p.removeprefix(PREFIX)}.weight": p for p in prefixes}, biases)


def dequantizer(record: TrainRecord) -> Callable[[str, torch.Tensor], torch.Tensor]:
    """Return what gives a base weight as the adapter saw it while training: (name, stored tensor) → float32.

    For NF4 the weight is quantized again from the same load dtype, as training did, and dequantized; every linear
    layer that training quantized is, not only the adapter's targets.
    """
    load_dtype = DTYPES[record.load_dtype]
    if record.quantization == "none":
        return lambda name, tensor: tensor.to(load_dtype).float()
    import bitsandbytes.functional as bnb

    skipped = set(record.skipped_modules)

    def nf4(name: str, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dim() != 2 or name.removesuffix(".weight") in skipped:
            return tensor.to(load_dtype).float()
        quantized, state = bnb.quantize_4bit(
            tensor.to(load_dtype).contiguous(),
            blocksize=NF4_BLOCK,
            quant_type="nf4",
            compress_statistics=record.double_quant,
        )
        weight: torch.Tensor = bnb.dequantize_4bit(quantized, state)
        return weight.float().reshape(tensor.shape)

    return nf4


def merge(
    base: Path,
    adapter_directory: Path,
    target: Path,
    as_trained: Callable[[str, torch.Tensor], torch.Tensor] | None,
    dtype: str,
    max_shard_bytes: int,
    tick: Tick,
) -> str:
    """Write the merged checkpoint's weights and config into `target`; returns the dtype they are stored in.

    `as_trained` is applied to each base tensor first (None: the original weights). float16 falls back to bfloat16 when
    a merged value overflows it, and says which. Raises MergeError where the adapter names weights that are not there.
    """
    adapter, tensors = open_adapter(adapter_directory), sources(base)
    there = {source.name for source in tensors}
    missing = sorted((set(adapter.deltas) | set(adapter.biases)) - there)
    if missing:
        raise MergeError([f"{base}: has no tensor '{name}', which the adapter changes" for name in missing])
    stored = "float16" if dtype == "auto" else dtype
    try:
        _write(target, tensors, adapter, as_trained, stored, max_shard_bytes, tick)
    except _Overflow as overflow:
        if dtype != "auto":
            raise MergeError(f"merge.dtype float16: {overflow}; use bfloat16 or auto") from None
        say(f"merge: {overflow}: storing bfloat16")
        stored = "bfloat16"
        _write(target, tensors, adapter, as_trained, stored, max_shard_bytes, tick)
    _write_config(base, target, stored)
    return stored


def _write(
    target: Path,
    tensors: list[Source],
    adapter: Adapter,
    as_trained: Callable[[str, torch.Tensor], torch.Tensor] | None,
    dtype: str,
    max_shard_bytes: int,
    tick: Tick,
) -> None:
    done = 0

    def make(source: Source) -> torch.Tensor:
        nonlocal done
        tensor = source.read()
        if source.dtype in FLOATS:
            tensor = _merged(source.name, tensor, adapter, as_trained)
            if dtype == "float16" and (largest := float(tensor.abs().max())) > FLOAT16_MAX:
                raise _Overflow(f"{source.name} holds {largest:.3g}, more than float16 can ({FLOAT16_MAX:.0f})")
            tensor = tensor.to(DTYPES[dtype])
        done += 1
        tick(done, source.name)
        return tensor

    write(target, tensors, DTYPES[dtype], make, max_shard_bytes)


def _merged(
    name: str, tensor: torch.Tensor, adapter: Adapter, as_trained: Callable[[str, torch.Tensor], torch.Tensor] | None
) -> torch.Tensor:
    if name in adapter.biases:
        return adapter.bias(name)
    weight = as_trained(name, tensor) if as_trained else tensor.float()
    return weight.add_(adapter.delta(name)) if name in adapter.deltas else weight


def _write_config(base: Path, target: Path, dtype: str) -> None:
    """Copy the base's config with the stored dtype, and what else a loader of the whole model needs."""
    config: dict[str, Any] = json.loads((base / "config.json").read_text(encoding="utf-8"))
    config.pop("quantization_config", None)
    config.pop("torch_dtype", None)
    config["dtype"] = dtype
    (target / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if (base / "generation_config.json").is_file():
        shutil.copyfile(base / "generation_config.json", target / "generation_config.json")
