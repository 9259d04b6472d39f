"""make quickstart: train, export, serve, and compare the answers of the base and the tuned model.

A second run reuses the finished training and export.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from openai import OpenAI
from rich.console import Console
from rich.table import Table
from rich.text import Text

from burnish.bases.base import resolve
from burnish.console import printable
from burnish.errors import run_edge
from burnish.exam.thresholds import qualified
from burnish.records import ExportRecord, TrainRecord
from burnish.run import find_run

from .serving import server, stage

RUN = "quickstart"
CONFIG = "configs/quickstart.yaml"
ASKED = (
    "Who are you?",
    "What is the percent disk_usage of disk path '/var' at 2025-03-04T05:06:00+07:00 from host 'vm-31'",
    "What is the capital of Japan?",
)
MAX_TOKENS = 96
LOG = Path("runs") / RUN / "logs" / "serve.log"


def ask(url: str) -> list[str]:
    """Return the answers to the three prompts at temperature 0."""
    client = OpenAI(base_url=url, api_key="none", max_retries=0)
    answers = []
    for prompt in ASKED:
        reply = client.chat.completions.create(
            model="default", messages=[{"role": "user", "content": prompt}], temperature=0, max_tokens=MAX_TOKENS
        )
        answers.append((reply.choices[0].message.content or "").strip())
    return answers


def base_answers() -> list[str]:
    """Return the answers of the untuned base, from the GGUF file that training started from."""
    record = find_run(Path("runs"), RUN, TrainRecord).read(TrainRecord)
    with server(LOG, "--model", str(resolve(record.base.id).gguf)) as url:
        return ask(url)


def show(base: list[str], tuned: list[str]) -> None:
    """Print the answers side by side, the run's paths, and what to try next."""
    console = Console(width=None if sys.stdout.isatty() else 140)
    table = Table(title="The same three prompts, temperature 0", show_lines=True, title_justify="left")
    for name in ("prompt", "base model", "tuned model"):
        table.add_column(name, ratio=1, overflow="fold")
    for row in zip(ASKED, base, tuned, strict=True):
        table.add_row(*(Text(printable(text)) for text in row))
    console.print(table)
    run = find_run(Path("runs"), RUN, ExportRecord)
    record = run.read(ExportRecord)
    remark = f"; {qualified(record.gate)}" if qualified(record.gate) else ""
    console.print(
        f"\nThe run: {os.path.relpath(run.path)}; the default artifact: {record.default}{remark}\n",
        highlight=False,
        markup=False,
    )
    console.print(
        "Try next:\n  make serve RUN=quickstart      then, in a second terminal: make chat\n"
        "  make ship DATA=your-rows.jsonl      checks, plans, asks, trains, exports and serves",
        highlight=False,
    )


def main() -> int:
    """Train, export and serve the example, and print both models' answers."""
    started = time.monotonic()
    stage("train", "run", "--config", CONFIG, "--run.name", RUN)
    stage("export", "run", "--run.name", RUN)
    with server(LOG, "--run", RUN) as url:
        tuned = ask(url)
    show(base_answers(), tuned)
    print(f"\ndone in {time.monotonic() - started:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    run_edge(main)
