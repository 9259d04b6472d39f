"""Select the run to publish and its artifacts that passed the gate."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from burnish import run as runs
from burnish.bases.base import licence, resolved_here
from burnish.config import ConfigError
from burnish.console import say, warn
from burnish.errors import did_you_mean
from burnish.evaluations.gate import of_this_export, unmet
from burnish.evaluations.record import evaluations
from burnish.files import file_sha256
from burnish.publish import PushSection
from burnish.records import Artifact, ExportRecord, TrainRecord
from burnish.run import CONFIG, Run

from ..settings import ExportSettings
from .contents import PushError
from .publication import PLACEHOLDER, Publication

KINDS = ("gguf", "merged", "adapter")


def select(settings: ExportSettings) -> tuple[Publication, PushSection]:
    """Find the run and select what to publish. Raises PushError if the gate forbids it."""
    root, name = Path(settings.run.root), settings.run.name
    run = runs.find_run(root, name, TrainRecord if name or _adapter_alone(settings.push) else ExportRecord)
    push = _merged_settings(run, settings.push)
    train, export = run.read(TrainRecord), _export_record(run, push)
    artifacts = _choose(run, export, push) if export else ()
    if not train.base.license and (base := resolved_here(train.base.id, train.base.revision)):
        train = train.model_copy(update={"base": train.base.model_copy(update={"license": licence(base)})})
    evaluated = tuple(e for e in evaluations(run) if of_this_export(e, export)) if export else ()
    adapter = "adapter" in push.what
    return Publication(run, train, export, push.repo or PLACEHOLDER, artifacts, adapter, evaluated), push


def _adapter_alone(push: PushSection) -> bool:
    return set(push.what) == {"adapter"}


def _export_record(run: Run, push: PushSection) -> ExportRecord | None:
    """Return the run's export record; None if only the adapter is published and this training was not exported."""
    if not run.has(ExportRecord):
        if _adapter_alone(push):
            return None
        raise PushError(
            f"run '{run.id}' has no export.json: run `make export` first (WHAT=adapter publishes the adapter"
            " without an export)"
        )
    export = run.read(ExportRecord)
    if export.train_sha256 == file_sha256(run.path / "train.json"):
        return export
    if _adapter_alone(push):
        say("push: export.json is from an earlier training and is left out")
        return None
    raise PushError(f"run '{run.id}': export.json is from an earlier training: run `make export` again")


def _merged_settings(run: Run, given: PushSection) -> PushSection:
    """Return the push settings from training, overridden by the given ones."""
    try:
        configured = PushSection.model_validate(run.settings().get("push", {}))
    except ValidationError as error:
        found = error.errors()[0]
        where = ".".join(map(str, ("push", *found["loc"])))
        raise PushError(f"{run.path / CONFIG}: {where}: {found['msg']}") from None
    return configured.model_copy(update=given.model_dump(include=given.model_fields_set))


def _choose(run: Run, export: ExportRecord, push: PushSection) -> tuple[Artifact, ...]:
    """Return the requested artifacts that may be published."""
    types = {a.quantization for a in export.artefacts if a.kind == "gguf"}
    unknown = [name for name in push.what if name not in {*KINDS, *types}]
    if unknown or not push.what:
        raise ConfigError(
            f"push.what: {', '.join(unknown) or 'nothing'}{did_you_mean(''.join(unknown[:1]), {*KINDS, *types})}"
        )
    selected = [
        a for a in export.artefacts if _group(a) in push.what or (a.kind == "gguf" and a.quantization in push.what)
    ]
    for failed in [a for a in selected if a.verdict != "pass"]:
        remark = f"{failed.path} {failed.outcome}: {failed.why}"
        if push.allow_failed:
            warn(f"{remark}; it is published because push.allow_failed is set, and the card says so")
        elif failed.quantization in push.what:
            raise PushError(f"run '{run.id}': {remark}; push.allow_failed true publishes it anyway")
        else:
            say(f"push: left out: {remark}")
    if not push.allow_failed and not any(a.verdict == "pass" for a in export.artefacts):
        raise PushError(
            f"run '{run.id}': no artifact passed its exam, so nothing is published: see {run.path}/report.html;"
            " push.allow_failed true publishes it anyway, and the card says so"
        )
    missed = unmet(run, export)
    if missed and not push.allow_failed:
        raise PushError([f"{fault}; push.allow_failed true publishes it anyway" for fault in missed])
    for fault in missed:
        warn(f"{fault}; it is published because push.allow_failed is set, and the card says so")
    chosen = tuple(a for a in selected if a.verdict == "pass" or push.allow_failed)
    if not chosen and "adapter" not in push.what:
        raise PushError(f"run '{run.id}': nothing in push.what ({', '.join(push.what)}) passed its exam")
    return chosen


def _group(artifact: Artifact) -> str:
    return "merged" if artifact.kind == "safetensors" else "gguf"
