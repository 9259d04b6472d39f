"""Measures llama_decode alone: steps with one token per sequence, in a separate process.

Its rate is the upper bound for any server, so a load's tokens/s are also reported as a share of that rate.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from typing import Any, Self

from bench.serve.peers import Load
from burnish.llama import Context, Model

PROMPT = 60  # tokens before the first step, about as many as in the steady load's questions
STEPS = 48


class RawDecode:
    """A child process that holds the model and computes only on request."""

    def __init__(self, load: Load) -> None:
        code = "import sys; from bench.serve.raw import answer; answer(*sys.argv[1:])"
        command = [sys.executable, "-c", code, *map(str, (load.model, load.threads, load.clients, load.gpu_layers))]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.tokens_per_s()  # loads the model and touches its pages

    def tokens_per_s(self) -> float:
        """Return the tokens/s of one run, from the median step. Raises RuntimeError if the process has exited."""
        assert self._process.stdin is not None and self._process.stdout is not None
        print("run", file=self._process.stdin, flush=True)
        if not (line := self._process.stdout.readline()):
            raise RuntimeError(f"the raw decode process exited with code {self._process.wait()}")
        return float(json.loads(line))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def answer(path: str, threads: str, sequences: str, gpu_layers: str) -> None:
    """For every line on stdin, print the tokens/s of one run."""
    count = int(sequences)
    cells = count * (PROMPT + STEPS + 1)
    with (
        Model.open(path, n_gpu_layers=int(gpu_layers)) as model,
        Context(model, n_ctx=cells, n_seq_max=count, unified=False, threads=int(threads)) as context,
    ):
        for _ in sys.stdin:
            print(json.dumps(count / statistics.median(steps(context, count))), flush=True)


def steps(context: Context, count: int) -> list[float]:
    """Return each step's seconds for `count` sequences after their prompts, including the wait for the logits."""
    context.clear()
    everyone = range(count)
    for sequence in everyone:
        context.decode([sequence + 1] * PROMPT, range(PROMPT), [sequence] * PROMPT, [False] * PROMPT)
    seconds = []
    for step in range(STEPS):
        began = time.perf_counter()
        context.decode([step + 1] * count, [PROMPT + step] * count, everyone, [True] * count)
        context.logits(count - 1)
        seconds.append(time.perf_counter() - began)
    return seconds
