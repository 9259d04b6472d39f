"""python -m train check | plan | run: read and preview data; estimate memory, disk and time; train."""

from __future__ import annotations

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports exits without a traceback

import os
import sys

from burnish.children.path import only_packages
from burnish.errors import explain_lack_of_memory, resumable, run_edge
from burnish.process import supervise

if __name__ == "__main__":
    only_packages()
    explain_lack_of_memory()
if __name__ == "__main__" and not os.environ.get("UNSLOTH_FIRST"):  # if set, a parent process is already waiting
    supervise("training", llama=False)  # before imports that start threads
if os.environ.get("UNSLOTH_FIRST"):
    import train.models.unsloth  # noqa: F401  # patches the modules imported below

import argparse
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from burnish import children, lock, report
from burnish.config import ConfigError, add_command, parse_arguments
from burnish.console import say, warn
from burnish.environment import prepared_process
from burnish.files import check_writable
from burnish.publish import preflight
from burnish.records import TrainRecord
from burnish.run import Run
from burnish.versions import line as version_line

from . import resume
from .data.prepare import Prepared, prepare
from .data.preview import show, template_changes
from .peft_config import start_notes
from .plan.environment import environment_faults
from .resolved import Resolved
from .settings import TrainSettings
from .world import World

COMMANDS = {
    "check": "read, lint and preview the data; loads no weights",
    "plan": "show the plan of a run with its memory, disk and time; loads no weights",
    "run": "train an adapter and examine it",
}


def make_parser() -> argparse.ArgumentParser:
    """Return the command-line parser."""
    parser = argparse.ArgumentParser(prog="python -m train", description=__doc__, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=version_line())
    commands = parser.add_subparsers(dest="command", required=True, metavar="|".join(COMMANDS))
    for name, text in COMMANDS.items():
        command = add_command(commands, "train", name, text, TrainSettings)
        if name == "run":
            resume = "resume the newest unfinished run with these settings; fail if there is none"
            command.add_argument("--resume", action="store_true", help=resume)
        if name == "check":
            page = "also write a page with the warnings, the lengths, and rows with their trained part in colour"
            command.add_argument("--html", metavar="FILE", help=page)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    with prepared_process():
        settings, options = parse_arguments(make_parser(), TrainSettings, "train", argv)
        world = World.read(os.environ)
        with world.only_main_prints():
            _command(options, settings, world)
    return 0


def _command(options: argparse.Namespace, settings: TrainSettings, world: World) -> None:
    if faults := environment_faults(settings, world):  # in every process, so that none waits for another
        raise ConfigError(faults)
    if options.command == "run":
        settings = resume.choose(settings, options.resume)
        if world.is_main and settings.run.name is not None:
            lock.check(Path(settings.run.root) / settings.run.name)
    if options.command == "check" and options.html:  # before the rows are read
        check_writable(Path(options.html).parent, 0, "--html")
        if Path(options.html).is_dir():
            raise ConfigError(f"--html {options.html}: expected a file such as check.html, got a directory")
    prepared = prepare(settings)
    started, warning = start_notes(settings)
    if started:
        say(started)
    if warning:
        warn(warning)
    if options.command == "check":
        show(prepared, settings.data)
        if options.html:
            from .data.page import write_page

            say(f"page: {write_page(Path(options.html), prepared, settings)}")
        return
    for change in template_changes(prepared):
        say(f"template: {change}")
    if options.command == "plan":
        from .plan.preflight import plan_run

        plan_run(settings, prepared, world)
    else:
        with resumable():
            _run(settings, prepared, world)


def _run(settings: TrainSettings, prepared: Prepared, world: World) -> None:
    if resume.is_finished(settings):
        run = resume.finished_run(settings, prepared)
        say(f"train: run '{run.id}' is finished and unchanged: nothing to do")
        return
    if world.is_main:
        preflight(settings.push, prepared.base.path)
    from .plan.preflight import plan_run  # torch and TRL take seconds: import them after the data checks

    resolved = plan_run(settings, prepared, world)
    # after the machine checks, so that an error leaves no run behind
    settings = resume.settle_name(settings, prepared)
    place = Path(settings.run.root).resolve() / str(settings.run.name)
    with lock.hold(place, "training") if world.is_main else nullcontext():
        _train(settings, resolved, prepared, world)


def _train(settings: TrainSettings, resolved: Resolved, prepared: Prepared, world: World) -> None:
    run, resolved = resume.open_run(settings, resolved, prepared, world)
    if resolved.base.backend == "unsloth" and not os.environ.get("UNSLOTH_FIRST"):
        say("train: restarting to import unsloth before the modules that it patches")
        variables = {**os.environ, **children.search_path(os.environ), "UNSLOTH_FIRST": "1"}
        os.execve(sys.executable, children.module("train", *sys.argv[1:]), variables)
    from . import stage
    from .loop import checkpoints

    if "tensorboard" in resolved.train.report_to:
        say(f"curves: {Path(sys.executable).with_name('tensorboard')} --logdir {run.path / 'logs'}")
    with checkpoints.explained(run.path):
        record = stage.train(resolved, prepared, run, world)
    if record is not None:
        _report(run, record)


def _report(run: Run, record: TrainRecord) -> None:
    loss = record.metrics.train_loss
    shown = "not finite" if loss is None else f"{loss:.3f}"
    say(f"train: finished: {run.path}; loss {shown}, {record.metrics.train_runtime_s:.0f} s")
    say(f"report: {report.write(run)}")
    say(f"next: make export RUN={run.id}")


if __name__ == "__main__":
    run_edge(main)
