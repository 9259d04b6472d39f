"""Training speed and memory against unsloth and TRL, one process each, in turn on one GPU, at an 8B model's true shape.

    python -m bench.train [--loads dense,chat,long] [--only burnish,unsloth] [--rounds 1] [--base DIR] [--json F]

Weights are random, since speed depends on the shape; every contender trains QLoRA r=16 on all linear layers, in NF4
with double quantization. MFU counts a frozen base's arithmetic (forward, backward by the input), against a product.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

LINEAR, HEAD = 6_979_321_856, 525_336_576  # parameters of Llama-3.1-8B's layers and of its head
CASES: dict[str, list[tuple[str, str, list[str]]]] = {
    "dense": [
        ("burnish", "burnish", ["--micro_batch_tokens", "4096"]),
        ("unsloth", "unsloth", []),
        ("burnish, checkpointing", "burnish", ["--micro_batch_tokens", "4096", "--checkpointing", "true"]),
        ("unsloth, checkpointing", "unsloth", ["--checkpointing", "true"]),
        ("TRL, checkpointing", "trl", ["--checkpointing", "true"]),
    ],
    "chat": [
        ("burnish", "burnish", []),
        ("unsloth, as its guides", "unsloth", ["--checkpointing", "true"]),
        ("unsloth, packed", "unsloth", ["--packing"]),
        ("TRL, checkpointing", "trl", ["--checkpointing", "true"]),
    ],
    "long": [
        ("burnish", "burnish", ["--checkpointing", "true"]),
        ("unsloth", "unsloth", ["--checkpointing", "true"]),
    ],
    "tight": [
        (
            "burnish, 12 GiB",
            "burnish",
            ["--memory_gib", "12", "--checkpointing", "true", "--micro_batch_tokens", "4096"],
        ),
        ("unsloth, 12 GiB", "unsloth", ["--memory_gib", "12", "--checkpointing", "true"]),
    ],
}
STEPS = {"dense": 8, "chat": 20, "long": 4, "tight": 6}


def main() -> None:
    """Run the cases in turn and print a row each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--loads", default="dense,chat,long,tight", help=f"of {', '.join(CASES)}")
    parser.add_argument("--only", help="contenders, where not all: burnish,unsloth,trl")
    parser.add_argument("--rounds", type=int, default=1, help="processes of each contender, interleaved")
    parser.add_argument("--base", type=Path, help="a checkpoint of that shape; none: one is made in shared memory")
    parser.add_argument("--steps", type=int, help="steps a process; none: enough for a median")
    parser.add_argument("--limit_s", type=int, default=180, help="seconds a process may take")
    parser.add_argument("--json", type=Path, help="file for the rows")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        base = options.base or Path(folder)
        if not (base / "config.json").is_file():
            subprocess.run([sys.executable, "-m", "bench.train_shape", str(base)], check=True, capture_output=True)
        rate = matrix_rate()
        print(f"matrix product, 8192³ in bfloat16: {rate / 1e12:.0f} TFLOP/s", flush=True)
        rows: list[dict[str, Any]] = []
        for load in options.loads.split(","):
            for _ in range(options.rounds):
                for name, contender, flags in CASES[load]:
                    if options.only and contender not in options.only.split(","):
                        continue
                    rows.append(one(name, contender, load, flags, base, options))
                    print(line(rows[-1], rate), flush=True)
                    if options.json:
                        options.json.write_text(json.dumps({"matrix_flops": rate, "rows": rows}, indent=1))


def one(
    name: str, contender: str, load: str, flags: list[str], base: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """Run one contender in its own process; its figures, or what it said before it died."""
    data = "dense" if load == "tight" else load
    steps = str(options.steps or STEPS[load])
    command = [sys.executable, "-m", "bench.train_contenders", contender, data, "--base", str(base), "--steps", steps]
    begun = time.time()
    try:
        done = subprocess.run([*command, *flags], capture_output=True, text=True, timeout=options.limit_s)
        said = done.stdout.strip().splitlines()
        result: dict[str, Any] = json.loads(said[-1]) if done.returncode == 0 else {"failed": done.stderr[-600:]}
    except subprocess.TimeoutExpired:
        result = {"failed": f"not done after {options.limit_s} s"}
    return {**result, "name": name, "load": load, "process_s": time.time() - begun}


def matrix_rate() -> float:
    """Return the measured rate of a large product, in a process that gives its memory back."""
    code = "from train.model import matrix_flops; import torch; print(matrix_flops(torch.bfloat16, 8192))"
    made = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(2)]
    return statistics.median(float(done.stdout.split()[-1]) for done in made)


def line(row: dict[str, Any], rate: float) -> str:
    """Return a row for the terminal."""
    head = f"{row['load']:6} {row['name']:24}"
    if "failed" in row:
        return f"{head} FAILED: {row['failed'].strip()[-300:]}"
    mfu = row["tokens_per_s"] * (4 * LINEAR + 4 * HEAD) / rate
    return (
        f"{head} {row['tokens_per_s']:7,.0f} tokens/s [{row['low']:,.0f}-{row['high']:,.0f}]  MFU {mfu:.2f}"
        f"  peak {row['peak_gib']:.1f} GiB (reserved {row['reserved_gib']:.1f})  first step {row['first_step_s']:.0f} s"
        f"  loss {row['losses'][0]:.3f} -> {row['losses'][-1]:.3f}"
    )


if __name__ == "__main__":
    main()
