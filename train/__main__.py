"""python -m train check | plan | run: read and preview data; foresee memory, disk and time; train."""

from __future__ import annotations

import os
import sys

from burnish.process import supervise

if __name__ == "__main__" and not os.environ.get("UNSLOTH_FIRST"):  # then the parent waits already
    supervise("training", llama=False)  # before the imports that start threads
if os.environ.get("UNSLOTH_FIRST"):
    import train.models.unsloth  # noqa: F401  # it patches what the imports below bring

import argparse
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from burnish import lock, report
from burnish.config import add_command, parse_arguments
from burnish.console import say
from burnish.errors import run_edge
from burnish.publish import preflight

from . import resume
from .data.prepare import Prepared, prepare
from .settings import TrainSettings

if TYPE_CHECKING:  # it brings torch
    from .plan.resolve import Resolved

COMMANDS = {
    "check": "read, lint and preview the data; loads no weights",
    "plan": "say what a run would do, and what memory, disk and time it would take; loads no weights",
    "run": "train an adapter and examine it",
}


def make_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = argparse.ArgumentParser(prog="python -m train", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="|".join(COMMANDS))
    for name, text in COMMANDS.items():
        command = add_command(commands, "train", name, text, TrainSettings)
        if name == "run":
            resume = "go on with the newest unfinished run of these settings; an error where there is none"
            command.add_argument("--resume", action="store_true", help=resume)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    quiet()
    settings, options = parse_arguments(make_parser(), TrainSettings, "train", sys.argv[1:] if argv is None else argv)
    if options.command == "run":
        settings = resume.choose(settings, options.resume)
    prepared = prepare(settings)
    if options.command == "check":
        from .data.preview import show

        show(prepared, settings.data.max_length)
        return 0
    if options.command == "plan":
        from .plan.preflight import decide

        decide(settings, prepared)
        return 0
    return _run(settings, prepared)


def _run(settings: TrainSettings, prepared: Prepared) -> int:
    if resume.is_finished(settings):
        run = resume.finished_run(settings, prepared)
        say(f"train: run '{run.id}' is finished and unchanged; nothing to do")
        return 0
    preflight(settings.push, prepared.base.path)
    from .plan.preflight import decide  # torch and TRL take seconds: not before the data is known to be good

    resolved = decide(settings, prepared)
    # not before the machine is known to do: a fault leaves no run behind
    settings = resume.settle_name(settings, prepared)
    with lock.hold(Path(settings.run.root).resolve() / str(settings.run.name), "training"):
        return _train(settings, resolved, prepared)


def _train(settings: TrainSettings, resolved: Resolved, prepared: Prepared) -> int:
    run, resolved = resume.open_run(settings, resolved, prepared)
    if resolved.base.backend == "unsloth" and not os.environ.get("UNSLOTH_FIRST"):
        say("train: starting again, with unsloth imported before everything that it patches")
        os.execve(sys.executable, [sys.executable, "-m", "train", *sys.argv[1:]], {**os.environ, "UNSLOTH_FIRST": "1"})
    from . import stage
    from .loop import errors

    if "tensorboard" in resolved.train.report_to:
        say(f"curves: {Path(sys.executable).with_name('tensorboard')} --logdir {run.path / 'logs'}")
    with errors.named(run.path):
        record = stage.train(resolved, prepared, run)
    say(f"train: finished: {run.path}; loss {record.metrics.train_loss:.3f}, {record.metrics.train_runtime_s:.0f} s")
    say(f"report: {report.write(run)}")
    say(f"next: make export RUN={run.id}")
    return 0


def quiet() -> None:
    """Keep the libraries' own chatter off the terminal: what matters is said by us."""
    # threads that spin while they wait for one another make a step ten times slower beside any other busy process
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # micro-batches differ in length: without it every new length asks the driver for memory, and leaves holes
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    for library in ("trl", "transformers", "bitsandbytes"):
        logging.getLogger(library).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=UserWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)


if __name__ == "__main__":
    run_edge(main)
