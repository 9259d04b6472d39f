"""The streaming merge against PEFT's merge_and_unload + save_pretrained: wall time and peak resident memory.

    python -m bench.merge [--shapes 1b,3b] [--repeats 3] [--directory DIR] [--json FILE]

Random Llamas with the given shapes (16-bit, several shards) and a random rank-16 LoRA on all linear layers are created
under DIR and removed afterwards. Each merge runs in its own child process; the kinds alternate. Before each merge,
dirty pages are flushed and the inputs dropped from the page cache. Imports are not timed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from burnish.console import say
from burnish.files import first_line, last_line
from burnish.process import exit_reason
from export.merge.shards import Stored, row_ranges, sources, write

RANK, ALPHA = 16, 32
KINDS = ("original", "dequantized", "peft")
SHARD_BYTES = 1_000_000_000
STD = 0.02
MAX_RSS_EXTRA_BYTES, MAX_RSS_TENSORS, MAX_WALL_RATIO = 600_000_000, 3, 0.8  # the project's bounds


class Shape(NamedTuple):
    """The shape of a Llama; `tied`: the head shares the embedding's weights."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool


SHAPES = {
    "tiny": Shape(64, 128, 2, 4, 2, 512, True),
    "1b": Shape(2048, 8192, 16, 32, 8, 128256, True),
    "3b": Shape(3072, 8192, 28, 24, 8, 128256, True),
    "8b": Shape(4096, 14336, 32, 32, 8, 128256, False),
}


def linears(shape: Shape) -> dict[str, tuple[int, int]]:
    """Return each linear layer's name and shape [out, in], without the head, as in PEFT's all-linear."""
    h, i = shape.hidden, shape.intermediate
    kv = h // shape.heads * shape.kv_heads
    block = {
        "self_attn.q_proj": (h, h), "self_attn.k_proj": (kv, h), "self_attn.v_proj": (kv, h),
        "self_attn.o_proj": (h, h), "mlp.gate_proj": (i, h), "mlp.up_proj": (i, h), "mlp.down_proj": (h, i),
    }  # fmt: skip
    return {f"model.layers.{n}.{name}": size for n in range(shape.layers) for name, size in block.items()}


def make_base(directory: Path, shape: Shape) -> None:
    """Write a random float16 Llama in slices."""
    norms = [f"model.layers.{n}.{x}_layernorm" for n in range(shape.layers) for x in ("input", "post_attention")]
    sizes: dict[str, tuple[int, ...]] = {"model.embed_tokens": (shape.vocabulary, shape.hidden), **linears(shape)}
    sizes |= dict.fromkeys([*norms, "model.norm"], (shape.hidden,))
    if not shape.tied:
        sizes["lm_head"] = (shape.vocabulary, shape.hidden)
    directory.mkdir()
    tensors = [Stored(f"{name}.weight", "F16", size) for name, size in sizes.items()]
    write(directory, tensors, _random_slices, SHARD_BYTES)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "float16",
        "hidden_size": shape.hidden, "intermediate_size": shape.intermediate, "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads, "vocab_size": shape.vocabulary,
        "tie_word_embeddings": shape.tied,
    }  # fmt: skip
    (directory / "config.json").write_text(json.dumps(config))


def make_adapter(directory: Path, shape: Shape) -> None:
    """Write a random float32 LoRA on every linear layer."""
    directory.mkdir()
    tensors = []
    for name, (out, into) in linears(shape).items():
        tensors.append(Stored(f"base_model.model.{name}.lora_A.weight", "F32", (RANK, into)))
        tensors.append(Stored(f"base_model.model.{name}.lora_B.weight", "F32", (out, RANK)))
    write(directory, tensors, _random_slices, sys.maxsize)
    (directory / "model.safetensors").rename(directory / "adapter_model.safetensors")
    targets = sorted({name.rsplit(".", 1)[1] for name in linears(shape)})
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": ALPHA, "target_modules": targets}
    (directory / "adapter_config.json").write_text(json.dumps(config))


def _random_slices(tensor: Stored) -> Iterator[torch.Tensor]:
    dtype = torch.float16 if tensor.dtype == "F16" else torch.float32
    for start, stop in row_ranges(tensor):
        yield torch.empty((stop - start, *tensor.shape[1:])).normal_(std=STD).to(dtype)


def child(kind: str, base: Path, adapter: Path, target: Path) -> dict[str, float]:
    """Merge once in this process; return wall and CPU time in seconds, and peak resident bytes."""
    if kind == "peft":
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        started, cpu = time.perf_counter(), time.process_time()
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float16)
        merged: Any = PeftModel.from_pretrained(model, adapter).merge_and_unload()
        merged.save_pretrained(target, max_shard_size="4GB")
    else:
        from export.merge.dequantize import AsTrained
        from export.merge.weights import merge

        nf4 = AsTrained(torch.bfloat16, True, True, frozenset({"model.embed_tokens", "lm_head"}))
        if kind == "dequantized":
            import bitsandbytes  # noqa: F401  # imports are not timed
        started, cpu = time.perf_counter(), time.process_time()
        target.mkdir()
        as_trained = nf4 if kind == "dequantized" else None
        merge(base, adapter, target, as_trained, "float16", 4_000_000_000, lambda done, text="": None)
    return {"wall_s": time.perf_counter() - started, "cpu_s": time.process_time() - cpu, "peak_bytes": peak_bytes()}


def peak_bytes() -> int:
    """Return the peak resident memory of this process (VmHWM)."""
    lines = Path("/proc/self/status").read_text().split("\n")
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def measure(kind: str, base: Path, adapter: Path, target: Path) -> dict[str, float]:
    """Run one merge in a child process with a cold page cache."""
    shutil.rmtree(target, ignore_errors=True)
    os.sync()
    for path in (*base.iterdir(), *adapter.iterdir()):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    command = [sys.executable, "-m", "bench.merge", "--child", kind, str(base), str(adapter), str(target)]
    # as export sets it: waiting threads don't spin, since spinning is slow on a busy machine
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"{kind}: {exit_reason(done.returncode)}: {last_line(done.stderr)}")
    result: dict[str, float] = json.loads(last_line(done.stdout))
    return result


def differences(ours: Path, theirs: Path) -> dict[str, float]:
    """Compare the tensors of two merged checkpoints: the share of values that differ, and the largest step.

    A step is a difference in units of the value's float16 spacing: 1 is a rounding difference.
    """
    other = {source.name: source for source in sources(theirs)}
    values = differ = 0
    steps = 0.0
    for mine in sources(ours):
        for start, stop in row_ranges(mine):
            a, b = mine.slice(start, stop), other[mine.name].slice(start, stop)
            values += a.numel()
            if not torch.equal(a, b):
                unequal = a != b
                differ += int(unequal.sum())
                steps = max(steps, _steps(a[unequal], b[unequal]))
    return {"values": values, "tensors": len(other), "differ": differ / values, "largest_steps": steps}


def _steps(a: torch.Tensor, b: torch.Tensor) -> float:
    spacing = torch.maximum(a.abs(), b.abs()).float().clamp(min=2.0**-14).log2().floor().exp2() * 2.0**-10
    return float(((a.float() - b.float()).abs() / spacing).max())


def bench(name: str, shape: Shape, folder: Path, kinds: list[str], repeats: int) -> dict[str, Any]:
    """Create a model and adapter of one shape, merge them with each kind in turn, and compare the results."""
    base, adapter = folder / "base", folder / "adapter"
    torch.manual_seed(0)
    make_base(base, shape)
    make_adapter(adapter, shape)
    runs: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
    for number in range(repeats):
        for kind in kinds:
            runs[kind].append(measure(kind, base, adapter, folder / kind))
            last = runs[kind][-1]
            say(f"{name} {kind} {number + 1}/{repeats}: {last['wall_s']:.1f} s, {last['peak_bytes'] / 1e6:.0f} MB")
    largest = 4 * max(out * into for out, into in linears(shape).values())
    result: dict[str, Any] = {
        "parameters": sum(s.nbytes // 2 for s in sources(base)),
        "bound_bytes": MAX_RSS_TENSORS * largest + MAX_RSS_EXTRA_BYTES,
        "kinds": {
            kind: {key: statistics.median(r[key] for r in done) for key in done[0]} for kind, done in runs.items()
        },
        "runs": runs,
    }
    if "peft" in kinds and "original" in kinds:
        result["against_peft"] = differences(folder / "original", folder / "peft")
    return result


def table(results: dict[str, dict[str, Any]]) -> Table:
    """Return a table of the medians, with the wall time relative to PEFT's and the memory bound."""
    made = Table(
        "model", "merge", "wall, s", "vs. PEFT", "peak, MB", "bound, MB", title="medians", title_justify="left"
    )
    for name, result in results.items():
        peft = result["kinds"].get("peft", {}).get("wall_s")
        for kind, figures in result["kinds"].items():
            made.add_row(
                f"{name} ({result['parameters'] / 1e9:.2f}B)",
                kind,
                f"{figures['wall_s']:.1f}",
                f"{figures['wall_s'] / peft:.2f}" if peft else "-",
                f"{figures['peak_bytes'] / 1e6:,.0f}",
                "-" if kind == "peft" else f"{result['bound_bytes'] / 1e6:,.0f}",
            )
    return made


def main() -> int:
    """Run the benchmark; return 1 if a limit is exceeded."""
    parser = argparse.ArgumentParser(prog="python -m bench.merge", description=first_line(__doc__ or ""))
    parser.add_argument("--shapes", default="1b,3b", help=f"comma-separated shapes: {', '.join(SHAPES)}")
    parser.add_argument("--kinds", default=",".join(KINDS), help=f"comma-separated kinds: {', '.join(KINDS)}")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--directory", type=Path, default=Path("runs"), help="directory for the temporary models")
    parser.add_argument("--json", type=Path, help="file for all results")
    parser.add_argument("--child", nargs=4, metavar=("KIND", "BASE", "ADAPTER", "TARGET"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        kind, *paths = options.child
        print(json.dumps(child(kind, *map(Path, paths))))
        return 0
    results = {}
    options.directory.mkdir(parents=True, exist_ok=True)
    for name in options.shapes.split(","):
        with tempfile.TemporaryDirectory(prefix=".bench-merge-", dir=options.directory) as folder:
            results[name] = bench(name, SHAPES[name], Path(folder), options.kinds.split(","), options.repeats)
    Console(width=None if sys.stdout.isatty() else 120).print(table(results))
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    for fault in (found := list(broken(results))):
        say(fault)
    return 1 if found else 0


def broken(results: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Yield the project's bounds that a result exceeds."""
    for name, result in results.items():
        kinds = result["kinds"]
        for kind in kinds.keys() - {"peft"}:
            if kinds[kind]["peak_bytes"] > result["bound_bytes"]:
                yield f"{name} {kind}: the peak is above three times the largest tensor in float32 plus 600 MB"
        if {"peft", "original"} <= kinds.keys():
            if kinds["original"]["wall_s"] > MAX_WALL_RATIO * kinds["peft"]["wall_s"]:
                yield f"{name} original: takes more than {MAX_WALL_RATIO} times PEFT's time"
            if result["against_peft"]["largest_steps"] > 1:
                yield f"{name} differs from PEFT's merge by more than rounding"


if __name__ == "__main__":
    sys.exit(main())
