"""python -m export run | examine: merge, convert, quantize, and examine what came out."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from burnish import report
from burnish.config import add_command, parse_arguments
from burnish.console import say, warn
from burnish.errors import run_edge
from burnish.run import Artefact
from export.settings import ExportSettings

COMMANDS = {
    "run": "merge the adapter, make GGUF files, examine each and write export.json",
    "examine": "examine any GGUF file or merged directory against a run's exam; exit code 1 where it fails",
}


def make_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = argparse.ArgumentParser(prog="python -m export", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="|".join(COMMANDS))
    for name, text in COMMANDS.items():
        command = add_command(commands, "export", name, text, ExportSettings)
        if name == "examine":
            command.add_argument("artefact", type=Path, help="a .gguf file, or a directory of merged weights")
            command.usage = "python -m export examine ARTEFACT [--config FILE] [--section.key VALUE ...]"
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # see train/__main__.py
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.filterwarnings("ignore", category=UserWarning)
    settings, options = parse_arguments(make_parser(), ExportSettings, "export", sys.argv[1:] if argv is None else argv)
    if options.command == "examine":
        return _examine(settings, options.artefact)
    return _run(settings)


def _examine(settings: ExportSettings, path: Path) -> int:
    from export.stage import examine_file

    artefact = examine_file(settings, path)
    show("held-out responses, nats a token", [artefact], None)
    return 0 if artefact.verdict == "pass" else 1


def _run(settings: ExportSettings) -> int:
    from export.stage import export

    run, record = export(settings)
    show(f"{record.run_id}: held-out responses, nats a token", record.artefacts, record.default)
    if record.default is None:
        warn("no artefact passes: serve will refuse this run; the table says why")
    else:
        say(f"export: finished: {run.path}; serve loads {record.default}")
    say(f"report: {report.write(run)}")
    say(f"next: make serve RUN={run.id}")
    return 0


def show(title: str, artefacts: Sequence[Artefact], default: str | None) -> None:
    """Print the artefacts with their size, fidelity and verdict."""
    made = Table(title=title, title_justify="left")
    for name in ("artefact", "size", "KL", "top-1", "loss", "base's", "trained's", "verdict"):
        made.add_column(name, justify="left" if name in ("artefact", "verdict") else "right", overflow="fold")
    for artefact in artefacts:
        made.add_row(*_row(artefact, artefact.path == default))
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    console.print(made)
    for artefact in artefacts:
        if artefact.verdict == "fail":
            console.print(f"fail: {artefact.path}: {artefact.why}", markup=False, soft_wrap=True)


def _row(artefact: Artefact, default: bool) -> list[str]:
    f = artefact.fidelity
    name = artefact.path + ("  (default)" if default else "")
    return [
        name,
        f"{artefact.bytes / 1e6:,.0f} MB",
        _number(f.kl),
        "-" if f.top1_agreement is None else f"{f.top1_agreement:.1%}",
        _number(f.loss),
        _number(f.loss_base),
        _number(f.loss_trained),
        artefact.verdict,
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


if __name__ == "__main__":
    run_edge(main)
