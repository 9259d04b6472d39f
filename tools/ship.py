"""make ship: check, plan, train, export and serve one data file, with one question before training starts.

Each step runs its own command, on this machine or in its container. The run has a fixed name (RUN=, or derived from the
data file), so that the same command resumes after the finished steps. Uses only the standard library: if the steps run
in containers, this machine may have no packages.
"""

from __future__ import annotations

import argparse
import os
import re
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from burnish.process import run_to_end

STEPS = {
    "check": "read, lint and preview the rows",
    "plan": "estimate memory, disk and time",
    "train": "fine-tune, and examine the trained model",
    "export": "merge, convert, quantize, and examine each file",
    "serve": "load the smallest file that passed",
}
# a setting in SET belongs to a stage by its section; a name without a section comes from TRL or unsloth
TRAIN_SECTIONS = frozenset({"base", "data", "chat", "lora", "train", "exam", "run", "push", "evaluation"})
EXPORT_SECTIONS = frozenset({"run", "merge", "gguf", "gate"})
SERVE_SECTION = "serve"
RUN_SECTION = re.compile(r"^run\s*:", re.MULTILINE)
MAX_NAME = 60  # maximum characters in a run name derived from a file name
MAX_PORT = 65535
INTERRUPTED = 130


class ShipError(Exception):
    """Raised when the steps can't start; the message is one line."""


@dataclass(frozen=True)
class Ship:
    """The run shared by all steps, where they run, and the arguments of each stage."""

    name: str
    root: str
    where: str
    port: str
    train: tuple[str, ...]
    export: tuple[str, ...]
    serve: tuple[str, ...]

    @property
    def trained(self) -> bool:
        """Whether training has finished; train compares settings and data itself."""
        return (Path(self.root) / self.name / "train.json").is_file()

    def command(self, step: str) -> list[str]:
        """Return the command line of a step."""
        stage = [sys.executable, "-m"] if self.where == "local" else ["tools/docker.sh"]
        if step == "export":
            return [*stage, "export", "run", *self.export]
        if step == "serve":
            return [*stage, "serve", *self.serve]
        return [*stage, "train", "run" if step == "train" else step, *self.train]


def options(words: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield each setting in SET: its name without dashes, and its arguments (--lora.r 32, --lora.r=32)."""
    found: list[list[str]] = []
    for word in words:
        if word.startswith("--") or not found:
            found.append([])
        found[-1].append(word)
    for option in found:
        yield option[0].partition("=")[0].removeprefix("--").replace("-", "_"), option


def by_stage(words: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """Return the arguments in SET for train, export and serve; unknown names go to train, which reports them."""
    train: list[str] = []
    export: list[str] = []
    serve: list[str] = []
    for name, option in options(words):
        section, _, key = name.partition(".")
        if section == SERVE_SECTION and key:
            serve += [f"--{option[0].partition('.')[2]}", *option[1:]]
            continue
        if section in EXPORT_SECTIONS:
            export += option
        if section in TRAIN_SECTIONS or section not in EXPORT_SECTIONS:
            train += option
    return train, export, serve


def run_name(data: str, config: str) -> str:
    """Return a run name derived from the data file's or config's name. Raises ShipError if that is impossible."""
    file = (data or config).rstrip("/").rpartition("/")[2]
    stem = re.split(r"\.(?=[A-Za-z])", file)[0]  # rows.jsonl.gz is rows, v1.2.csv is v1.2
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:MAX_NAME]
    if name in ("", "latest"):  # runs/latest is the link to the newest run
        raise ShipError(f"can't make a run name from '{data or config}': set one with RUN=")
    return name


def make_parser() -> argparse.ArgumentParser:
    """Return the parser for make's variables; the arguments in SET follow after --."""
    parser = argparse.ArgumentParser(prog="make ship", allow_abbrev=False)
    for variable in ("data", "base", "run", "quants"):
        parser.add_argument(f"--{variable}", default="")
    parser.add_argument("--config", required=True)
    parser.add_argument("--port", default="8000")
    parser.add_argument("--where", choices=("local", "docker"), default="local")
    parser.add_argument("--yes", action="store_true")
    return parser


def read(arguments: argparse.Namespace, more: Sequence[str], environ: Mapping[str, str]) -> Ship:
    """Return the steps' arguments from make's variables and SET. Raises ShipError."""
    config = Path(arguments.config)
    try:
        text = config.read_text(encoding="utf-8", errors="replace") if config.is_file() else ""
    except OSError as error:
        raise ShipError(f"{config} can't be read: {error.strerror}") from None
    if RUN_SECTION.search(text):
        raise ShipError(
            f"{config} has a section 'run', which only train would use: remove it, and set RUN=name or"
            ' SET="--run.root DIR", which apply to every step'
        )
    given = {name: option[0].partition("=")[2] if "=" in option[0] else option[-1] for name, option in options(more)}
    root = given.get("run.root") or environ.get("BURNISH_TRAIN_RUN__ROOT") or "runs"
    name = arguments.run or given.get("run.name") or environ.get("BURNISH_TRAIN_RUN__NAME")
    name = name or run_name(arguments.data, arguments.config)
    train, export, serve = by_stage(more)
    run = ["--run.name", name, "--run.root", root]
    begin = [
        *_option("--config", arguments.config),
        *_option("--data.path", arguments.data),
        *_option("--base.id", arguments.base),
    ]
    return Ship(
        name=name,
        root=root,
        where=arguments.where,
        port=arguments.port,
        train=(*begin, *train, *run),
        export=(*_option("--gguf.quants", arguments.quants), *export, *run),
        serve=("--run", name, "--runs", root, "--port", arguments.port, *serve),
    )


def _option(option: str, value: str) -> list[str]:
    return [option, value] if value else []


def go_on(ship: Ship, yes: bool) -> bool:
    """Print the next steps and ask whether to continue, unless `yes`. Raises ShipError without a terminal."""
    where = "on this machine" if ship.where == "local" else "in containers"
    say(f"\nNext, {where}, within the memory, disk and time of the plan above:")
    say(f"  train   run '{ship.name}' in {ship.root}/")
    say("  export  its merge and GGUF files, each examined against the trained model")
    say(f"  serve   the smallest file that passes, on port {ship.port}, until Ctrl-C")
    say("Ctrl-C stops at any point; run the same command again to continue.")
    if yes:
        return True
    if not sys.stdin.isatty():
        raise ShipError("can't ask for confirmation without a terminal: pass YES=1 (make ship ... YES=1)")
    print("Continue? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def say(text: str) -> None:
    """Print a line to stderr, like the steps."""
    print(text, file=sys.stderr, flush=True)


def check_later_steps(ship: Ship) -> int:
    """Check the port and, if the steps run on this machine, the settings of export and serve; return an exit code.

    Raises ShipError if the port is invalid or in use.
    """
    if not ship.port.isdecimal() or not 0 < int(ship.port) <= MAX_PORT:
        raise ShipError(f"PORT={ship.port}: expected a port, 1 to {MAX_PORT}")
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", int(ship.port))) == 0:
            raise ShipError(f"port {ship.port} is in use on this machine: choose another with PORT=")
    if ship.where == "docker":
        return 0
    return run_to_end([sys.executable, "-m", "tools.ship_settings", *ship.export, "--", *ship.serve])


def run(ship: Ship, yes: bool) -> int:
    """Run the steps; return the exit code of a failed one. Serving replaces this process."""
    steps = list(STEPS)
    if code := check_later_steps(ship):
        return code
    if ship.trained:
        say(f"=== 1/5 check, 2/5 plan: skipped, run '{ship.name}' is already trained")
    for number, step in enumerate(steps, 1):
        if ship.trained and step in ("check", "plan"):
            continue
        if step == "train" and not ship.trained and not go_on(ship, yes):
            say("ship: nothing was started")
            return 0
        say(f"\n=== {number}/{len(steps)} {step}: {STEPS[step]}")
        command = ship.command(step)
        if step == "serve":
            os.execv(command[0], command)
        if code := run_to_end(command):
            return code if code > 0 else 128 - code
    return 0


def main(argv: Sequence[str]) -> int:
    """Run make ship; return the exit code."""
    at = argv.index("--") if "--" in argv else len(argv)
    options = make_parser().parse_args(argv[:at])
    try:
        code = run(read(options, argv[at + 1 :], os.environ), options.yes)
    except ShipError as error:
        say(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        code = INTERRUPTED
    if code == INTERRUPTED:
        say("ship: stopped; run the same command again to continue")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
