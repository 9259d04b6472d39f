"""The exam of a merged checkpoint, streamed by layer against the whole model in float32: wall time and peak memory.

    python -m bench.examine [--shapes 1b] [--kinds streamed,whole] [--repeats 3] [--rows 4] [--tokens 128]
                            [--directory DIR] [--json FILE]

A random Llama with the given shape (float16, several shards) is created under DIR and removed afterwards. The questions
are random: `--rows` of `--tokens` tokens with the second half scored, and five general texts half as long. Each exam
runs in its own child process with a cold page cache; the kinds alternate. Imports are not timed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from bench.merge import SHAPES, make_base, peak_bytes
from burnish.console import say
from burnish.exam.memory import ExamMemory
from burnish.exam.rows import Question
from burnish.exam.scores import TopLogprobs
from burnish.files import first_line, last_line

KINDS = ("streamed", "whole")
GENERAL_TEXTS = 5
MAX_BYTES, MAX_WALL_RATIO, MAX_DIFFERENCE = 3 * 2**30, 1.5, 1e-3  # the project's bounds; the difference is in nats


def questions(rows: int, tokens: int, vocabulary: int) -> list[Question]:
    """Return exam questions with random ids."""
    numbers = np.random.default_rng(0)
    made = []
    for _ in range(rows):
        made.append(Question("heldout", numbers.integers(3, vocabulary, tokens).tolist(), [(tokens // 2, tokens)]))
    for _ in range(GENERAL_TEXTS):
        made.append(Question("general", numbers.integers(3, vocabulary, tokens // 2).tolist(), [(1, tokens // 2)]))
    return made


def child(kind: str, base: Path, exam_questions: list[Question], target: Path) -> dict[str, float]:
    """Examine once in this process; save the true tokens' log-probabilities to `target`."""
    from transformers import AutoModelForCausalLM  # noqa: F401  # imports are not timed
    from transformers.models.llama import modeling_llama  # noqa: F401

    from export.exam.streamed import streamed_logits, whole_logits

    before = peak_bytes()
    started, cpu = time.perf_counter(), time.process_time()
    targets = [t for question in exam_questions for t in question.targets]
    parts: list[TopLogprobs] = []
    start = 0
    for rows in (
        streamed_logits(base, exam_questions) if kind == "streamed" else whole_logits(base, exam_questions, "bench")
    ):
        parts.append(TopLogprobs.of(rows, targets[start : start + len(rows)]))
        start += len(rows)
    used = {"wall_s": time.perf_counter() - started, "cpu_s": time.process_time() - cpu}
    np.save(target, TopLogprobs.join(parts).true)
    return {**used, "peak_bytes": peak_bytes(), "imports_bytes": before}


def planned_bytes(base: Path, exam_questions: list[Question]) -> int:
    """Return the peak memory that train's plan predicts."""
    from train.plan.model_shape import empty_model, exam_sizes

    return ExamMemory.of(exam_sizes(empty_model(base, False)), [len(q.input_ids) for q in exam_questions]).peak


def measure(kind: str, base: Path, rows: int, tokens: int, target: Path) -> dict[str, float]:
    """Run one exam in a child process with a cold page cache."""
    os.sync()
    for path in base.iterdir():
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    command = [sys.executable, "-m", "bench.examine", "--child", kind, str(base), str(target)]
    command += ["--rows", str(rows), "--tokens", str(tokens)]
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "TRANSFORMERS_VERBOSITY": "error"}  # as export sets them
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"{kind}: {last_line(done.stderr)}")
    result: dict[str, float] = json.loads(last_line(done.stdout))
    return result


def bench(name: str, folder: Path, kinds: list[str], repeats: int, rows: int, tokens: int) -> dict[str, Any]:
    """Create a model of one shape and examine it with each kind in turn."""
    base = folder / "base"
    torch.manual_seed(0)
    make_base(base, SHAPES[name])
    runs: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
    for number in range(repeats):
        for kind in kinds:
            runs[kind].append(measure(kind, base, rows, tokens, folder / f"{kind}.npy"))
            last = runs[kind][-1]
            say(
                f"{name} {kind} {number + 1}/{repeats}: {last['wall_s']:.1f} s, {last['cpu_s']:.1f} s of CPU time, "
                f"{last['peak_bytes'] / 2**30:.2f} GiB; load {os.getloadavg()[0]:.1f}"
            )
    medians = {kind: {key: statistics.median(r[key] for r in done) for key in done[0]} for kind, done in runs.items()}
    exam_questions = questions(rows, tokens, SHAPES[name].vocabulary)
    result: dict[str, Any] = {"kinds": medians, "runs": runs, "planned_bytes": planned_bytes(base, exam_questions)}
    if len(kinds) > 1:
        result["difference"] = float(np.abs(np.subtract(*(np.load(folder / f"{kind}.npy") for kind in KINDS))).max())
    return result


def table(results: dict[str, dict[str, Any]]) -> Table:
    made = Table("model", "exam", "wall, s", "CPU, s", "peak, GiB", "planned, GiB", title="medians")
    for name, result in results.items():
        for kind, figures in result["kinds"].items():
            planned = f"{result['planned_bytes'] / 2**30:.2f}" if kind == "streamed" else "-"
            seconds = (f"{figures[key]:.1f}" for key in ("wall_s", "cpu_s"))
            made.add_row(name, kind, *seconds, f"{figures['peak_bytes'] / 2**30:.2f}", planned)
    return made


def broken(results: dict[str, dict[str, Any]]) -> list[str]:
    """Return the project's bounds that a result exceeds."""
    found = []
    for name, result in results.items():
        kinds = result["kinds"]
        if kinds["streamed"]["peak_bytes"] > MAX_BYTES:
            found.append(f"{name}: the peak is above 3 GiB")
        if "whole" in kinds and kinds["streamed"]["wall_s"] > MAX_WALL_RATIO * kinds["whole"]["wall_s"]:
            found.append(f"{name} takes more than {MAX_WALL_RATIO} times the whole model's time")
        if result.get("difference", 0) > MAX_DIFFERENCE:
            found.append(f"{name}: log-probabilities differ by {result['difference']:.1e}")
    return found


def main() -> int:
    """Run the benchmark; return 1 if a limit is exceeded."""
    parser = argparse.ArgumentParser(prog="python -m bench.examine", description=first_line(__doc__))
    parser.add_argument("--shapes", default="1b", help=f"comma-separated shapes: {', '.join(SHAPES)}")
    parser.add_argument("--kinds", default=",".join(KINDS), help=f"comma-separated kinds: {', '.join(KINDS)}")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rows", type=int, default=4, help="held-out questions")
    parser.add_argument("--tokens", type=int, default=128, help="tokens per question")
    parser.add_argument("--directory", type=Path, default=Path("runs"), help="directory for the temporary models")
    parser.add_argument("--json", type=Path, help="file for all results")
    parser.add_argument("--child", nargs=3, metavar=("KIND", "BASE", "TARGET"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        kind, base, target = options.child
        vocabulary = int(json.loads((Path(base) / "config.json").read_text())["vocab_size"])
        print(json.dumps(child(kind, Path(base), questions(options.rows, options.tokens, vocabulary), Path(target))))
        return 0
    results = {}
    options.directory.mkdir(parents=True, exist_ok=True)
    for name in options.shapes.split(","):
        with tempfile.TemporaryDirectory(prefix=".bench-examine-", dir=options.directory) as folder:
            results[name] = bench(
                name, Path(folder), options.kinds.split(","), options.repeats, options.rows, options.tokens
            )  # fmt: skip
    Console(width=None if sys.stdout.isatty() else 120).print(table(results))
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    for fault in (found := broken(results)):
        say(fault)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
