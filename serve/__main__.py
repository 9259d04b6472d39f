"""python -m serve [SETTINGS]: serve a run or a .gguf file.   python -m serve chat: talk to a running server."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from burnish.children.path import only_packages
from burnish.errors import explain_lack_of_memory, run_edge
from burnish.process import supervise

if __name__ == "__main__":
    only_packages()
    explain_lack_of_memory()
if __name__ == "__main__" and sys.argv[1:2] != ["chat"]:
    supervise("the server")  # before the imports that start threads

from burnish.config import add_arguments, parse_arguments
from burnish.versions import line as version_line

from .settings import ServeSettings

STAGE = "SERVE"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["chat"]:
        from .terminal import main as chat

        return chat(words[1:])
    if words[:1] == ["run"]:
        words = words[1:]
    parser = argparse.ArgumentParser(prog="python -m serve", description="Serve a model behind OpenAI's API.")
    parser.epilog = "python -m serve chat talks to a running server; docs/serving.md explains every setting."
    parser.add_argument("--version", action="version", version=version_line())
    add_arguments(parser, ServeSettings, STAGE)
    settings, _ = parse_arguments(parser, ServeSettings, STAGE, words)
    from .server import run

    return run(settings)


if __name__ == "__main__":
    run_edge(main)
