"""Measure this machine: free memory and matrix product speed."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from burnish.machine import memory_available_bytes

from ..models.backends import has_unsloth


@dataclass(frozen=True)
class Machine:
    """A machine: `free_bytes` of device memory, and measured `matrix_flops` per second, or None."""

    device: str
    free_bytes: int
    matrix_flops: float | None = None
    unsloth: bool = False


def measure(device: torch.device, dtype: torch.dtype) -> Machine:
    """Measure a device's free memory and its matrix product speed in a dtype."""
    if device.type != "cuda":
        size = 1024 if dtype == torch.float32 else 512  # in 16 bits a larger product can take seconds
        return Machine("cpu", memory_available_bytes(), matrix_flops(device, dtype, size))
    free, _ = torch.cuda.mem_get_info(device)
    return Machine("cuda", free, matrix_flops(device, dtype, 8192), has_unsloth())


def matrix_flops(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """Return the best of four measured square matrix products, in operations per second."""
    a = torch.randn(size, size, device=device).to(dtype)
    seconds = []
    for _ in range(4):
        started = time.perf_counter()
        out = a @ a
        _ = out[0, 0].item()  # waits for the product
        seconds.append(time.perf_counter() - started)
    return float(2 * size**3 / min(seconds))
