"""Chooses the file to serve: a recorded artifact of a run or a bare GGUF file, along with its record."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from burnish.console import warn
from burnish.errors import UserError
from burnish.evaluations.gate import unmet
from burnish.exam.thresholds import looser, qualified
from burnish.files import file_sha256, irregular
from burnish.hub import SCHEME
from burnish.records import Artifact, ExportRecord, TrainRecord
from burnish.run import find_run, read_both
from burnish.tokenizers.special_text import Reading

from .hub import fetch_artifact, fetch_records
from .settings import ModelSettings


class ServeError(UserError):
    """Raised when a run or file can't be served with these settings."""


@dataclass(frozen=True)
class Chosen:
    """A model file and the data from its record."""

    path: Path
    name: str
    remedy: str = "run `make export` again"  # if the file does not match its record
    stops: tuple[str, ...] = ()
    context_length: int | None = None
    template_sha256: str | None = None
    template_date: str = ""
    template_kwargs: dict[str, Any] = field(default_factory=dict)
    special_tokens: Reading = "text"
    tool_dialect: str | None = None  # None: found from the template
    recorded: bool = False
    record: dict[str, Any] = field(default_factory=dict)
    run: Path | None = None  # the directory of the run that it belongs to, None for a bare or downloaded file


def choose(settings: ModelSettings) -> Chosen:
    """Find the file to serve. Raises ServeError or RunError if there is none or it must not be served."""
    if settings.model is not None:
        if settings.run is not None:
            raise ServeError("run and model are both set: set only one of them")
        if settings.model.startswith(SCHEME):
            return _from_hub(settings, settings.model)
        path = Path(settings.model)
        if path.is_dir():
            raise ServeError(f"model {path}: {_explain_directory(path)}")
        if why := irregular(path):
            raise ServeError(f"model {path}: {why}")
        today = datetime.now(UTC).strftime("%Y-%m-%d")
        return Chosen(path, path.stem, template_date=today, record={"model": path.name})
    run = find_run(Path(settings.runs), settings.run, needs=ExportRecord)
    trained, exported = read_both(run)
    if exported.train_sha256 != file_sha256(run.path / "train.json"):
        raise ServeError(
            f"run '{run.id}': export.json belongs to an earlier training: run `make export RUN={run.id}` again"
        )
    artifact = _artifact(f"run '{run.id}'", f"{run.path}/report.html", exported, settings)
    chosen = _recorded(run.inside(artifact.path), run.id, trained, exported, artifact)
    return replace(chosen, run=run.path)


def check_evaluations(settings: ModelSettings) -> None:
    """Raise ServeError if the run misses a threshold on an evaluation, unless allow_unproven is set."""
    if settings.model is not None:
        return
    run = find_run(Path(settings.runs), settings.run, needs=ExportRecord)
    faults = unmet(run, run.read(ExportRecord))
    if faults and not settings.allow_unproven:
        raise ServeError([f"{fault}; to serve it anyway, pass --allow_unproven true" for fault in faults])
    for fault in faults:
        warn(f"serving it even though {fault}")


def _explain_directory(path: Path) -> str:
    """Describe the kind of directory given as a model, and how to serve its contents."""
    if (path / "export.json").is_file() or (path / "train.json").is_file():
        return f"is a run, not a .gguf file: serve it with `make serve RUN={path.name}`"
    if files := sorted(file.name for file in path.glob("*.gguf")):
        return f"is a directory, not a .gguf file: choose one of its files: {', '.join(files)}"
    if (path / "adapter_config.json").is_file():
        return "is an adapter, which must be merged and converted first: run `make export` for its run"
    if (path / "config.json").is_file():
        return (
            "is a transformers checkpoint, not a .gguf file: serve its run (make serve RUN=id), serve the directory "
            "with vLLM (vllm serve), or convert it with llama.cpp's convert_hf_to_gguf.py"
        )
    return "is a directory: expected a .gguf file, hf://owner/name, or a run (make serve RUN=id)"


def _from_hub(settings: ModelSettings, reference: str) -> Chosen:
    """Choose a file from a published run; download it only if the records allow serving it."""
    published = fetch_records(reference)
    artifact = _artifact(reference, "its page on the Hub", published.export, settings)
    path = fetch_artifact(published, artifact)
    name = published.export.run_id
    chosen = _recorded(path, name, published.train, published.export, artifact)
    remedy = f"remove {path.resolve()} to download it again; if that fails too, the file was altered on the Hub"
    hub = f"{published.reference.repo}@{published.commit}"
    return replace(chosen, remedy=remedy, record={**chosen.record, "hub": hub})


def _recorded(path: Path, name: str, trained: TrainRecord, exported: ExportRecord, artifact: Artifact) -> Chosen:
    return Chosen(
        path,
        name,
        stops=tuple(exported.stop),
        context_length=exported.context_length,
        template_sha256=trained.chat_template_sha256,
        template_date=trained.template_date,
        template_kwargs=exported.template_kwargs,
        special_tokens=exported.special_tokens,
        tool_dialect=exported.tool_dialect,
        recorded=True,
        record={
            "run_id": exported.run_id,
            "base": trained.base.id,
            "trained": trained.created,
            "exported": exported.created,
            "artifact": artifact.model_dump(mode="json"),
            "gate": exported.gate,
            "looser_thresholds": looser(exported.gate),
            "versions": exported.versions,
            "chat_template_sha256": trained.chat_template_sha256,
            "template_kwargs": exported.template_kwargs,
        },
    )


def _artifact(where: str, report: str, exported: ExportRecord, settings: ModelSettings) -> Artifact:
    """Choose a recorded GGUF file. `where` names the run in errors; `report` points to its measurements."""
    files = [a for a in exported.artefacts if a.kind == "gguf"]
    there = ", ".join(f"{a.quantization} ({a.verdict})" for a in files)
    if not files:
        raise ServeError(
            f"{where}: the run has no GGUF file, the only format served here: {exported.no_gguf or 'none was made'}; "
            "transformers and vLLM load its merged/ (vllm serve runs/ID/merged)"
        )
    if settings.artifact is not None:
        found = next((a for a in files if settings.artifact in (a.quantization, a.path)), None)
        if found is None:
            raise ServeError(f"{where} has no GGUF '{settings.artifact}'; available: {there}")
    elif exported.default is not None:
        found = next((a for a in files if a.path == exported.default), None)
        if found is None:
            raise ServeError(f"{where}: its default '{exported.default}' is not one of its GGUF files: {there}")
    elif settings.allow_unproven:
        found = max(files, key=lambda a: a.bytes)
    else:
        raise ServeError(
            f"{where}: none of its GGUF files passed the exam ({there}), see {report}; to serve the largest anyway, "
            "pass --allow_unproven true (with --artifact to choose another)"
        )
    if found.verdict != "pass":
        if not settings.allow_unproven:
            raise ServeError(
                f"{where}: {found.quantization} {found.outcome}: {found.why}; "
                "to serve it anyway, pass --allow_unproven true"
            )
        warn(f"serving {found.quantization} of {where} even though it {found.outcome}: {found.why}")
    if qualification := qualified(exported.gate):
        warn(f"{found.quantization} of {where} was {qualification}")
    return found


def verify(chosen: Chosen) -> None:
    """Raise ServeError unless the file's sha256 matches the record."""
    expected = chosen.record["artifact"]["sha256"]
    if not chosen.path.is_file():
        raise ServeError(f"{chosen.path}: the recorded model file does not exist; {chosen.remedy}")
    if file_sha256(chosen.path) != expected:
        raise ServeError(
            f"{chosen.path}: its sha256 differs from the record: the file was changed or damaged after export; "
            f"{chosen.remedy}"
        )
