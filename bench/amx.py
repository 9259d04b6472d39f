"""AMX against llama.cpp's other kernels: prefill and decode of GGUF files, in interleaved rounds in one process.

    python -m bench.amx [FILE.gguf ...] [--random smollm2-135m,llama-1b] [--types Q8_0,Q4_K_M,F16] [--rounds 7]

--random writes models with real shapes and random weights, whose values do not affect speed. Requires only numpy and
llama_cpp.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from burnish.llama import Context, Model, cpu_variant, quantize
from burnish.llama.amx import Decision, why_no_amx
from burnish.machine import cpu_count
from tools.tiny_gguf import Size, write

SIZES = {
    "tiny": Size(),
    "smollm2-135m": Size(576, 1536, 9, 3, 30, 8192, 49152, True),
    "llama-1b": Size(2048, 8192, 32, 8, 16, 8192, 128256, True),
}
PREFILL = 512
STEPS = 32
CLIENTS = (1, 8)
VARIANTS = {"AMX": Decision(True, True, "requested"), "none": Decision(False, False, "requested")}


def cpu_name() -> str:
    """Return the CPU's name."""
    lines = Path("/proc/cpuinfo").read_text().split("\n")
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown CPU")


def prefill(context: Context) -> float:
    """Return the tokens/s of a 512-token prompt in one batch."""
    context.clear()
    began = time.perf_counter()
    check(context.decode([5] * PREFILL, range(PREFILL), [0] * PREFILL, [False] * (PREFILL - 1) + [True]))
    return PREFILL / (time.perf_counter() - began)


def decode(context: Context, sequences: int) -> float:
    """Return the tokens/s over all sequences, with one token of each per step."""
    context.clear()
    began = time.perf_counter()
    for step in range(STEPS):
        check(context.decode([7] * sequences, [step] * sequences, range(sequences), [True] * sequences))
    return STEPS * sequences / (time.perf_counter() - began)


def check(code: int) -> None:
    """Raise RuntimeError if a batch was not decoded."""
    if code:
        raise RuntimeError(f"llama.cpp's decode returned {code}")


def measure(path: Path, threads: int, rounds: int) -> list[str]:
    """Return the table's rows for one file. Both variants stay loaded and alternate; round 0 is not counted."""
    found: dict[tuple[str, str], list[float]] = {}
    with contextlib.ExitStack() as stack:
        contexts: dict[str, Context] = {}
        for name, decision in VARIANTS.items():
            model = stack.enter_context(Model.open(path, amx=decision))
            print(f"{path.name}: {name}: buffers {model.buffers}", flush=True)
            contexts[name] = stack.enter_context(
                Context(model, n_ctx=8 * (PREFILL + 64), n_batch=PREFILL, n_seq_max=8, threads=threads, unified=False)
            )
        for turn in range(rounds + 1):
            for name in list(VARIANTS)[:: 1 if turn % 2 else -1]:
                context = contexts[name]
                rates = {f"prefill {PREFILL}": prefill(context)}
                rates |= {f"decode, {n} at once": decode(context, n) for n in CLIENTS}
                for what, rate in rates.items() if turn else ():
                    found.setdefault((what, name), []).append(rate)
    names = dict.fromkeys(what for what, _ in found)
    return [row(path.stem, what, found[what, "AMX"], found[what, "none"]) for what in names]


def row(file: str, what: str, amx: Sequence[float], none: Sequence[float]) -> str:
    """Return one row: medians, minimum and maximum, and the ratio of the medians."""
    cells = [f"{statistics.median(rates):.0f} ({min(rates):.0f}–{max(rates):.0f})" for rates in (amx, none)]
    return f"| {file} | {what} | {cells[0]} | {cells[1]} | {statistics.median(amx) / statistics.median(none):.2f} |"


def random_models(folder: Path, names: Sequence[str], types: Sequence[str]) -> list[Path]:
    """Write random models of these shapes in each of these types."""
    made = []
    for name in names:
        source = folder / f"{name}-F16.gguf"
        write(source, SIZES[name])
        for kind in types:
            target = folder / f"{name}-{kind}.gguf"
            if kind != "F16":
                quantize(source, target, kind)
            made.append(target)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("files", nargs="*", type=Path, help=".gguf files")
    parser.add_argument("--random", default="", help="shapes to write: " + ", ".join(SIZES))
    parser.add_argument("--types", default="Q8_0,Q4_K_M,F16", help="types of the random models")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=cpu_count())
    options = parser.parse_args()
    missing = why_no_amx()
    print(f"{cpu_name()}; {options.threads} threads; llama.cpp variant {cpu_variant() or 'native'}", flush=True)
    print(f"no AMX: {missing}; both columns use the same kernels" if missing else "AMX available", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        names = [name for name in options.random.split(",") if name]
        files = [*options.files, *random_models(Path(folder), names, options.types.split(","))]
        rows = [line for file in files for line in measure(file, options.threads, options.rounds)]
    print("\ntokens/s: median of the rounds (minimum–maximum)\n")
    print("| file | what | AMX | without | ratio |\n|---|---|---|---|---|")
    print("\n".join(rows), flush=True)


if __name__ == "__main__":
    main()
