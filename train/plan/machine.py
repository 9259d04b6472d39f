"""What this machine can give a run: free memory, and the rate of a matrix product."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

import torch

from ..models.backends import has_unsloth
from ..models.device import device


@dataclass(frozen=True)
class Machine:
    """What a run can use: `free_bytes` of the device's memory, `matrix_flops` a second as measured, or None."""

    device: str
    free_bytes: int
    matrix_flops: float | None = None
    unsloth: bool = False


def measure() -> Machine:
    """Measure what this machine can give a run: free memory, and the rate of a matrix product."""
    if device().type != "cuda":
        pages = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return Machine("cpu", pages, matrix_flops(torch.float32, 1024))
    return Machine("cuda", torch.cuda.mem_get_info()[0], matrix_flops(torch.bfloat16, 8192), has_unsloth())


def matrix_flops(dtype: torch.dtype, size: int) -> float:
    """Return the best rate of four products of two square matrices, in operations a second."""
    a = torch.randn(size, size, device=device()).to(dtype)
    seconds = []
    for _ in range(4):
        begun = time.perf_counter()
        out = a @ a
        _ = out[0, 0].item()  # waits for the product
        seconds.append(time.perf_counter() - begun)
    return float(2 * size**3 / min(seconds))
