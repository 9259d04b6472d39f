"""python -m serve [SETTINGS]: serve a run or a .gguf file.

python -m serve chat: talk to a running server.   python -m serve generate: answer every row of a file.
python -m serve evaluate: score a run and its base on rows with known answers.
"""

from __future__ import annotations

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback for Ctrl-C during the imports

import argparse
import sys
from collections.abc import Sequence
from functools import partial

from burnish.children.path import only_packages
from burnish.errors import explain_lack_of_memory, resumable, run_edge
from burnish.process import Note, ignore_path, supervise

if __name__ == "__main__":  # before the imports that start threads
    only_packages()
    explain_lack_of_memory()
    note = (
        ignore_path
        if sys.argv[1:2] == ["chat"]
        else supervise(sys.argv[1] if sys.argv[1:2] in (["generate"], ["evaluate"]) else "the server")
    )

from burnish.config import add_arguments, parse_arguments
from burnish.versions import line as version_line

from .settings import ServeSettings

STAGE = "SERVE"


def main(argv: Sequence[str] | None = None, mapped: Note = ignore_path) -> int:
    """Run the command line and return the exit code. `mapped` is called with the path of a memory-mapped model file."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["chat"]:
        from .terminal import main as chat

        return chat(arguments[1:])
    if arguments[:1] == ["generate"]:
        return _generate(arguments[1:], mapped)
    if arguments[:1] == ["evaluate"]:
        return _evaluate(arguments[1:], mapped)
    if arguments[:1] == ["run"]:
        arguments = arguments[1:]
    parser = argparse.ArgumentParser(
        prog="python -m serve", description="Serve a model behind an OpenAI-compatible API."
    )
    parser.epilog = (
        "To chat with a running server: python -m serve chat. To answer every row of a file: python -m serve generate."
        " docs/settings.md lists every setting."
    )
    parser.add_argument("--version", action="version", version=version_line())
    add_arguments(parser, ServeSettings, STAGE)
    settings, _ = parse_arguments(parser, ServeSettings, STAGE, arguments)
    from .server import run

    return run(settings, mapped)


def _generate(arguments: Sequence[str], mapped: Note) -> int:
    from .batch.settings import GenerateSettings
    from .batch.stage import generate

    parser = argparse.ArgumentParser(prog="python -m serve generate", description="Answer every row of a file.")
    add_arguments(parser, GenerateSettings, "GENERATE")
    settings, _ = parse_arguments(parser, GenerateSettings, "GENERATE", arguments)
    return generate(settings, mapped)


def _evaluate(arguments: Sequence[str], mapped: Note) -> int:
    from .evaluate.settings import EvaluateSettings
    from .evaluate.stage import evaluate

    parser = argparse.ArgumentParser(
        prog="python -m serve evaluate", description="Score a run and its untuned base on rows with known answers."
    )
    add_arguments(parser, EvaluateSettings, "EVALUATE")
    settings, _ = parse_arguments(parser, EvaluateSettings, "EVALUATE", arguments)
    with resumable():
        return evaluate(settings, mapped)


if __name__ == "__main__":
    run_edge(partial(main, mapped=note))
