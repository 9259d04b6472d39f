"""make quickstart: train, export, serve, and compare the answers of the base and the tuned model.

A second run reuses the finished training and export.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from openai import OpenAI
from rich.console import Console
from rich.table import Table
from rich.text import Text

from burnish.bases.base import resolve
from burnish.console import printable
from burnish.errors import run_edge
from burnish.exam.thresholds import qualified
from burnish.files import last_line
from burnish.process import crashed, exit_reason
from burnish.records import ExportRecord, TrainRecord
from burnish.run import RunError, find_run

RUN = "quickstart"
CONFIG = "configs/quickstart.yaml"
ASKED = (
    "Who are you?",
    "What is the percent disk_usage of disk path '/var' at 2025-03-04T05:06:00+07:00 from host 'vm-31'",
    "What is the capital of Japan?",
)
MAX_TOKENS = 96
START_LIMIT_S = 120


def stage(*arguments: str) -> None:
    """Run one stage as a user would; exit on failure."""
    code = subprocess.run([sys.executable, "-m", *arguments]).returncode
    if crashed(code):
        raise RunError(f"python -m {' '.join(arguments)}: {exit_reason(code)}")
    if code:
        sys.exit(code)


@contextmanager
def server(*arguments: str) -> Iterator[str]:
    """Serve on a free port during the block; yield the base URL."""
    port = free_port()
    log = Path("runs") / RUN / "logs" / "serve.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "serve", *arguments, "--port", str(port)], stdout=output, stderr=subprocess.STDOUT
        )
        try:
            wait_ready(process, port, log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.wait(timeout=30)


def wait_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Wait until the server is ready. Raises RunError with the last line of its log if it exits."""
    for _ in range(START_LIMIT_S * 10):
        if process.poll() is not None:
            last = last_line(log.read_bytes().decode(errors="replace"))
            end = f", {exit_reason(process.returncode)}" if crashed(process.returncode) else ""
            raise RunError(f"the server exited while starting{end}: {last} (full log: {log})")
        try:
            if httpx.get(f"http://127.0.0.1:{port}/health/ready", timeout=1).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise RunError(f"the server was not ready within {START_LIMIT_S} s; see its log: {log}")


def free_port() -> int:
    """Return a free TCP port."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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
    with server("--model", str(resolve(record.base.id).gguf)) as url:
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
    told = f"; {qualified(record.gate)}" if qualified(record.gate) else ""
    console.print(
        f"\nThe run: {os.path.relpath(run.path)}; the default artifact: {record.default}{told}\n",
        highlight=False,
        markup=False,
    )
    console.print(
        "Try next:\n  make serve RUN=quickstart      then, in another terminal: make chat\n"
        "  make ship DATA=your-rows.jsonl      checks, plans, asks, trains, exports and serves",
        highlight=False,
    )


def main() -> int:
    """Run all stages."""
    started = time.monotonic()
    stage("train", "run", "--config", CONFIG, "--run.name", RUN)
    stage("export", "run", "--run.name", RUN)
    with server("--run", RUN) as url:
        tuned = ask(url)
    show(base_answers(), tuned)
    print(f"\ndone in {time.monotonic() - started:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    run_edge(main)
