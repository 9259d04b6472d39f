"""Training-loop callbacks: progress bar, metrics.jsonl, TensorBoard events, and checkpoint markers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from burnish.console import Tick
from burnish.files import read_jsonl, write_atomic

from .checkpoints import mark_complete

METRICS = "metrics.jsonl"


class Progress(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """Updates the progress bar and writes every logged point; when resuming, drops points after the checkpoint.

    `tensorboard` enables TensorBoard events; the package is imported only then. `tokens` returns the number of tokens
    trained so far. The speed counts only the tokens and step time since this process started.
    """

    def __init__(self, logs: Path, tick: Tick, resumed_step: int, tensorboard: bool, tokens: Callable[[], int]) -> None:
        self.logs, self.tick, self.tokens = logs, tick, tokens
        self.seconds, self.step_started, self.tokens_before = 0.0, time.monotonic(), 0
        logs.mkdir(parents=True, exist_ok=True)
        path = logs / METRICS
        points = (
            [point for point in read_jsonl(path, partial=True) if point["step"] <= resumed_step]
            if path.is_file() and resumed_step
            else []
        )
        write_atomic(path, "".join(f"{json.dumps(point)}\n" for point in points))
        self.writer = _writer(logs, resumed_step) if tensorboard else None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.tokens_before = self.tokens()
        self.tick(state.global_step)

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.step_started = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.seconds += time.monotonic() - self.step_started
        if control.should_log:
            return  # on_log follows with this step's loss
        last: dict[str, Any] = next((entry for entry in reversed(state.log_history) if "loss" in entry), {})
        self.tick(state.global_step, _progress_text(last))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        entry = {"step": state.global_step, "time": round(time.time(), 3), **(logs or {})}
        if "loss" in entry:
            if self.seconds:
                entry["tokens_per_s"] = round((self.tokens() - self.tokens_before) / self.seconds, 1)
                state.log_history[-1]["tokens_per_s"] = entry["tokens_per_s"]
            self.tick(state.global_step, _progress_text(entry))
        with (self.logs / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        for key, value in entry.items():
            if self.writer and isinstance(value, int | float) and key not in ("step", "time"):
                self.writer.add_scalar(key, value, state.global_step)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        mark_complete(Path(str(args.output_dir)), state.global_step)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.writer:
            self.writer.close()


class EvalProgress(TrainerCallback):  # type: ignore[misc]
    """Advances a progress bar by one for each evaluated batch."""

    def __init__(self, tick: Tick) -> None:
        self.tick, self.done = tick, 0

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.done += 1
        self.tick(self.done)


def logged_seconds(logs: Path) -> float:
    """Return the seconds between the first and last points in metrics.jsonl."""
    times = [point["time"] for point in read_jsonl(logs / METRICS, partial=True)]
    return float(times[-1] - times[0]) if times else 0.0


def _writer(logs: Path, resumed_step: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(logs), purge_step=resumed_step + 1 if resumed_step else None)


def _progress_text(entry: dict[str, Any]) -> str:
    if "loss" not in entry:
        return ""
    return f"loss {float(entry['loss']):.3f}" + (_speed_text(entry["tokens_per_s"]) if "tokens_per_s" in entry else "")


def _speed_text(tokens_per_s: float) -> str:
    return f" {tokens_per_s:,.0f} tokens/s" if tokens_per_s >= 10 else f" {tokens_per_s:.1f} tokens/s"
