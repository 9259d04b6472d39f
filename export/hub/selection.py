"""What of a run goes to the Hub: what passed the gate, with its records and a card, each file as its record has it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import ValidationError
from safetensors import safe_open

from burnish import run as runs
from burnish.bases.base import licence, resolved_here
from burnish.config import ConfigError
from burnish.console import bar, say, warn
from burnish.errors import UserError, did_you_mean
from burnish.files import file_sha256, read_json, tree_digest, tree_hashes
from burnish.hub import published_name
from burnish.publish import PushSection
from burnish.records import Artefact, ExportRecord, TrainRecord
from burnish.run import Run

from ..settings import ExportSettings
from .card import card
from .publication import PLACEHOLDER, Publication

KINDS = ("gguf", "merged", "adapter")
SUMS = "SHA256SUMS"
SIXTEEN_BIT_OR_MORE = frozenset({"F16", "BF16", "F32"})


class PushError(UserError):
    """A run that can't be published, or not with these settings."""


@dataclass(frozen=True)
class Item:
    """One file to publish: its path in the repository, its content or the file that has it, size and sha256."""

    name: str
    source: Path | bytes
    size: int
    sha256: str

    @staticmethod
    def of(name: str, content: bytes) -> Item:
        """Make one of bytes."""
        return Item(name, content, len(content), hashlib.sha256(content).hexdigest())


def select(settings: ExportSettings) -> tuple[Publication, PushSection]:
    """Find the run and choose what of it is published. Raises PushError where the gate forbids it."""
    root, name = Path(settings.run.root), settings.run.name
    run = runs.find_run(root, name, TrainRecord if name or _adapter_alone(settings.push) else ExportRecord)
    push = _merged_settings(run, settings.push)
    train, export = run.read(TrainRecord), _export_record(run, push)
    artefacts = _choose(run, export, push) if export else ()
    if not train.base.license and (base := resolved_here(train.base.id, train.base.revision)):
        train = train.model_copy(update={"base": train.base.model_copy(update={"license": licence(base)})})
    return Publication(run, train, export, push.repo or PLACEHOLDER, artefacts, "adapter" in push.what), push


def collect(s: Publication) -> list[Item]:
    """Return every file that goes, each compared with the sha256 that its record has for it."""
    directories = ([s.run.path / s.merged.path] if s.merged else []) + ([s.run.path / "adapter"] if s.adapter else [])
    size = sum(_size(path) for path in (*directories, *(s.run.path / a.path for a in s.ggufs)))
    done = 0.0
    items: list[Item] = []
    with bar("check sha256, MB", size / 1e6) as tick:

        def progress(read: int) -> None:
            nonlocal done
            tick(done := done + read / 1e6)

        if s.merged:
            _refuse_quantized(s.run.path / s.merged.path)
            items += _tree(s.run.path / s.merged.path, "", s.merged.sha256, progress)
        if s.adapter:
            items += _tree(s.run.path / "adapter", "adapter/", s.train.adapter.sha256, progress)
        for artefact in s.ggufs:
            path = s.run.path / artefact.path
            _check(path, path.is_file() and file_sha256(path, progress) == artefact.sha256)
            items.append(Item(published_name(artefact.path), path, path.stat().st_size, artefact.sha256))
    items += [Item.of(name, (s.run.path / name).read_bytes()) for name in s.records if (s.run.path / name).is_file()]
    if s.ggufs and s.stop:
        items.append(Item.of("params", json.dumps({"stop": s.stop}, ensure_ascii=False).encode() + b"\n"))
    items.append(Item.of("README.md", card(s).encode()))
    sums = "".join(f"{item.sha256}  {item.name}\n" for item in sorted(items, key=lambda item: item.name))
    return [*items, Item.of(SUMS, sums.encode())]


def _adapter_alone(push: PushSection) -> bool:
    return set(push.what) == {"adapter"}


def _export_record(run: Run, push: PushSection) -> ExportRecord | None:
    """Return the record of the run's export; None where the adapter alone goes and this training was not exported."""
    if not run.has(ExportRecord):
        if _adapter_alone(push):
            return None
        raise PushError(
            f"run '{run.id}' has no export.json: run `make export` for it first (WHAT=adapter publishes the adapter"
            " without an export)"
        )
    export = run.read(ExportRecord)
    if export.train_sha256 == file_sha256(run.path / "train.json"):
        return export
    if _adapter_alone(push):
        say("push: export.json is of an earlier training and is left out")
        return None
    raise PushError(f"run '{run.id}': export.json is of an earlier training: run `make export` again")


def _merged_settings(run: Run, given: PushSection) -> PushSection:
    """Return training's push settings, overridden by those given now."""
    path = run.path / "config.yaml"
    config = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    try:
        asked = PushSection.model_validate(config.get("push") or {})
    except (ValidationError, AttributeError) as error:
        fault = error.errors()[0]["msg"] if isinstance(error, ValidationError) else "it is not a mapping of settings"
        raise PushError(f"{path}: push: {fault}") from None
    return asked.model_copy(update=given.model_dump(include=given.model_fields_set))


def _choose(run: Run, export: ExportRecord, push: PushSection) -> tuple[Artefact, ...]:
    """Return the artefacts that were asked for and may go."""
    types = {a.quantization for a in export.artefacts if a.kind == "gguf"}
    unknown = [name for name in push.what if name not in {*KINDS, *types}]
    if unknown or not push.what:
        raise ConfigError(
            f"push.what: {', '.join(unknown) or 'nothing'}{did_you_mean(''.join(unknown[:1]), {*KINDS, *types})}"
        )
    asked = [
        a for a in export.artefacts if _group(a) in push.what or (a.kind == "gguf" and a.quantization in push.what)
    ]
    for failed in [a for a in asked if a.verdict != "pass"]:
        told = f"{failed.path} {failed.outcome}: {failed.why}"
        if push.allow_failed:
            warn(f"{told}; it is published because push.allow_failed says so, and the card says this")
        elif failed.quantization in push.what:
            raise PushError(f"run '{run.id}': {told}; push.allow_failed true publishes it all the same")
        else:
            say(f"push: left out: {told}")
    if not push.allow_failed and not any(a.verdict == "pass" for a in export.artefacts):
        raise PushError(
            f"run '{run.id}': nothing of it passed its exam, so nothing is published; see {run.path}/report.html;"
            " push.allow_failed true publishes it all the same, and the card says so"
        )
    chosen = tuple(a for a in asked if a.verdict == "pass" or push.allow_failed)
    if not chosen and "adapter" not in push.what:
        raise PushError(f"run '{run.id}': nothing is left of push.what ({', '.join(push.what)}) that passed its exam")
    return chosen


def _group(artefact: Artefact) -> str:
    return "merged" if artefact.kind == "safetensors" else "gguf"


def _refuse_quantized(directory: Path) -> None:
    """Raise PushError for merged weights that are quantized: a merge into 4 bits is never published."""
    config = read_json(directory / "config.json")
    files = sorted(directory.glob("*.safetensors"))
    low = next((f"{p.name}: {t}" for p in files for t in _dtypes(p) - SIXTEEN_BIT_OR_MORE), "")
    if config.get("quantization_config") or low:
        found = low or "config.json has a quantization_config"
        raise PushError(f"{directory}: merged weights that are quantized are never published ({found}): export again")


def _dtypes(path: Path) -> set[str]:
    with safe_open(path, "np") as file:
        return {str(file.get_slice(key).get_dtype()) for key in file.keys()}  # noqa: SIM118  (it is not a dict)


def _tree(directory: Path, prefix: str, recorded: str, progress: Callable[[int], None]) -> Iterator[Item]:
    """Yield a directory's files, after comparing them with the recorded sha256."""
    hashes = tree_hashes(directory, progress=progress)
    _check(directory, tree_digest(hashes) == recorded)
    for name, digest in hashes.items():
        yield Item(prefix + name, directory / name, (directory / name).stat().st_size, digest)


def _check(path: Path, same: bool) -> None:
    if not same:
        raise PushError(f"{path}: is missing, or not what its record says (sha256 differs): run `make export` again")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
