"""Interleaved training: all contenders load, then each in turn trains a few steps while the others wait.

A contender's process prints READY when it is loaded, and TURN after each turn; a line on its standard input starts the
next turn. Its last line is RESULT and a JSON object. Waiting uses neither GPU nor CPU time.
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
    """Times steps with CUDA synchronization. The first `warm` steps, which compile and fill caches, are not counted.

    `turn`: steps per turn, after which the process waits for its next turn; 0: never waits.
    """

    def __init__(self, started: float, warm: int, turn: int) -> None:
        self.started, self.warm, self.turn = started, warm, turn
        self.begun = 0.0
        self.first_step_s: float | None = None
        self.seconds: list[float] = []
        self.collated: list[int] = []
        self.accumulation = 1

    def begin(self) -> None:
        """Report that everything is loaded, and wait for the first turn."""
        self._wait(READY)

    def mark(self, last: bool) -> None:
        """Record the end of a step."""
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

            torch.cuda.empty_cache()  # frees cached memory for the other contenders
            print(word, flush=True)
            sys.stdin.readline()
        self.begun = time.time()

    def watch(self, trainer: Any, accumulation: int) -> None:
        """Time the trainer's steps, and count the tokens passed to its collator; `accumulation` batches make a step."""
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
        """Return each step's token count; the trainer collates batches ahead of time."""
        a = self.accumulation
        return [sum(self.collated[i * a : (i + 1) * a]) for i in range(len(self.seconds))]

    def result(self, trainer: Any) -> dict[str, Any]:
        """Return medians over the steps after warm-up."""
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
    """A contender's process, seen from the bench."""

    def __init__(self, name: str, command: list[str]) -> None:
        self.name = name
        self.result: dict[str, Any] | None = None
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  # open as long as the process runs
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
        """Start the contender's turn."""
        assert self._process.stdin is not None
        if self.result is None:
            self._process.stdin.write("\n")
            self._process.stdin.flush()

    def wait(self, limit_s: float) -> None:
        """Wait until the contender is ready, ends its turn, or exits; `result` then holds its results or its error."""
        end = time.monotonic() + limit_s
        while self.result is None:
            try:
                line = self._lines.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                self.close()
                self.result = {"failed": f"not done within {limit_s:.0f} s: {self._last_errors()}"}
                return
            if line is None:
                self.result = {"failed": self._last_errors()}
            elif line.startswith(RESULT):
                self.result = json.loads(line.removeprefix(RESULT))
                self._process.wait()
            elif line.strip() in (READY, TURN):
                return

    def close(self) -> None:
        """Kill the process if it is still running."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def _last_errors(self) -> str:
        self._errors.seek(0)
        return self._errors.read()[-600:]
