"""python -m export run | examine | base | push | card: merge, convert, quantize, examine and publish."""

from __future__ import annotations

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports exits without a traceback

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from burnish.children.path import only_packages
from burnish.errors import explain_lack_of_memory, resumable, run_edge
from burnish.process import supervise

if __name__ == "__main__":
    only_packages()
    explain_lack_of_memory()
    supervise("the export")  # before imports that start threads

from rich.console import Console
from rich.table import Table

from burnish import lock, report
from burnish.config import ConfigError, add_command, parse_arguments
from burnish.console import cell, printable, say, warn
from burnish.environment import prepared_process
from burnish.exam.gate import HOLDS
from burnish.exam.thresholds import qualified
from burnish.hub import PAGE
from burnish.records import Artifact, ExportRecord
from burnish.versions import line as version_line

from .settings import ExportSettings

COMMANDS = {
    "run": "merge the adapter, create GGUF files, examine them and write export.json",
    "examine": "examine a GGUF file or merged directory against a run's exam; exit code 1 unless it passes",
    "push": "publish passing artifacts on the Hub, with records and a model card; private unless push.public",
    "base": "create the untuned base's GGUF in the cache, to compare the run with it; print its path",
    "card": "print the model card that push would publish; needs no network",
}


def make_parser() -> argparse.ArgumentParser:
    """Return the command-line parser."""
    parser = argparse.ArgumentParser(prog="python -m export", description=__doc__, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=version_line())
    commands = parser.add_subparsers(dest="command", required=True, metavar="|".join(COMMANDS))
    for name, text in COMMANDS.items():
        command = add_command(commands, "export", name, text, ExportSettings)
        if name == "examine":
            command.add_argument("artifact", type=Path, help="a .gguf file, or a directory of merged weights")
            command.usage = "python -m export examine ARTIFACT [--config FILE] [--section.key VALUE ...]"
        if name == "push":
            command.add_argument(
                "--dry-run", "--dry_run", action="store_true", help="list the files and their sizes; needs no network"
            )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    with prepared_process():
        settings, options = parse_arguments(make_parser(), ExportSettings, "export", argv)
        return _command(options, settings)


def _command(options: argparse.Namespace, settings: ExportSettings) -> int:
    if options.command == "examine":
        return _examine(settings, options.artifact)
    if options.command == "base":
        return _base(settings)
    if options.command in ("push", "card"):
        return _push(settings, options.command == "card", getattr(options, "dry_run", False))
    with resumable():
        return _run(settings)


def _examine(settings: ExportSettings, path: Path) -> int:
    from .stage import examine_file

    artifact = examine_file(settings, path)
    show("held-out responses, nats per token", [artifact], None, settings.gate.model_dump())
    return 0 if artifact.verdict == "pass" else 1


def _base(settings: ExportSettings) -> int:
    from .base import make_base

    with resumable():
        for path in make_base(settings):
            print(path)
    return 0


def _run(settings: ExportSettings) -> int:
    from .stage import export

    run, record = export(settings)
    show(f"{record.run_id}: held-out responses, nats per token", record.artefacts, record.default, record.gate)
    if record.no_gguf is not None:
        warn(f"no GGUF was made, but `make serve` needs one: {record.no_gguf}")
    elif record.default is None:
        warn("no artifact passes, so serve will refuse this run: see the table for the reasons")
    else:
        say(f"export: finished: {run.path}; serve loads {record.default}")
    say(f"report: {report.write(run)}")
    say(f"next: {_next(run.id, record)}")
    return 0


def _next(run: str, record: ExportRecord) -> str:
    """Return a suggested next command."""
    if record.default is not None:
        return f"make serve RUN={run}"
    if any(artifact.verdict == "pass" for artifact in record.artefacts):
        merge = "merged/ passed: transformers and vLLM can load it"
        return f"{merge}; make push RUN={run} WHAT=merged,adapter REPO=owner/name publishes it"
    if any(artifact.verdict == "inconclusive" for artifact in record.artefacts):
        return "train with more held-out rows, then export again: the table has the number needed"
    again = "see the table and the report for what failed, then train again"
    return again if record.no_gguf else f"{again}; or make export RUN={run} QUANTS=Q8_0,Q6_K"


def _push(settings: ExportSettings, card_only: bool, dry_run: bool) -> int:
    from .hub import card, contents, push, selection

    publication, section = selection.select(settings)
    if card_only:
        print(printable(card.card(publication)))
        return 0
    if section.repo is None:
        raise ConfigError("push.repo is required: set REPO=owner/name, or push.repo in the training config")
    if dry_run:
        push.show(publication, section, contents.collect(publication))
        return 0
    with lock.hold(publication.run.path, "a push"):
        publication, section = selection.select(settings)  # an export may have finished meanwhile
        with resumable():
            record = push.publish(publication, section, contents.collect(publication))
    say(f"push: published: {PAGE}/{record.repo}, commit {record.commit}")
    say(f"report: {report.write(publication.run)}")
    if publication.ggufs:
        say(f"next: make serve MODEL=hf://{record.repo}")
    return 0


def show(title: str, artifacts: Sequence[Artifact], default: str | None, gate: Mapping[str, float]) -> None:
    """Print the artifacts with size, fidelity and verdict, and any thresholds looser than the defaults."""
    made = Table(title=cell(title), title_justify="left")
    for name in ("artifact", "size", "KL", "top-1", "loss", "base loss", "trained loss", "verdict"):
        made.add_column(name, justify="left" if name in ("artifact", "verdict") else "right", overflow="fold")
    for artifact in artifacts:
        made.add_row(*map(cell, _row(artifact, artifact.path == default)))
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    console.print(made)
    for artifact in artifacts:
        if artifact.verdict != "pass":
            console.print(cell(f"{artifact.verdict}: {artifact.path}: {artifact.why}"), soft_wrap=True)
    for remark, paths in _remarks(artifacts).items():
        console.print(cell(f"note: {', '.join(paths)}: {remark}"), soft_wrap=True)
    if remark := qualified(gate):
        console.print(f"gate: {remark}", markup=False, soft_wrap=True)


def _remarks(artifacts: Sequence[Artifact]) -> dict[str, list[str]]:
    """Return remarks on unjudged figures of passing artifacts, with the artifact paths."""
    found: dict[str, list[str]] = {}
    for artifact in artifacts:
        head, _, remark = artifact.why.partition("; ")
        if artifact.verdict == "pass" and head == HOLDS and remark:
            found.setdefault(remark, []).append(artifact.path)
    return found


def _row(artifact: Artifact, default: bool) -> list[str]:
    f = artifact.fidelity
    name = artifact.path + ("  (default)" if default else "")
    return [
        name,
        f"{artifact.bytes / 1e6:,.0f} MB",
        _number(f.kl),
        "-" if f.top1_agreement is None else f"{f.top1_agreement:.1%}",
        _number(f.loss),
        _number(f.loss_base),
        _number(f.loss_trained),
        artifact.verdict,
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


if __name__ == "__main__":
    run_edge(main)
