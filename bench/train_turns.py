"""Training steps in turns: contenders load side by side, then each trains a few steps while the others wait.

A contender's process says READY on its standard output, and TURN after each of its turns; a line on its standard input
begins the next. Its last line is RESULT and a JSON object. Waiting costs neither the GPU's time nor a core's.
"""

from __future__ import annotations

import json
import queue
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any

READY, TURN, RESULT = "@ready", "@turn", "@result"


class Timer:
    """Times steps, synchronised; the first `warm` count for nothing, since compilers and caches fill in them.

    `turn`: steps after which it waits for its next turn; 0: it never waits.
    """

    def __init__(self, started: float, warm: int, turn: int) -> None:
        self.started, self.warm, self.turn = started, warm, turn
        self.begun = 0.0
        self.first_step_s: float | None = None
        self.seconds: list[float] = []
        self.collated: list[int] = []
        self.accumulation = 1

    def begin(self) -> None:
        """Wait for the first turn; all is loaded."""
        self._wait(READY)

    def mark(self, last: bool) -> None:
        """A step has ended."""
        import torch

        torch.cuda.synchronize()
        now = time.time()
        self.first_step_s = self.first_step_s or now - self.started
        self.seconds.append(now - self.begun)
        print(f"step {len(self.seconds)} {self.seconds[-1]:.2f} s", file=sys.stderr, flush=True)
        self.begun = now
        if not last and self.turn and len(self.seconds) > self.warm and not (len(self.seconds) - self.warm) % self.turn:
            self._wait(TURN)

    def _wait(self, word: str) -> None:
        if self.turn:
            import torch

            torch.cuda.empty_cache()  # what is cached and not in use would be missing in the others' turns
            print(word, flush=True)
            sys.stdin.readline()
        self.begun = time.time()

    def watch(self, trainer: Any, accumulation: int) -> None:
        """Mark the trainer's steps, and count what its collator is given; a step has `accumulation` of its batches."""
        from transformers import TrainerCallback

        collate, timer = trainer.data_collator, self

        def counting(examples: list[dict[str, Any]]) -> Any:
            timer.collated.append(sum(len(e["input_ids"]) for e in examples))
            return collate(examples)

        class Mark(TrainerCallback):  # type: ignore[misc]
            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                timer.mark(last=state.global_step >= state.max_steps)

        trainer.data_collator = counting
        trainer.add_callback(Mark())
        self.accumulation = accumulation

    def step_tokens(self) -> list[int]:
        """Return the tokens of each step; a trainer collates ahead."""
        a = self.accumulation
        return [sum(self.collated[i * a : (i + 1) * a]) for i in range(len(self.seconds))]

    def result(self, trainer: Any) -> dict[str, Any]:
        """Return medians over the steps after the warm ones."""
        import torch

        tokens, seconds = self.step_tokens()[self.warm :], self.seconds[self.warm :]
        rates = [t / s for t, s in zip(tokens, seconds, strict=True)]
        return {
            "tokens_per_s": statistics.median(rates), "low": min(rates), "high": max(rates),
            "mean_tokens_per_s": sum(tokens) / sum(seconds), "step_s": statistics.median(seconds),
            "steps": len(seconds), "tokens_a_step": statistics.mean(tokens), "largest_step": max(self.step_tokens()),
            "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
            "reserved_gib": torch.cuda.max_memory_reserved() / 2**30, "first_step_s": self.first_step_s,
            "losses": [round(e["loss"], 4) for e in trainer.state.log_history if "loss" in e],
        }  # fmt: skip


class Contender:
    """A contender's process, as the bench sees it."""

    def __init__(self, name: str, command: list[str]) -> None:
        self.name = name
        self.result: dict[str, Any] | None = None
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  # open for as long as the process lives
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def go(self) -> None:
        """Begin its turn."""
        assert self._process.stdin is not None
        if self.result is None:
            self._process.stdin.write("\n")
            self._process.stdin.flush()

    def wait(self, limit_s: float) -> None:
        """Wait until it is ready, its turn is over, or it has ended; then `result` is its figures or its failure."""
        end = time.monotonic() + limit_s
        while self.result is None:
            try:
                line = self._lines.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                self.close()
                self.result = {"failed": f"not done after {limit_s:.0f} s: {self._said()}"}
                return
            if line is None:
                self.result = {"failed": self._said()}
            elif line.startswith(RESULT):
                self.result = json.loads(line.removeprefix(RESULT))
                self._process.wait()
            elif line.strip() in (READY, TURN):
                return

    def close(self) -> None:
        """End the process if it still runs."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def _said(self) -> str:
        self._errors.seek(0)
        return self._errors.read()[-600:]
