"""The export stage: check, merge, convert, quantize, examine, record. What is finished and unchanged is kept."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from burnish import run as runs
from burnish.base import Base, resolve
from burnish.console import bar, say
from burnish.exam import Answers, Exam
from burnish.llama import Model
from burnish.run import Artefact, ExportRecord, Fidelity, Run, RunError, TrainRecord
from export import examine, gguf
from export.gate import default_artefact, judge
from export.merge import dequantizer, merge
from export.settings import ExportSettings
from export.shards import sources

WORK = ".export"  # what a later export may keep: hashes, fidelity, the merge's own answers
MERGED = "merged"
TOKENIZER_FILES = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.*",
    "merges.txt",
    "*.model",
)
BYTES_PER_PARAMETER_16 = 2


@dataclass
class _Kept:
    """Finished artefacts of this run, by path: their sha256, size and fidelity, valid for one `key` only."""

    path: Path
    key: dict[str, Any]
    artefacts: dict[str, dict[str, Any]]

    @staticmethod
    def load(run: Run, key: dict[str, Any]) -> _Kept:
        path = run.path / WORK / "kept.json"
        content = json.loads(path.read_text()) if path.is_file() else {}
        return _Kept(path, key, content.get("artefacts", {}) if content.get("key") == key else {})

    def find(self, run: Run, name: str) -> dict[str, Any] | None:
        """Return what is known of an artefact, if the file is still the same."""
        entry = self.artefacts.get(name)
        unchanged = entry and (run.path / name).exists() and runs.tree_sha256(run.path / name) == entry["sha256"]
        return entry if unchanged else None

    def add(self, name: str, entry: dict[str, Any]) -> None:
        self.artefacts[name] = entry
        runs.write_atomic(self.path, json.dumps({"key": self.key, "artefacts": self.artefacts}, indent=2) + "\n")


@dataclass(frozen=True)
class _Job:
    """What every step of one export needs."""

    settings: ExportSettings
    run: Run
    record: TrainRecord
    exam: Exam
    kept: _Kept


def export(settings: ExportSettings) -> tuple[Run, ExportRecord]:
    """Export the run; returns it and its record. Raises the named errors before work starts where it can't be done."""
    run = runs.find_run(Path(settings.run.root), settings.run.name, TrainRecord)
    record = run.read(TrainRecord)
    types = gguf.check_types(settings.gguf.quants)
    gguf.check_converter()
    _check_unchanged(run, record)
    base = _base(settings, record)
    _check_room(run, base, len(types))
    for directory in (run.path, run.path / "gguf"):
        runs.sweep_partial(directory)
    train_sha256 = runs.file_sha256(run.path / "train.json")
    kept = _Kept.load(run, {"train_sha256": train_sha256, "merge": settings.merge.model_dump()})
    job = _Job(settings, run, record, Exam.load(run.path / record.exam.path), kept)
    choice, reason = _merge_base(settings, record)
    say(f"export: {run.path}; merging onto the {choice} base: {reason}")
    dtype = _merged(job, base, choice)
    entries = [_examined_merge(job, gguf.SIXTEEN_BIT[dtype]), *_ggufs(job, dtype, types)]
    result = _record(job, train_sha256, (choice, reason), entries)
    run.write(result)
    return run, result


def _ggufs(job: _Job, dtype: str, types: list[str]) -> list[dict[str, Any]]:
    """Make the 16-bit GGUF, and from it each asked type."""
    merged, sixteen, reference = job.run.path / MERGED, gguf.SIXTEEN_BIT[dtype], _merged_answers(job.run)
    source = f"gguf/{job.run.id}-{sixteen}.gguf"
    entries = [_gguf(job, reference, source, sixteen, partial(gguf.convert, merged, dtype=dtype))]
    for name in types:
        if name != sixteen:
            make = partial(gguf.quantize, job.run.path / source, type_name=name)
            entries.append(_gguf(job, reference, f"gguf/{job.run.id}-{name}.gguf", name, make))
    return entries


def _check_unchanged(run: Run, record: TrainRecord) -> None:
    """Raise RunError where the adapter or the exam is no longer what training recorded."""
    faults = [
        f"{run.path / part.path}: is not what training recorded (sha256 differs): restore it, or train again"
        for part in (record.adapter, record.exam)
        if runs.tree_sha256(run.path / part.path) != part.sha256
    ]
    if faults:
        raise RunError(faults)


def _base(settings: ExportSettings, record: TrainRecord) -> Base:
    base = resolve(settings.run.base or record.base.id, record.base.revision)
    if base.sha256 != record.base.sha256:
        raise RunError(
            f"{base.id}: is not the base that this run was trained on (sha256 {base.sha256[:12]}, recorded"
            f" {record.base.sha256[:12]}): give the right one with BASE="
        )
    return base


def _check_room(run: Run, base: Base, quants: int) -> None:
    parameters = sum(int(np.prod(source.shape)) for source in sources(base.path))
    # the merge and the 16-bit GGUF, then at most about 8.5 bits a weight for each type
    needed = int(parameters * (2 * BYTES_PER_PARAMETER_16 + 1.1 * quants))
    have = sum(p.stat().st_size for p in run.path.rglob("*") if p.is_file() and p.parent.name in (MERGED, "gguf"))
    runs.check_writable(run.path, max(0, needed - have), "export")


def _merge_base(settings: ExportSettings, record: TrainRecord) -> tuple[str, str]:
    if settings.merge.base != "auto":
        return settings.merge.base, "set by merge.base"
    if record.quantization == "none":
        return "original", "the base was not quantized while training"
    return "dequantized", f"the adapter was trained on the {record.quantization} weights"


def _merged(job: _Job, base: Base, choice: str) -> str:
    """Make merged/ unless it is there and unchanged; returns its dtype."""
    target, adapter = job.run.path / MERGED, job.run.path / job.record.adapter.path
    if not job.kept.find(job.run, MERGED):
        with runs.whole_directory(target) as directory, bar("merge", len(sources(base.path))) as tick:
            as_trained = dequantizer(job.record) if choice == "dequantized" else None
            dtype, shard_bytes = job.settings.merge.dtype, job.settings.merge.max_shard_bytes
            merge(base.path, adapter, directory, as_trained, dtype, shard_bytes, tick)
            _copy_tokenizer(adapter, directory, job.record)
    return str(runs.read_json(target / "config.json")["dtype"])


def _copy_tokenizer(adapter: Path, target: Path, record: TrainRecord) -> None:
    """Bring the trained tokenizer and template along, and make the trained terminators end a generation."""
    for pattern in TOKENIZER_FILES:
        for path in adapter.glob(pattern):
            shutil.copyfile(path, target / path.name)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(target)
    path = target / "generation_config.json"
    content = runs.read_json(path) if path.is_file() else {}
    eos = content.get("eos_token_id", tokenizer.eos_token_id)
    ends = [*(eos if isinstance(eos, list) else [eos]), *tokenizer.convert_tokens_to_ids(record.terminators)]
    content["eos_token_id"] = ends[0] if len(set(ends)) == 1 else list(dict.fromkeys(ends))
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _examined_merge(job: _Job, quantization: str) -> dict[str, Any]:
    """Examine merged/ through transformers, unless that was done and it is unchanged."""
    entry = job.kept.find(job.run, MERGED)
    if entry is None:
        from transformers import AutoTokenizer

        directory, exam = job.run.path / MERGED, job.exam
        sat = examine.sit(exam, examine.checkpoint_logits(directory, exam), None, "the merge")
        tokenizer = AutoTokenizer.from_pretrained(directory)
        template = examine.checkpoint_template(tokenizer, job.record)
        parity = examine.prompt_parity(exam, template, lambda t: list(tokenizer(t, add_special_tokens=False).input_ids))
        eos = runs.read_json(directory / "generation_config.json")["eos_token_id"]
        ends = examine.terminator(exam, frozenset(eos if isinstance(eos, list) else [eos]))
        _save_answers(job.run, sat.answers)
        entry = _entry(job.run, MERGED, "safetensors", quantization, examine.fidelity(exam, sat, parity, ends))
        job.kept.add(MERGED, entry)
    return entry


def _gguf(job: _Job, reference: Answers, name: str, type_name: str, make: Callable[[Path], None]) -> dict[str, Any]:
    """Make and examine one GGUF, unless it is there and unchanged."""
    if entry := job.kept.find(job.run, name):
        say(f"export: {name} is there and unchanged")
        return entry
    make(job.run.path / name)
    with Model.open(job.run.path / name) as model:
        sat = examine.sit(job.exam, examine.gguf_logits(model, job.exam), reference, type_name)
        template = examine.gguf_template(model, job.record)
        parity = examine.prompt_parity(job.exam, template, lambda t: model.tokenize(t, add_special=False))
        ends = examine.terminator(job.exam, model.eog_ids())
    entry = _entry(job.run, name, "gguf", type_name, examine.fidelity(job.exam, sat, parity, ends))
    job.kept.add(name, entry)
    return entry


def _entry(run: Run, name: str, kind: str, quantization: str, fidelity: dict[str, Any]) -> dict[str, Any]:
    path = run.path / name
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return {
        "path": name,
        "kind": kind,
        "quantization": quantization,
        "bytes": sum(p.stat().st_size for p in files),
        "sha256": runs.tree_sha256(path),
        "fidelity": fidelity,
    }


def _save_answers(run: Run, answers: Answers) -> None:
    (run.path / WORK).mkdir(exist_ok=True)
    with runs.whole_file(run.path / WORK / "merged.safetensors") as temporary:
        save_file({"ids": answers.ids, "logp": answers.logp, "true": answers.true}, temporary)


def _merged_answers(run: Run) -> Answers:
    tensors = load_file(run.path / WORK / "merged.safetensors")
    return Answers(tensors["ids"], tensors["logp"], tensors["true"])


def _record(job: _Job, train_sha256: str, choice: tuple[str, str], entries: list[dict[str, Any]]) -> ExportRecord:
    artefacts = []
    for entry in entries:
        passed, why = judge(Fidelity.model_validate(entry["fidelity"]), job.settings.gate)
        artefacts.append(Artefact.model_validate({**entry, "verdict": "pass" if passed else "fail", "why": why}))
    config = runs.read_json(job.run.path / MERGED / "config.json")
    return ExportRecord.model_validate(
        {
            "run_id": job.run.id,
            "created": runs.now(),
            "train_sha256": train_sha256,
            "merge": {"base": choice[0], "reason": choice[1], "candidates": {choice[0]: entries[0]["fidelity"]}},
            "artefacts": artefacts,
            "default": default_artefact(artefacts),
            "chat_template_sha256": job.record.chat_template_sha256,
            "stop": job.record.terminators,
            "context_length": config.get("max_position_embeddings") or job.record.max_length,
        }
    )
