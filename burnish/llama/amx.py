"""Which files may put their weights into AMX buffers: decided for each file, before llama.cpp loads it.

On CPUs with AMX llama.cpp packs quantized weights into buffers of another layout and computes on them with tiles. That
is much faster than its other kernels. For F16 weights it is slower, and it reads outside the tensor for some shapes
(Mamba, LFM2: SIGSEGV in ggml_backend_amx_mul_mat), so a file that has such weights is loaded without extra buffers.
Every other file is first loaded and computed with in a child process, once: what ends that child must not end this one.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import platform
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from .. import children
from ..files import atomic_file, cache_root, last_line
from ..process import crashed, signal_name
from .runtime import api, base_function, library_files, runtime

Amx = Literal["auto", "on", "off"]
# enum ggml_type of the types with AMX kernels (ggml-cpu/amx/common.h, qtype_has_amx_kernels), and of 16-bit floats
AMX_TYPES = {2: "Q4_0", 3: "Q4_1", 8: "Q8_0", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 23: "IQ4_XS"}
F16 = 1
ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA = 158, 0x1023, 18  # x86-64 Linux
TEST_VERSION = 1
# the test reads the whole file: a slow disk's speed, and what a small file needs
LEAST_TEST_S, TEST_BYTES_PER_S = 60, 50_000_000


@dataclass(frozen=True)
class Decision:
    """Whether a file is loaded with extra buffers, whether AMX may then be used, and why."""

    extra: bool
    amx: bool
    why: str


def decide(path: Path, amx: Amx, n_gpu_layers: int = 0) -> Decision:
    """Decide for one file. `amx`: "auto" tests the file in a child process, "on" does without, "off" is never."""
    if missing := why_no_amx():
        return Decision(True, False, missing)
    if amx == "off":
        return Decision(False, False, "it is switched off")
    if n_gpu_layers < 0 and api.llama_supports_gpu_offload():
        return Decision(True, False, "the GPU holds the weights")
    return choose(weight_types(path), None if amx == "on" else lambda: tested(path))


def choose(types: Counter[int], test: Callable[[], str] | None) -> Decision:
    """Decide by the types of a file's matrices, then by `test`, which returns why the file can't take AMX, or "".

    Without a test a file that could take AMX takes it.
    """
    if types[F16]:
        return Decision(False, False, f"{types[F16]} of {types.total()} weights are F16")
    if not any(types[kind] for kind in AMX_TYPES):
        return Decision(False, False, "no weight is of a type that AMX computes with")
    if test is None:
        return Decision(True, True, "quantized weights; the load test is switched off")
    if fault := test():
        return Decision(False, False, fault)
    return Decision(True, True, "quantized weights; the load test passed")


@cache
def why_no_amx() -> str:
    """Say why AMX can't be used in this process; "" where it can.

    Linux grants AMX's state to the whole process, threads that start later included, and llama.cpp asks for it itself
    (ggml_amx_init). It asks for no buffer where it is refused.
    """
    if platform.machine() != "x86_64" or not {"amx_tile", "amx_int8"} <= cpu_flags():
        return "this CPU has no AMX"
    runtime()
    if b"AMX_INT8 = 1" not in api.llama_print_system_info():
        return "this build of llama.cpp has no AMX"
    if ctypes.CDLL(None).syscall(ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA):
        return "the kernel does not grant AMX to this process"
    return ""


def cpu_flags() -> frozenset[str]:
    """Return the CPU's feature flags; none where the kernel doesn't list them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n")
    except OSError:
        return frozenset()
    return frozenset(next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), []))


class _InitParams(ctypes.Structure):
    _fields_ = [("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p)]


def weight_types(path: Path) -> Counter[int]:
    """Count a GGUF's matrices (two dimensions and more) by type (enum ggml_type); empty where it can't be read."""
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    handle = base_function("gguf_init_from_file", pointer, ctypes.c_char_p, _InitParams)(
        os.fsencode(path), _InitParams(no_alloc=True, ctx=None)
    )
    if not handle:
        return Counter()  # loading it says what is wrong with it
    kind = base_function("gguf_get_tensor_type", ctypes.c_int, pointer, number)
    shape = base_function("gguf_get_tensor_ne", ctypes.POINTER(number), pointer, number)
    count = base_function("gguf_get_n_tensors", number, pointer)(handle)
    found = Counter(int(kind(handle, i)) for i in range(count) if shape(handle, i)[1] > 1)
    base_function("gguf_free", None, pointer)(handle)
    return found


def tested(path: Path) -> str:
    """Load the file with extra buffers in a child process and compute with it; return what failed, "" where nothing.

    The outcome is stored in the cache for this file, build and CPU, where the cache can be written.
    """
    note = cache_root() / "llama" / "load-tests" / f"{_identity(path)}.json"
    try:
        return str(json.loads(note.read_text())["fault"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    fault, lasting = _run_test(path)
    if lasting:
        try:
            note.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(note) as temporary:
                temporary.write_text(json.dumps({"file": path.name, "fault": fault}))
        except OSError:  # a read-only container: tested again at the next start
            pass
    return fault


def _run_test(path: Path) -> tuple[str, bool]:
    """Return what failed, and whether it will again: a lack of memory or time may not."""
    limits = children.Limits.of(path.stat().st_size, 0)
    command = children.confined(limits, "burnish.llama", "load-test", "--amx", "on", str(path.resolve()))
    limit = LEAST_TEST_S + path.stat().st_size / TEST_BYTES_PER_S
    try:
        done = subprocess.run(
            command,
            cwd=children.ROOT,
            env=children.environment(CUDA_VISIBLE_DEVICES=""),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit,
        )
    except subprocess.TimeoutExpired:
        return f"the load test took more than {limit:.0f} s", False
    if crashed(done.returncode):
        name = signal_name(done.returncode)
        return f"the load test ended by {name}", name != "SIGKILL"
    if done.returncode:
        return f"the load test failed: {last_line(done.stderr, 'no output').removeprefix('error: ')}", True
    if not json.loads(last_line(done.stdout))["finite"]:
        return "the load test gave numbers that are not finite", True
    return "", True


def _identity(path: Path) -> str:
    """Return a name for this file, this build of llama.cpp and this CPU, without reading the file."""
    files = [path.resolve(), *library_files()]
    parts = [f"{file} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files]
    parts += [str(TEST_VERSION), " ".join(sorted(cpu_flags()))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]
