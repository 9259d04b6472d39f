"""The export stage: check, merge, convert, quantize, examine, record. What is finished and unchanged is kept."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

from burnish import lock
from burnish import run as runs
from burnish.bases.base import Base, resolve
from burnish.console import say
from burnish.exam.fidelity import Fidelity
from burnish.exam.rows import Answers, Exam
from burnish.llama import LlamaError
from burnish.run import Artefact, ExportRecord, Run, RunError, TrainRecord, Verdict
from burnish.versions import versions

from .exam import examine
from .exam.gate import RANK, default_artefact, judge
from .gguf import convert
from .job import EXAMINED, Job, Kept, entry
from .merge.bases import MERGED, make_merged, merged_answers, wanted
from .merge.convert_bin import with_safetensors
from .merge.shards import sources
from .settings import ExportSettings

BYTES_PER_PARAMETER_16 = 2
FIGURES = ("kl", "kl_trained", "top1_agreement", "loss", "loss_trained", "loss_base", "prompt_parity", "terminator")
NO_FIGURES: dict[str, Any] = dict.fromkeys(FIGURES)
PACKAGES = ("torch", "transformers", "peft", "tokenizers", "safetensors", "gguf", "bitsandbytes")


def export(settings: ExportSettings) -> tuple[Run, ExportRecord]:
    """Export the run; returns it and its record. Raises the named errors before work starts where it can't be done."""
    run = runs.find_run(Path(settings.run.root), settings.run.name, TrainRecord)
    with lock.hold(run.path, "an export"):
        return run, _export(settings, run)


def _export(settings: ExportSettings, run: Run) -> ExportRecord:
    record = run.read(TrainRecord)
    types = convert.check_types(settings.gguf.quants)
    convert.check_converter()
    _check_unchanged(run, record)
    base = _base(settings, record)
    _check_room(run, base, len(wanted(settings.merge.base, record)[0]), len(types))
    for directory in (run.path, run.path / "gguf"):
        runs.sweep_partial(directory)
    train_sha256 = runs.file_sha256(run.path / "train.json")
    kept = Kept.load(run, {"train_sha256": train_sha256, "merge": settings.merge.model_dump(), "examined": EXAMINED})
    job = Job(settings, run, record, Exam.load(run.path / record.exam.path), kept)
    say(f"export: {run.path}")
    merged = make_merged(job, base)
    ggufs, reason = _ggufs(job, types)
    result = _record(job, train_sha256, [merged, *ggufs], reason)
    run.write(result)
    return result


def examine_file(settings: ExportSettings, path: Path) -> Artefact:
    """Examine any GGUF file or merged directory against a run's exam, and judge it; the run is not changed."""
    run = runs.find_run(Path(settings.run.root), settings.run.name, TrainRecord)
    record = run.read(TrainRecord)
    if not path.exists():
        raise RunError(f"{path}: no such file or directory")
    exam = Exam.load(run.path / record.exam.path)
    kind = "safetensors" if path.is_dir() else "gguf"
    try:
        if path.is_dir():
            fidelity, _ = examine.examine_checkpoint(path, exam, record, path.name)
        else:
            reference = merged_answers(run) if (run.path / MERGED).is_dir() else None
            fidelity = examine.examine_gguf(path, exam, record, reference, path.name)
    except LlamaError as error:
        return _judged(entry(run, str(path.resolve()), kind, "-", NO_FIGURES), settings, f"it does not load: {error}")
    return _judged(entry(run, str(path.resolve()), kind, "-", fidelity), settings)


def _judged(
    made: dict[str, Any], settings: ExportSettings, fault: str = "", merged: Artefact | None = None
) -> Artefact:
    """Judge one artefact; a GGUF is compared with the merge that it was made from, so it is no better than that one."""
    verdict: Verdict = "fail"
    why = fault
    if not fault:
        verdict, why = judge(Fidelity.model_validate(made["fidelity"]), settings.gate)
    if merged is not None and merged.verdict != "pass":
        state = "fails" if merged.verdict == "fail" else "is inconclusive"
        told = f"the merge that it was made from {state}: {merged.why}"
        why = told if verdict == "pass" else f"{told}; {why}"
        verdict = max(verdict, merged.verdict, key=RANK.__getitem__)
    return Artefact.model_validate({**made, "verdict": verdict, "why": why})


def _ggufs(job: Job, types: list[str]) -> tuple[list[dict[str, Any]], str | None]:
    """Make the 16-bit GGUF, and from it each asked type; where the converter makes none, return why."""
    merged, reference = job.run.path / MERGED, merged_answers(job.run)
    dtype = str(runs.read_json(merged / "config.json")["dtype"])
    sixteen = convert.SIXTEEN_BIT[dtype]
    source = f"gguf/{job.run.id}-{sixteen}.gguf"
    try:
        entries = [_gguf(job, reference, source, sixteen, partial(convert.convert, merged, dtype=dtype))]
    except convert.UnconvertibleError as error:
        return [], str(error)
    for name in types:
        if name != sixteen:
            make = partial(convert.quantize, job.run.path / source, type_name=name)
            entries.append(_gguf(job, reference, f"gguf/{job.run.id}-{name}.gguf", name, make))
    return entries, None


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
    return with_safetensors(base)


def _check_room(run: Run, base: Base, merges: int, quants: int) -> None:
    parameters = sum(prod(source.shape) for source in sources(base.path))
    # the merges and the 16-bit GGUF, then at most about 8.5 bits a weight for each type
    needed = int(parameters * ((merges + 1) * BYTES_PER_PARAMETER_16 + 1.1 * quants))
    have = sum(p.stat().st_size for p in run.path.rglob("*") if p.is_file() and p.parent.name in (MERGED, "gguf"))
    runs.check_writable(run.path, max(0, needed - have), "export")


def _gguf(
    job: Job, reference: Answers, name: str, type_name: str, make: Callable[[Path], dict[str, Any]]
) -> dict[str, Any]:
    """Make and examine one GGUF, unless it is there and unchanged."""
    if kept := job.kept.find(job.run, name):
        say(f"export: {name} is there and unchanged")
        return kept
    made = make(job.run.path / name)
    fidelity = examine.examine_gguf(job.run.path / name, job.exam, job.record, reference, type_name)
    finished = entry(job.run, name, "gguf", type_name, fidelity) | made
    job.kept.add(name, finished)
    return finished


def _record(job: Job, train_sha256: str, entries: list[dict[str, Any]], no_gguf: str | None) -> ExportRecord:
    merge_record = entries[0].pop("merge")
    merged = _judged(entries[0], job.settings)
    artefacts = [merged, *(_judged(made, job.settings, merged=merged) for made in entries[1:])]
    config = runs.read_json(job.run.path / MERGED / "config.json")
    return ExportRecord.model_validate(
        {
            "run_id": job.run.id,
            "created": runs.now(),
            "train_sha256": train_sha256,
            "gate": job.settings.gate.model_dump(),
            "merge": merge_record,
            "artefacts": artefacts,
            "default": default_artefact(artefacts),
            "no_gguf": no_gguf,
            "chat_template_sha256": job.record.chat_template_sha256,
            "stop": job.record.terminators,
            "special_tokens": job.record.special_tokens,
            "context_length": config.get("max_position_embeddings") or job.record.max_length,
            "versions": versions(PACKAGES),
        }
    )
