"""python -m burnish.llama quantize SOURCE TARGET TYPE [--threads N] [--requantize]: a quantizer that Ctrl-C ends."""

from __future__ import annotations

import argparse
import signal

from burnish.errors import run_edge
from burnish.llama.quantize import quantization_types, quantize


def main() -> int:
    """The command line: one line a tensor ("tensor 3/272 NAME TYPE"), the fallbacks, then one "done" line."""
    parser = argparse.ArgumentParser(prog="python -m burnish.llama", description="llama.cpp's quantizer")
    command = parser.add_subparsers(required=True).add_parser("quantize", help="quantize a GGUF file")
    command.add_argument("source", help="a 16-bit GGUF file")
    command.add_argument("target", help="the file to write")
    command.add_argument("type", help="one of " + ", ".join(sorted(quantization_types())))
    command.add_argument("--threads", type=int, default=None, help="threads (default: the processors it may use)")
    command.add_argument("--requantize", action="store_true", help="allow a source that is quantized already")
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the process inside llama.cpp too

    def tell(number: int, count: int, name: str, kind: str) -> None:
        print(f"tensor {number}/{count} {name} {kind}", flush=True)

    done = quantize(
        options.source,
        options.target,
        options.type,
        threads=options.threads,
        requantize=options.requantize,
        progress=tell,
    )
    for name, change in done.fallbacks.items():
        print(f"fallback {name} {change}")
    print(f"done {done.source_mib} MiB -> {done.target_mib} MiB, {done.bits_per_weight} bits per weight", flush=True)
    return 0


if __name__ == "__main__":
    run_edge(main)
