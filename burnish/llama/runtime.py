"""The llama.cpp runtime: start-up, log and errors. Contains the project's only import of llama_cpp."""

from __future__ import annotations

import ctypes
import os
import re
from collections import deque
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import UserError

# llama.cpp's threads meet at a barrier about 900 times per token. By default OpenMP spins there for milliseconds, so
# one other busy process on the same cores slowed a 26 ms step to 1,500 ms (measured). This limits spinning to tens of
# microseconds, which is enough on idle cores and yields busy ones. Read when the library is loaded.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
# otherwise a failed assertion in llama.cpp would attach a debugger to this process
os.environ.setdefault("GGML_NO_BACKTRACE", "1")

import llama_cpp.llama_cpp as api

LOG_LEVEL_ERROR = 4
LOG_LEVEL_CONTINUE = 5
__all__ = ["LlamaError", "Log", "api", "base_function", "cpu_variant", "library_files", "runtime"]


class LlamaError(UserError):
    """Raised when llama.cpp can't use a model file or a request: not GGUF, truncated, unknown architecture, etc."""


class Log:
    """llama.cpp's log: not printed, but recent errors are kept for messages, and a listener can receive lines."""

    def __init__(self) -> None:
        self.errors: deque[str] = deque(maxlen=8)
        self.listener: Callable[[str], None] | None = None
        self._line, self._level = "", 0
        self.callback = api.llama_log_callback(self._take)

    def _take(self, level: int, text: bytes, _: Any) -> None:
        # a line may arrive in pieces; an error that interrupts an unfinished line starts a new one
        if level == LOG_LEVEL_ERROR and self._level != level and self._line:
            self._emit(self._line)
            self._line = ""
        self._level = self._level if level == LOG_LEVEL_CONTINUE else level
        *lines, self._line = (self._line + text.decode("utf-8", "replace")).split("\n")
        for line in lines:
            self._emit(line)

    def _emit(self, line: str) -> None:
        line = line.strip()
        if line and self._level == LOG_LEVEL_ERROR:
            self.errors.append(re.sub(r"^(\w+: )+", "", line))
        if line and self.listener:
            self.listener(line)


@cache
def runtime() -> Log:
    """Start llama.cpp once: silence its log, load a portable build's CPU variants, and return the log."""
    log = Log()
    api.llama_log_set(log.callback, None)
    folder = Path(api.__file__).parent / "lib"
    if any(folder.glob("libggml-cpu-*.so")):  # one backend library per CPU generation (GGML_BACKEND_DL)
        from llama_cpp._ggml import libggml

        libggml.ggml_backend_load_all_from_path(str(folder).encode())
    api.llama_backend_init()
    return log


def cpu_variant() -> str | None:
    """Return the CPU variant selected by a portable build, such as "haswell"; None for other builds."""
    found = re.search(r"/libggml-cpu-(\w+)\.so", Path("/proc/self/maps").read_text())
    return found[1] if found else None


def base_function(name: str, result: Any, *arguments: Any) -> Any:
    """Return a ggml or gguf function that llama_cpp does not wrap; libllama is linked against both."""
    return ctypes.CFUNCTYPE(result, *arguments)((name, api._lib))


def library_files() -> list[Path]:
    """Return the resolved paths of this build's libraries, sorted by name."""
    folder = Path(os.environ.get("LLAMA_CPP_LIB_PATH") or Path(api.__file__).parent / "lib")
    return sorted({path.resolve() for path in folder.glob("lib*.so*")})
