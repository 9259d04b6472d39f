"""Commands that run llama.cpp in a separate process.

python -m burnish.llama quantize SOURCE TARGET TYPE [--threads N] [--requantize]: quantize; Ctrl-C ends it.
python -m burnish.llama load-test FILE [--amx auto|on|off]: load and run a file; a crash ends only this process.
python -m burnish.llama tokenize FILE: convert a JSON list of texts on standard input to a JSON list of their ids.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from dataclasses import asdict
from pathlib import Path

from ..errors import run_edge
from ..process import end_with_parent
from .load_test import load_test
from .model import Model
from .quantize import quantization_types, quantize


def main() -> int:
    """Run one command; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m burnish.llama", description="run llama.cpp in a separate process")
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("quantize", help="quantize a GGUF file")
    command.set_defaults(run=_quantize)
    command.add_argument("source", help="a 16-bit GGUF file")
    command.add_argument("target", help="the file to write")
    command.add_argument("type", help="one of " + ", ".join(sorted(quantization_types())))
    command.add_argument("--threads", type=int, default=None, help="threads (default: the available processors)")
    command.add_argument("--requantize", action="store_true", help="allow a source that is already quantized")
    command = commands.add_parser("load-test", help="load a GGUF file and compute with it")
    command.set_defaults(run=_load_test)
    command.add_argument("file", type=Path)
    command.add_argument("--amx", choices=("auto", "on", "off"), default="auto", help="see burnish/llama/amx.py")
    command = commands.add_parser("tokenize", help="tokenize texts with the vocabulary of a GGUF file")
    command.set_defaults(run=_tokenize)
    command.add_argument("file", help="a GGUF file; a vocabulary alone is enough")
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C also ends the process inside llama.cpp
    code: int = options.run(options)
    return code


def _load_test(options: argparse.Namespace) -> int:
    end_with_parent()
    print(json.dumps(asdict(load_test(options.file, options.amx))))
    return 0


def _tokenize(options: argparse.Namespace) -> int:
    with Model.open(options.file, vocab_only=True) as model:
        json.dump([model.tokenize(text, add_special=False) for text in json.load(sys.stdin)], sys.stdout)
    return 0


def _quantize(options: argparse.Namespace) -> int:
    """Print one line per tensor ("tensor 3/272 NAME TYPE"), the fallbacks, and a final "done" line."""

    def report(number: int, count: int, name: str, kind: str) -> None:
        print(f"tensor {number}/{count} {name} {kind}", flush=True)

    done = quantize(
        options.source,
        options.target,
        options.type,
        threads=options.threads,
        requantize=options.requantize,
        progress=report,
    )
    for name, change in done.fallbacks.items():
        print(f"fallback {name} {change}")
    print(f"done {done.source_mib} MiB -> {done.target_mib} MiB, {done.bits_per_weight} bits per weight", flush=True)
    return 0


if __name__ == "__main__":
    run_edge(main)
