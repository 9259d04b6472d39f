"""Quantize a GGUF with llama.cpp's quantizer, and record each tensor's type."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import did_you_mean
from ..machine import cpu_count
from .model import Model
from .runtime import LlamaError, api, runtime


@dataclass
class Quantized:
    """The result: tensor types, fallbacks to other types, sizes in MiB, bits per weight."""

    tensors: dict[str, str] = field(default_factory=dict)
    fallbacks: dict[str, str] = field(default_factory=dict)
    source_mib: float = 0.0
    target_mib: float = 0.0
    bits_per_weight: float = 0.0


def quantization_types() -> dict[str, int]:
    """Return the runtime's file type numbers by name (F16, Q8_0, Q4_K_M, ...)."""
    pattern = re.compile(r"LLAMA_FTYPE_(?:MOSTLY|ALL)_(\w+)")
    return {found[1]: int(getattr(api, name)) for name in dir(api) if (found := pattern.fullmatch(name))}


def quantize(
    source: str | Path,
    target: str | Path,
    type_name: str,
    *,
    threads: int | None = None,
    requantize: bool = False,
    progress: Callable[[int, int, str, str], None] | None = None,
) -> Quantized:
    """Quantize a GGUF to `type_name`; `progress` is called with (tensor number, tensors, name, new type).

    Runs in the current process, where Ctrl-C can't stop it: use `python -m burnish.llama quantize` if that matters.
    `requantize` allows an already quantized source. If it raises LlamaError, no target file is left behind.
    """
    types = quantization_types()
    if type_name not in types:
        raise LlamaError(f"'{type_name}' is not a quantization type of llama.cpp{did_you_mean(type_name, types)}")
    Model.open(source, vocab_only=True).close()  # raises a clear error if the file is not a model
    log, result = runtime(), Quantized()
    params = api.llama_model_quantize_default_params()
    params.nthread, params.ftype, params.allow_requantize = threads or cpu_count(), types[type_name], requantize
    log.errors.clear()
    log.listener = _reader(result, progress)
    try:
        code = api.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params))
    finally:
        log.listener = None
    if code:
        Path(target).unlink(missing_ok=True)
        raise LlamaError(f"{source} can't be quantized to {type_name}: {'; '.join(log.errors) or f'code {code}'}")
    return result


def _reader(result: Quantized, progress: Callable[[int, int, str, str], None] | None) -> Callable[[str], None]:
    """Return a log listener that parses llama.cpp's line for each tensor into `result`."""

    def take(line: str) -> None:
        if found := re.match(r"\[\s*(\d+)/\s*(\d+)\]\s+(\S+)\s.*?type =\s+(\w+),(?:.*converting to (\w+))?", line):
            name, kind = found[3], found[5] or found[4]
            result.tensors[name] = kind
            if progress:
                progress(int(found[1]), int(found[2]), name, kind)
        elif found := re.match(r"warning: (\S+)\s+- ncols.*required for type\s+(\w+)\).*falling back to\s+(\w+)", line):
            result.fallbacks[found[1]] = f"{found[2]} -> {found[3]}"
        elif found := re.search(r"model size\s+=\s+([\d.]+) MiB", line):
            result.source_mib = float(found[1])
        elif found := re.search(r"quant size\s+=\s+([\d.]+) MiB \(([\d.]+) BPW\)", line):
            result.target_mib, result.bits_per_weight = float(found[1]), float(found[2])

    return take
