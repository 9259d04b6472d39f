"""Training speed and memory against unsloth and TRL, one process each, in turn on one GPU, with an 8B model's shape.

    python -m bench.train [--loads dense,chat,long,tight,start] [--only burnish,unsloth] [--rounds 3] [--json F]

Weights are random, since speed depends only on the shape. Every contender trains QLoRA r=16 on all linear layers, in
NF4 with double quantization. The contenders in a load start together and then alternate every few steps, so that they
run at the same clocks and temperatures. MFU is the arithmetic of a frozen base (forward, and backward for the inputs)
relative to the measured rate of a matrix product.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from bench.training.turns import Contender

LINEAR, HEAD = 6_979_321_856, 525_336_576  # parameters of Llama-3.1-8B's layers and of its head
CHECKPOINTING, NO_CHECKPOINTING = ["--checkpointing", "true"], ["--checkpointing", "false"]
LIKE_PEERS = ["--micro_batch_tokens", "4096"]  # like the peers' two rows of 2,048


class Load(NamedTuple):
    """Data, warm-up steps, steps per turn, and the contenders as (title, contender, flags)."""

    data: str
    warm: int
    turn: int
    contenders: list[tuple[str, str, list[str]]]


LOADS = {
    "dense": Load("dense", 2, 3, [
        ("burnish", "burnish", [*LIKE_PEERS, *NO_CHECKPOINTING]),
        ("unsloth", "unsloth", NO_CHECKPOINTING),
        ("burnish, checkpointing", "burnish", [*LIKE_PEERS, *CHECKPOINTING]),
        ("unsloth, checkpointing", "unsloth", CHECKPOINTING),
        ("burnish, 16 bits", "burnish", [*LIKE_PEERS, *NO_CHECKPOINTING, "--quantization", "none"]),
        ("TRL, checkpointing", "trl", CHECKPOINTING),
    ]),
    "chat": Load("chat", 3, 6, [
        ("burnish", "burnish", []),
        ("unsloth, as its guides", "unsloth", CHECKPOINTING),
        ("unsloth, packed", "unsloth", ["--packing"]),
        ("TRL, checkpointing", "trl", CHECKPOINTING),
    ]),
    "long": Load("long", 1, 1, [
        ("burnish", "burnish", []),
        ("unsloth", "unsloth", NO_CHECKPOINTING),
        ("unsloth, checkpointing", "unsloth", CHECKPOINTING),
    ]),
    "tight": Load("dense", 2, 3, [
        ("burnish, 12 GiB", "burnish", ["--memory_gib", "12"]),
        ("unsloth, 12 GiB", "unsloth", ["--memory_gib", "12", *CHECKPOINTING]),
    ]),
}  # fmt: skip
# time from process start to first step, each alone, with weights in the page cache; from the second round
# on, contenders can use their own caches
START = [("burnish", "burnish", []), ("unsloth, as its guides", "unsloth", CHECKPOINTING)]


def main() -> None:
    """Run the loads in turn and print a row per contender."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--loads", default=",".join([*LOADS, "start"]), help=f"comma-separated loads: {', '.join(LOADS)}, start"
    )
    parser.add_argument("--only", help="contenders to run: burnish, unsloth, trl; all by default")
    parser.add_argument("--rounds", type=int, default=3, help="turns per contender")
    parser.add_argument("--base", type=Path, help="directory of a checkpoint of that shape; created if missing")
    parser.add_argument("--limit_s", type=int, default=240, help="time limit of loading and of a turn, in seconds")
    parser.add_argument("--json", type=Path, help="file for the rows")
    parser.add_argument("--profile", type=Path, help="directory for profiles of two steps per contender")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        base = options.base or Path(folder)
        if not (base / "config.json").is_file():
            subprocess.run([sys.executable, "-m", "bench.training.shape", str(base)], check=True, capture_output=True)
        rate = matrix_rate()
        print(f"matrix product, 8192³ in bfloat16: {rate / 1e12:.0f} TFLOP/s", flush=True)
        rows: list[dict[str, Any]] = []
        for load in options.loads.split(","):
            for row in starts(base, options) if load == "start" else turns(load, base, options):
                rows.append({**row, "load": load})
                print(line(rows[-1], rate), flush=True)
                if options.json:
                    options.json.write_text(json.dumps({"matrix_flops": rate, "rows": rows}, indent=1))


def turns(name: str, base: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Start all contenders of a load together and interleave their training; return their results or errors."""
    load = LOADS[name]
    steps = load.warm + options.rounds * load.turn
    running = []
    for title, whose, flags in chosen(load.contenders, options):
        counted = ["--steps", str(steps), "--warm", str(load.warm), "--turn", str(load.turn)]
        if options.profile:
            flags = [*flags, "--profile", str(options.profile / f"{name}-{title.replace(', ', '-').replace(' ', '-')}")]
        running.append(Contender(title, command(whose, load.data, base, [*counted, *flags])))
    for contender in running:
        contender.wait(options.limit_s)
    for _ in range(options.rounds):
        for contender in running:
            contender.go()
            contender.wait(options.limit_s)
    for contender in running:
        contender.close()
    return [{"name": contender.name, **(contender.result or {})} for contender in running]


def starts(base: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Start each contender alone for a step; yield a row with the time to its first step."""
    for number in range(options.rounds):
        for title, whose, flags in chosen(START, options):
            contender = Contender(title, command(whose, "chat", base, ["--steps", "2", "--warm", "1", *flags]))
            contender.wait(options.limit_s)
            yield {"name": f"{title}, {number + 1}", **(contender.result or {})}


def chosen(
    contenders: list[tuple[str, str, list[str]]], options: argparse.Namespace
) -> list[tuple[str, str, list[str]]]:
    """Return the contenders selected by --only."""
    return [each for each in contenders if not options.only or each[1] in options.only.split(",")]


def command(whose: str, data: str, base: Path, flags: list[str]) -> list[str]:
    return [sys.executable, "-m", "bench.training.contenders", whose, data, "--base", str(base), *flags]


def matrix_rate() -> float:
    """Return the measured rate of a large matrix product in FLOP/s, from a child process that frees its memory."""
    code = (
        "from train.plan.machine import matrix_flops; import torch;"
        " print(matrix_flops(torch.device('cuda'), torch.bfloat16, 8192))"
    )
    made = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(2)]
    return statistics.median(float(done.stdout.split()[-1]) for done in made)


def line(row: dict[str, Any], rate: float) -> str:
    """Return a row for the terminal."""
    head = f"{row['load']:6} {row['name']:26}"
    if "failed" in row:
        return f"{head} FAILED: {row['failed'].strip()[-300:]}"
    if row["load"] == "start":
        return f"{head} first step after {row['first_step_s']:.1f} s"
    mfu = row["tokens_per_s"] * (4 * LINEAR + 4 * HEAD) / rate
    planned = f", planned {row['planned_gib']:.1f}" if "planned_gib" in row else ""
    return (
        f"{head} {row['tokens_per_s']:7,.0f} tokens/s [{row['low']:,.0f}-{row['high']:,.0f}] of {row['steps']} steps"
        f"  MFU {mfu:.2f}  peak {row['peak_gib']:.1f} GiB (reserved {row['reserved_gib']:.1f}{planned})"
        f"  loss {row['losses'][0]:.3f} -> {row['losses'][-1]:.3f}"
    )


if __name__ == "__main__":
    main()
