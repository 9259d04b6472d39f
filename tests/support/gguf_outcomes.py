"""Load many mutants in llama.cpp: python -m tests.support.gguf_outcomes FIRST COUNT prints the outcomes as JSON.

Each file is opened in a fork, to avoid repeated imports: first by the load test that serve runs in a child process,
then, if that passed, as serve opens it.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from burnish.errors import UserError
from burnish.llama.load_test import load_test
from serve.llama import load, sizing
from serve.llama.backend import LlamaBackend
from serve.llama.warmup import warm_up
from serve.settings import ServeSettings

from .gguf_mutants import mutant

LIMIT_S, ADDRESSES = 60, 32 << 30
FINE, REFUSED, UNEXPECTED, NOT_FINITE = range(4)


def probe(path: Path) -> int:
    """Do what serve's child process does."""
    return FINE if load_test(path, "off").finite else NOT_FINITE


def serve(path: Path) -> int:
    """Load a file like serve, up to the first request."""
    settings = ServeSettings(model=str(path), amx="off")
    model, served, _ = load.load(settings)
    size = sizing.measure(model, served.context_length, settings)
    backend = LlamaBackend(model, sizing.context(model, size, settings), size.shared)
    warm_up(backend)
    return FINE


def outcome(call: Callable[[Path], int], path: Path, output_path: Path) -> int:
    """Call a function in a fork; return the exit code or the negative signal number."""
    child = os.fork()
    if child == 0:
        signal.alarm(LIMIT_S)
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
        with output_path.open("wb", buffering=0) as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        try:
            os._exit(call(path))
        except UserError:
            os._exit(REFUSED)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(UNEXPECTED)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(first: int, count: int) -> None:
    """Print the number of load tests by outcome, files that passed it and then failed, and unexpected errors."""
    load.check = lambda path: None  # already done in a fork
    counts: dict[str, int] = {}
    wrong: list[str] = []
    slowest = 0.0
    with tempfile.TemporaryDirectory() as folder:
        path, output_path = Path(folder, "mutant.gguf"), Path(folder, "said")
        for seed in range(first, first + count):
            path.write_bytes(mutant(seed))
            began = time.monotonic()
            code = outcome(probe, path, output_path)
            slowest = max(slowest, time.monotonic() - began)
            counts[str(code)] = counts.get(str(code), 0) + 1
            if code == FINE and (after := outcome(serve, path, output_path)) not in (FINE, REFUSED):
                wrong.append(f"{seed}: passed the load test, then ended with {after}: {output_path.read_text()[-400:]}")
            elif code == UNEXPECTED:
                wrong.append(f"{seed}: {output_path.read_text()[-400:]}")
    print(json.dumps({"counts": counts, "wrong": wrong, "slowest_s": round(slowest, 1)}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
