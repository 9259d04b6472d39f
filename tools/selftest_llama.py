"""Test a build of llama.cpp on this CPU: a tiny random model in every type that export writes.

    python tools/selftest_llama.py SITE [--work DIR] [--types Q8_0,Q4_K_M] [--force-extra]

SITE is the directory that contains the llama_cpp package. Prints one line per type, then "passed"; the exit code is 1
if a type's results are wrong. tools/build_llama.py runs this in a child process before it installs a build, because a
build that crashes here would also crash the exam and the server. Uses the standard library only.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import importlib.util
import math
import os
import platform
import sys
import tempfile
import types
import typing
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools import tiny_gguf

# the types commonly set in gguf.quants, with their numbers in llama.h (enum llama_ftype)
TYPES = {
    "F16": 1, "BF16": 32, "Q8_0": 7, "Q4_0": 2, "Q4_1": 3, "Q5_0": 8, "Q3_K_M": 12, "Q4_K_S": 14, "Q4_K_M": 15,
    "Q5_K_S": 16, "Q5_K_M": 17, "Q6_K": 18, "IQ4_XS": 30,
}  # fmt: skip
# types that burnish/llama/amx.py loads without extra buffers
FLOATS = frozenset({"F16", "BF16"})
# batch sizes: two tiles of 16 rows and a remainder, a few rows, and one row (a different kernel in llama.cpp)
BATCHES = (40, 3, 1)
# largest RMS difference from the plain kernels, relative to the RMS of the logits: both paths round activations to 8
# bits, but add in different orders
MAX_DIFFERENCE = 0.05
ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA = 158, 0x1023, 18  # x86-64 Linux


class Wrong(Exception):
    """The build computes wrong results; the message is one line."""


def load_api(site: Path) -> Any:
    """Import llama_cpp's ctypes module without its package, which needs numpy; load a portable build's CPU library."""
    os.environ.setdefault(
        "OMP_WAIT_POLICY", "PASSIVE"
    )  # spinning threads are slow when other processes compete for the CPU
    if importlib.util.find_spec("typing_extensions") is None:
        sys.modules["typing_extensions"] = typing  # only TypeAlias is needed
    package = types.ModuleType("llama_cpp")
    package.__path__ = [str(site / "llama_cpp")]
    sys.modules["llama_cpp"] = package
    api = importlib.import_module("llama_cpp.llama_cpp")
    folder = site / "llama_cpp" / "lib"
    if any(folder.glob("libggml-cpu-*.so")):
        library = importlib.import_module("llama_cpp._ggml").libggml
        library.ggml_backend_load_all_from_path.argtypes = [ctypes.c_char_p]
        library.ggml_backend_load_all_from_path(str(folder).encode())
    api.llama_backend_init()
    return api


def has_amx(api: Any) -> bool:
    """Whether AMX must be used: the CPU has it, the kernel permits it for this process, and this build supports it.

    The permission is per process; threads started later inherit it (Linux, Documentation/arch/x86/xstate.rst).
    """
    if platform.machine() != "x86_64" or b"AMX_INT8 = 1" not in api.llama_print_system_info():
        return False
    flags = Path("/proc/cpuinfo").read_text().split()
    if "amx_int8" not in flags or "amx_tile" not in flags:
        return False
    return ctypes.CDLL(None).syscall(ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0


class Log:
    """Collects llama.cpp's log, which names the buffers that hold the weights."""

    def __init__(self, api: Any) -> None:
        self.text = ""
        self.callback = api.llama_log_callback(self._take)
        api.llama_log_set(self.callback, None)

    def _take(self, _level: int, text: bytes, _data: Any) -> None:
        self.text += text.decode("utf-8", "replace")

    def buffers(self) -> list[str]:
        """Return the names of the buffers into which weights were loaded since the last call."""
        lines = [line.split() for line in self.text.split("\n") if "model buffer size" in line]
        self.text = ""
        return [words[words.index("model") - 1] for words in lines]


def logits(api: Any, path: Path, extra: bool) -> list[float]:
    """Load a model and return the logits after each batch's last token, concatenated."""
    params = api.llama_model_default_params()
    params.n_gpu_layers, params.use_extra_bufts = 0, extra
    model = api.llama_model_load_from_file(str(path).encode(), params)
    if not model:
        raise Wrong("the model can't be loaded")
    options = api.llama_context_default_params()
    options.n_ctx, options.n_batch, options.n_ubatch = 64, max(BATCHES), max(BATCHES)
    options.op_offload = options.offload_kqv = False  # a CUDA build would compute large batches on the GPU
    options.n_threads = options.n_threads_batch = min(4, len(os.sched_getaffinity(0)))
    context = api.llama_init_from_model(model, options)
    if not context:
        raise Wrong("a context can't be created")
    found: list[float] = []
    for count in BATCHES:
        tokens = (api.llama_token * count)(*((7 * number + count) % 256 for number in range(count)))
        if api.llama_decode(context, api.llama_batch_get_one(tokens, count)):
            raise Wrong(f"a batch of {count} tokens can't be decoded")
        found += api.llama_get_logits_ith(context, -1)[: tiny_gguf.TINY.vocabulary]
    api.llama_free(context)
    api.llama_model_free(model)
    if not all(map(math.isfinite, found)):
        raise Wrong("the logits are not finite")
    return found


def check(api: Any, log: Log, path: Path, name: str, amx: bool, force: bool) -> str:
    """Compare a file's logits, loaded as in normal use, with the plain kernels'; return a summary. Raises Wrong."""
    extra = force or name not in FLOATS
    log.buffers()
    found = logits(api, path, extra)
    buffers = log.buffers()
    if amx and extra and name not in FLOATS and "AMX" not in buffers:
        raise Wrong(f"this CPU and this build have AMX, but no weights went into an AMX buffer ({', '.join(buffers)})")
    plain = logits(api, path, False)
    difference = math.dist(found, plain) / math.hypot(*plain)
    if not difference < MAX_DIFFERENCE:
        raise Wrong(f"its logits differ from those of the plain kernels by {difference:.1%}")
    return f"buffers {' '.join(buffers) or 'unknown'}, difference {difference:.2%}"


def main() -> int:
    parser = argparse.ArgumentParser(description="test a build of llama.cpp on this CPU")
    parser.add_argument("site", type=Path, help="the directory that holds the package llama_cpp")
    parser.add_argument("--work", type=Path, help="keep the model files here")
    parser.add_argument("--types", default=",".join(TYPES), help="types to test: " + ", ".join(TYPES))
    parser.add_argument("--force-extra", action="store_true", help="use extra buffers for F16 and BF16 too")
    options = parser.parse_args()
    print("step loading the library", flush=True)
    api = load_api(options.site)
    log, amx, failed = Log(api), has_amx(api), False
    print(f"AMX {'available' if amx else 'not available'}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        work = options.work or Path(name)
        source = work / "tiny-F16.gguf"
        tiny_gguf.write(source)
        for kind in options.types.split(","):
            print(f"step {kind}", flush=True)
            try:
                print(f"{kind}: {check(api, log, made(api, source, kind), kind, amx, options.force_extra)}", flush=True)
            except Wrong as wrong:
                print(f"wrong {kind}: {wrong}", flush=True)
                failed = True
    if not failed:
        print("passed", flush=True)
    return int(failed)


def made(api: Any, source: Path, kind: str) -> Path:
    """Quantize the model to a type; return the file. Raises Wrong."""
    if kind == "F16":
        return source
    target = source.with_name(f"tiny-{kind}.gguf")
    params = api.llama_model_quantize_default_params()
    params.ftype = TYPES[kind]
    if api.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params)):
        raise Wrong("quantizing failed")
    return target


if __name__ == "__main__":
    sys.exit(main())
