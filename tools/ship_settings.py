"""Check the settings of make ship's later steps: python -m tools.ship_settings EXPORT ARGS -- SERVE ARGS.

Otherwise a misspelled setting or type would be found only after training.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TypeVar

from burnish.config import Strict, add_arguments, parse_arguments
from burnish.errors import UserError, run_edge
from export.gguf.convert import check_types
from export.settings import ExportSettings
from serve.settings import ServeSettings

S = TypeVar("S", bound=Strict)


def main() -> int:
    """Parse the arguments of both stages. Raises UserError with the errors of both."""
    words = sys.argv[1:]
    at = words.index("--")
    faults: list[str] = []
    try:
        check_types(parse(ExportSettings, "export", words[:at]).gguf.quants)
    except UserError as error:
        faults += error.faults
    try:
        parse(ServeSettings, "SERVE", words[at + 1 :])
    except UserError as error:
        faults += error.faults
    if faults:
        raise UserError(faults)
    return 0


def parse(model: type[S], stage: str, words: Sequence[str]) -> S:
    """Return a stage's settings from its arguments and variables, as its command does."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_arguments(parser, model, stage)
    return parse_arguments(parser, model, stage, words)[0]


if __name__ == "__main__":
    run_edge(main)
