"""Decide for each file, before llama.cpp loads it, whether its weights may use AMX buffers.

On CPUs with AMX, llama.cpp repacks quantized weights into buffers with a different layout and computes with tiles,
which is much faster than its other kernels. With F16 weights AMX is slower, and for some shapes it reads outside the
tensor (Mamba, LFM2: SIGSEGV in ggml_backend_amx_mul_mat), so a file with F16 weights is loaded without extra buffers.
Every other file is first tested once in a child process, so that a crash does not end this process.
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from ..machine import cpu_flags
from . import probe
from .runtime import api, base_function, runtime

Amx = Literal["auto", "on", "off"]
# enum ggml_type values with AMX kernels (ggml-cpu/amx/common.h, qtype_has_amx_kernels), and F16
AMX_TYPES = {2: "Q4_0", 3: "Q4_1", 8: "Q8_0", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 23: "IQ4_XS"}
F16 = 1
ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA = 158, 0x1023, 18  # x86-64 Linux


@dataclass(frozen=True)
class Decision:
    """Whether a file is loaded with extra buffers, whether it may then use AMX, and why."""

    extra: bool
    amx: bool
    why: str


def decide(path: Path, amx: Amx, n_gpu_layers: int = 0) -> Decision:
    """Decide for one file. `amx`: "auto" tests the file in a child process, "on" skips the test, "off" disables AMX."""
    if missing := why_no_amx():
        return Decision(True, False, missing)
    if amx == "off":
        return Decision(False, False, "disabled in the settings")
    if n_gpu_layers < 0 and api.llama_supports_gpu_offload():
        return Decision(True, False, "the GPU holds the weights")
    return choose(weight_types(path), None if amx == "on" else lambda: tested(path))


def choose(types: Counter[int], test: Callable[[], str] | None) -> Decision:
    """Decide from the types of a file's matrices, then from `test`, which returns why the file can't use AMX, or "".

    Without a test, every eligible file uses AMX.
    """
    if types[F16]:
        return Decision(False, False, f"{types[F16]} of {types.total()} weights are F16")
    if not any(types[kind] for kind in AMX_TYPES):
        return Decision(False, False, "no weight has a type with AMX kernels")
    if test is None:
        return Decision(True, True, "quantized weights; the load test is disabled")
    if fault := test():
        return Decision(False, False, fault)
    return Decision(True, True, "quantized weights; the load test passed")


@cache
def why_no_amx() -> str:
    """Return why AMX can't be used in this process; "" if it can.

    Linux grants AMX to the whole process, including threads started later. llama.cpp requests it itself
    (ggml_amx_init) and uses no AMX buffers if the request is denied.
    """
    if platform.machine() != "x86_64" or not {"amx_tile", "amx_int8"} <= cpu_flags():
        return "this CPU has no AMX"
    runtime()
    if b"AMX_INT8 = 1" not in api.llama_print_system_info():
        return "this build of llama.cpp has no AMX"
    if ctypes.CDLL(None).syscall(ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA):
        return "the kernel does not grant AMX to this process"
    return ""


class _InitParams(ctypes.Structure):
    _fields_ = [("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p)]


def weight_types(path: Path) -> Counter[int]:
    """Count a GGUF's matrices (two or more dimensions) by type (enum ggml_type); empty if the file can't be read."""
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    handle = base_function("gguf_init_from_file", pointer, ctypes.c_char_p, _InitParams)(
        os.fsencode(path), _InitParams(no_alloc=True, ctx=None)
    )
    if not handle:
        return Counter()  # loading the file will report the error
    kind = base_function("gguf_get_tensor_type", ctypes.c_int, pointer, number)
    shape = base_function("gguf_get_tensor_ne", ctypes.POINTER(number), pointer, number)
    count = base_function("gguf_get_n_tensors", number, pointer)(handle)
    found = Counter(int(kind(handle, i)) for i in range(count) if shape(handle, i)[1] > 1)
    base_function("gguf_free", None, pointer)(handle)
    return found


def tested(path: Path) -> str:
    """Load and run the file with extra buffers in a child process; return what failed, or "".

    If the cache is writable, the outcome is cached for this file, build and CPU.
    """
    note = probe.note_of(path, "on")
    if (known := probe.recorded(note)) is not None:
        return known
    fault, lasting = probe.run(path, "on")
    if lasting:
        probe.record(note, path, fault)
    return fault
