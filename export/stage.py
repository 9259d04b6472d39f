"""The export stage: check, merge, convert, quantize, examine, record. Finished, unchanged artifacts are reused."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from burnish import children, lock
from burnish import run as runs
from burnish.bases.base import Base, resolve
from burnish.console import say
from burnish.exam.memory import export_disk
from burnish.exam.rows import Exam
from burnish.fields import MAX_TOKENS, inside
from burnish.files import (
    check_writable,
    file_sha256,
    irregular,
    irregular_in,
    private_directory,
    read_json,
    remove_partial,
    tree_sha256,
)
from burnish.llama import LlamaError, check
from burnish.records import Artifact, Examined, ExportRecord, Fidelity, Kind, TrainRecord
from burnish.records.verdicts import default_artifact, judged, with_verdict
from burnish.run import Run, RunError
from burnish.versions import versions

from .artifacts import EXAMINED, WORK, Finished, Job, Made, describe, produce
from .exam import examine
from .gguf import convert
from .gguf.formats import gguf_formats
from .merge.bases import MERGED, merge_bases
from .merge.convert_bin import with_safetensors
from .merge.shards import sources
from .merged import Merged, make_merged, merged_answers
from .settings import ExportSettings

NO_FIGURES = Fidelity(
    kl=None, kl_trained=None, top1_agreement=None, loss=None, loss_trained=None, loss_base=None, prompt_parity=None,
    terminator=None,
)  # fmt: skip
# paths that an export reads or writes in addition to those in the records
TOUCHED = ("train.json", "export.json", "config.yaml", "report.html", "logs", MERGED, "gguf", WORK)
PACKAGES = ("torch", "transformers", "peft", "tokenizers", "safetensors", "gguf", "bitsandbytes")


def export(settings: ExportSettings) -> tuple[Run, ExportRecord]:
    """Export the run and return it with its record. All possible checks run before the work starts."""
    run = runs.find_run(Path(settings.run.root), settings.run.name, TrainRecord)
    with lock.hold(run.path, "an export"):
        return run, _export(settings, run)


def _export(settings: ExportSettings, run: Run) -> ExportRecord:
    _check_name(run)
    run.check_inside(*TOUCHED)
    record = run.read(TrainRecord)
    types = convert.check_types(settings.gguf.quants)
    convert.check_converter()
    _check_unchanged(run, record)
    base = verified_base(settings, record)
    _check_room(run, base, len(merge_bases(settings.merge.base, record)[0]), len(types))
    for directory in (run.path, run.path / "gguf"):
        remove_partial(directory)
    private_directory(run.path / WORK)  # it contains the merged model's answers to held-out rows
    train_sha256 = file_sha256(run.path / "train.json")
    key = {"train_sha256": train_sha256, "merge": settings.merge.model_dump(), "examined": EXAMINED}
    job = Job(settings, run, record, Exam.load(run.tree(record.exam.path)), Finished.load(run, key))
    say(f"export: {run.path}")
    if children.reaches_network():
        say("export: network namespaces are not allowed here: llama.cpp's tools can reach the network, without a token")
    merged = make_merged(job, base)
    ggufs, no_gguf = _ggufs(job, types)
    result = _record(job, train_sha256, merged, ggufs, no_gguf)
    run.write(result)
    return result


def _ggufs(job: Job, types: list[str]) -> tuple[list[Examined], str | None]:
    """Return the examined GGUF files, and why there are none if the converter does not support the merged model.

    Unchanged GGUF files from earlier exports are included, whatever types are requested now.
    """
    try:
        made = [produce(job, output) for output in gguf_formats(job, types)]
    except convert.UnconvertibleError as error:
        return [], str(error)
    kept = job.finished.others(job.run, [one.path for one in made])
    if kept:
        say(f"export: kept from earlier exports, unchanged: {', '.join(one.path for one in kept)}")
    return [*made, *kept], None


def examine_file(settings: ExportSettings, path: Path) -> Artifact:
    """Examine and judge a GGUF file or merged directory against a run's exam, without changing the run."""
    run = runs.find_run(Path(settings.run.root), settings.run.name, TrainRecord)
    record = run.read(TrainRecord)
    if not path.exists():
        raise RunError(f"{path}: no such file or directory")
    if faults := irregular_in(path) if path.is_dir() else [f"{path}: {why}" for why in [irregular(path)] if why]:
        raise RunError(faults)
    exam = Exam.load(run.tree(record.exam.path))
    kind: Kind = "safetensors" if path.is_dir() else "gguf"

    def described(fidelity: Fidelity) -> Examined:
        return describe(path, path.resolve().name, kind, fidelity, Made("-"))

    try:
        if path.is_dir():
            fidelity, _ = examine.examine_checkpoint(path, exam, record, path.name, settings.template_timeout_s)
        else:
            check(path)
            reference = merged_answers(run) if (run.path / MERGED).is_dir() else None
            fidelity = examine.examine_gguf(path, exam, record, reference, path.name, settings.template_timeout_s)
    except LlamaError as error:
        return with_verdict(described(NO_FIGURES), "fail", f"the file does not load: {error}")
    return judged(described(fidelity), settings.gate)


def _check_unchanged(run: Run, record: TrainRecord) -> None:
    """Raise RunError if the adapter or the exam has changed since training."""
    for part in (record.adapter, record.exam):
        run.tree(part.path)
    faults = [
        f"{run.path / part.path} has changed since training (sha256 differs): restore it, or train again"
        for part in (record.adapter, record.exam)
        if tree_sha256(run.path / part.path) != part.sha256
    ]
    if faults:
        raise RunError(faults)


def _check_name(run: Run) -> None:
    """Raise RunError if the directory name can't be part of artifact names."""
    try:
        inside(f"gguf/{run.id}.gguf")
    except ValueError as error:
        raise RunError(f"{run.path}: {error}: rename the run's directory") from None


def verified_base(settings: ExportSettings, record: TrainRecord) -> Base:
    """Return the base that the run was trained on. Raises RunError if it is another."""
    base = resolve(settings.run.base or record.base.id, record.base.revision)
    if base.sha256 != record.base.sha256:
        raise RunError(
            f"{base.id} is not the base that this run was trained on (sha256 {base.sha256[:12]}, recorded"
            f" {record.base.sha256[:12]}): set the right one with BASE="
        )
    return with_safetensors(base)


def _check_room(run: Run, base: Base, merges: int, quants: int) -> None:
    parameters = sum(prod(source.shape) for source in sources(base.path))
    needed = export_disk(parameters, merges, quants)
    have = sum(p.stat().st_size for p in run.path.rglob("*") if p.is_file() and p.parent.name in (MERGED, "gguf"))
    check_writable(run.path, max(0, needed - have), "export")


def _record(job: Job, train_sha256: str, merged: Merged, ggufs: list[Examined], no_gguf: str | None) -> ExportRecord:
    gate, run = job.settings.gate, job.run
    merge = judged(merged, gate)
    artifacts = [merge, *(judged(gguf, gate, merge) for gguf in ggufs)]
    config = read_json(run.path / MERGED / "config.json")
    return ExportRecord(
        run_id=run.id,
        created=runs.now(),
        train_sha256=train_sha256,
        gate=gate.model_dump(),
        merge=merged.merge,
        artefacts=artifacts,
        default=default_artifact(artifacts),
        no_gguf=no_gguf,
        chat_template_sha256=job.record.chat_template_sha256,
        stop=job.record.terminators,
        template_kwargs=job.record.template_kwargs,
        tool_dialect=job.record.tool_dialect,
        reasoning_format=job.record.reasoning_format,
        special_tokens=job.record.special_tokens,
        context_length=_context_length(config) or job.record.max_length,
        versions=versions(PACKAGES),
    )


def _context_length(config: Mapping[str, Any]) -> int | None:
    """Return the context length from the model's config, or None if it is missing."""
    found = (config.get(name) for name in ("max_position_embeddings", "n_positions"))
    return next((n for n in found if type(n) is int and 0 < n <= MAX_TOKENS), None)
