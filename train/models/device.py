"""The training device: dtype, memory, and description for records."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..settings import BaseSection

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def dtype(base: BaseSection, device: torch.device) -> torch.dtype:
    """Return the load and compute dtype; float32 on a CPU, since bfloat16 is two to three times slower there."""
    if base.dtype != "auto":
        return DTYPES[base.dtype]
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def dtype_name(base: BaseSection, device: torch.device) -> str:
    """Return the dtype name used in records ("bfloat16")."""
    return str(dtype(base, device)).removeprefix("torch.")


@contextmanager
def limited_memory(gib: float | None, device: torch.device) -> Iterator[None]:
    """Limit the process's GPU memory inside the context."""
    if gib is None or device.type != "cuda":
        yield
        return
    torch.cuda.set_per_process_memory_fraction(min(1.0, gib * 2**30 / torch.cuda.mem_get_info(device)[1]))
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def peak_memory_bytes() -> int:
    """Return the peak memory so far: GPU memory if there is a GPU, else this process's resident set."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def hardware(device: torch.device) -> dict[str, Any]:
    """Return a description of the hardware: device, names, sizes."""
    facts: dict[str, Any] = {"device": device.type, "threads": torch.get_num_threads(), "cpus": os.cpu_count()}
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        facts |= {
            "gpu": properties.name,
            "gpu_memory_bytes": properties.total_memory,
            "gpus": torch.cuda.device_count(),
        }
    return facts
