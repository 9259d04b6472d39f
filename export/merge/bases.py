"""Onto which base the adapter is merged: where there is a choice, both merges are examined and the better one kept.

`dequantized` is the base as the adapter saw it while training; `original` is the 16-bit one. No cheap rule tells which
loses less, so both sit the exam: the lower held-out response loss wins, within 1% the lower general-text loss; a merge
that fails the gate never wins over one that passes.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, Literal

from safetensors.numpy import load_file, save_file

from burnish.bases.base import Base
from burnish.console import bar, say
from burnish.exam.scores import Answers
from burnish.files import atomic_directory, atomic_file, read_json, remove_partial
from burnish.records import Fidelity, TrainRecord
from burnish.run import Run
from burnish.tokenizers import loader as tokenizers

from ..exam import examine
from ..exam.gate import RANK, judge
from ..gguf import convert
from ..job import WORK, Job, entry
from ..settings import GateSection
from .shards import sources
from .weights import dequantizer, merge

MERGED = "merged"
SAME_LOSS = 0.01  # two losses within this share of one another are the same
TOKENIZER_FILES = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    "vocab.*", "merges.txt", "*.model",
)  # fmt: skip

Choice = Literal["dequantized", "original"]


def wanted(asked: str, record: TrainRecord) -> tuple[list[Choice], str]:
    """Return the merges to make, and the reason where there is only one."""
    if asked == "original":
        return ["original"], "set by merge.base"
    if record.quantization == "none":
        return ["original"], "the base was not quantized while training"
    if asked == "dequantized":
        return ["dequantized"], "set by merge.base"
    return ["dequantized", "original"], ""


def make_merged(job: Job, base: Base) -> dict[str, Any]:
    """Make merged/ unless it is there and unchanged; returns its entry, with the choice under "merge"."""
    if kept := job.kept.find(job.run, MERGED):
        say(f"export: {MERGED} is there and unchanged")
        return kept
    choices, reason = wanted(job.settings.merge.base, job.record)
    candidates = {choice: _candidate(job, base, choice) for choice in choices}
    best = choices[0]
    if len(choices) > 1:
        best, reason = choose({n: c["fidelity"] for n, c in candidates.items()}, job.settings.gate)
    say(f"export: merged onto the {best} base: {reason}")
    work = job.run.path / WORK
    shutil.rmtree(job.run.path / MERGED, ignore_errors=True)
    os.replace(work / best, job.run.path / MERGED)
    os.replace(work / f"{best}.safetensors", work / "merged.safetensors")
    for other in set(choices) - {best}:
        shutil.rmtree(work / other)
    merge_record = {"base": best, "reason": reason, "candidates": {n: c["fidelity"] for n, c in candidates.items()}}
    made = {**candidates[best], "path": MERGED, "merge": merge_record}
    job.kept.add(MERGED, made)
    return made


def choose(fidelity: dict[Choice, dict[str, Any]], gate: GateSection) -> tuple[Choice, str]:
    """Return the better of two examined merges, and why: the better verdict goes before the lower loss.

    A merge onto other weights than those that the adapter saw may have the lower loss and still not be the model that
    was trained.
    """
    (first, a), (second, b) = fidelity.items()
    key = "loss"
    if a[key] is None or abs(a[key] - b[key]) <= SAME_LOSS * min(a[key], b[key]):
        key = "loss_general"
    best: Choice = first if a[key] <= b[key] else second
    what = "held-out response loss" if key == "loss" else "held-out response losses within 1%; general-text loss"
    reason = f"{what} {a[key]:.4f} ({first}) against {b[key]:.4f} ({second})"
    verdicts = {name: judge(Fidelity.model_validate(figures), gate) for name, figures in fidelity.items()}
    other: Choice = second if best == first else first
    if RANK[verdicts[other][0]] < RANK[verdicts[best][0]]:
        state = "fails the gate" if verdicts[best][0] == "fail" else "is inconclusive"
        return other, f"{reason}, but {best} {state}: {verdicts[best][1]}"
    return best, reason


def merged_answers(run: Run) -> Answers:
    """Return what the merge said on the exam: the reference of every GGUF."""
    tensors = load_file(run.path / WORK / "merged.safetensors")
    return Answers(tensors["ids"], tensors["logp"], tensors["true"])


def _candidate(job: Job, base: Base, choice: Choice) -> dict[str, Any]:
    """Make and examine one merge under .export/, unless an interrupted export already did."""
    name = f"{WORK}/{choice}"
    if kept := job.kept.find(job.run, name):
        return kept
    target, adapter = job.run.path / name, job.run.path / job.record.adapter.path
    remove_partial(target.parent)
    with atomic_directory(target) as directory, bar(f"merge ({choice})", len(sources(base.path))) as tick:
        as_trained = dequantizer(job.record) if choice == "dequantized" else None
        dtype = merge(
            base.path,
            adapter,
            directory,
            as_trained,
            job.settings.merge.dtype,
            job.settings.merge.max_shard_bytes,
            tick,
        )
        _copy_tokenizer(adapter, directory, job.record)
    fidelity, answers = examine.examine_checkpoint(target, job.exam, job.record, f"the merge ({choice})")
    with atomic_file(target.parent / f"{choice}.safetensors") as temporary:
        save_file({"ids": answers.ids, "logp": answers.logp, "true": answers.true}, temporary)
    made = entry(job.run, name, "safetensors", convert.SIXTEEN_BIT[dtype], fidelity)
    job.kept.add(name, made)
    return made


def _copy_tokenizer(adapter: Path, target: Path, record: TrainRecord) -> None:
    """Bring the trained tokenizer and template along, and make the trained terminators end a generation.

    A run of an older version may have its tokenizer under a label that loses spaces: it is written again as read.
    """
    for pattern in TOKENIZER_FILES:
        for path in adapter.glob(pattern):
            shutil.copyfile(path, target / path.name)
    tokenizer = tokenizers.load(target)
    if read_json(target / tokenizers.CONFIG).get("tokenizer_class") != tokenizers.LABEL:
        tokenizers.save(tokenizer, target)
    path = target / "generation_config.json"
    content = read_json(path) if path.is_file() else {}
    eos = content.get("eos_token_id", tokenizer.eos_token_id)
    ends = [*(eos if isinstance(eos, list) else [eos]), *tokenizer.convert_tokens_to_ids(record.terminators)]
    content["eos_token_id"] = ends[0] if len(set(ends)) == 1 else list(dict.fromkeys(ends))
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
