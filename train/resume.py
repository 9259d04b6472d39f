"""How a run begins: a new directory, or one that goes on where it stopped if nothing about it has changed.

started.json holds what was asked and what was found when the run began, config.yaml what it uses, all decided.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from burnish import lock
from burnish import run as runs
from burnish.config import fields
from burnish.console import say, warn
from burnish.run import Run, RunError, TrainRecord

from .data.mask import Row
from .data.prepare import Prepared
from .settings import TrainSettings

if TYPE_CHECKING:  # it brings torch, which takes seconds
    from .plan.resolve import Resolved

CONFIG, STARTED = "config.yaml", "started.json"
DISK_BYTES = 500_000_000  # checkpoints and the adapter of a small model; planning knows better
# decided when a run begins and kept when it goes on: memory and machine may be others then, the model may not
KEPT = (
    ("base", "revision"),
    ("base", "quantization"),
    ("base", "dtype"),
    ("base", "attn_implementation"),
    ("base", "backend"),
    ("train", "optim"),
)
OPEN = ("auto", None)
Settings = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Begun:
    """A run that was begun: what was `asked`, what it `used`, and the `inputs` it found.

    `whole` is False for one of a version that did not write down what it decided.
    """

    run: Run
    asked: Settings
    used: Settings
    inputs: dict[str, Any]
    whole: bool

    @staticmethod
    def read(run: Run) -> Begun:
        """Read it. Raises RunError where a file is missing or damaged."""
        path = run.path / CONFIG
        try:
            used = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise RunError(f"{path}: can't be read: {' '.join(str(error).split())}") from None
        inputs = runs.read_json(run.path / STARTED)
        asked: Any = inputs.get("asked", used) if isinstance(inputs, dict) else None
        for name, said in ((CONFIG, used), (STARTED, asked)):
            if not isinstance(said, dict) or not all(isinstance(section, dict) for section in said.values()):
                raise RunError(f"{run.path / name}: expected sections of settings")
        return Begun(run, asked, used, inputs, "asked" in inputs)

    def differences(self, settings: TrainSettings) -> list[str]:
        """Return each setting that is neither what was asked when the run began nor what it became."""
        defaults = {path: info.get_default(call_default_factory=True) for path, info in fields(TrainSettings)}
        found = []
        for (section, key), value in _comparable(settings).items():
            default = defaults[section, key]  # an older version may not have had the setting
            was, used = (said.get(section, {}).get(key, default) for said in (self.asked, self.used))
            if value not in (was, used) and not ((section, key) == ("chat", "date") and value is None):
                became = f" (decided: {used!r})" if used != was else ""
                found.append(f"{section}.{key}: the run has {was!r}{became}, now {value!r}")
        return found


def choose(settings: TrainSettings, resume: bool) -> TrainSettings:
    """Check that the run can be kept, and settle what must be known before the data is read.

    Without a name, the newest unfinished run with the same settings, data and base goes on, so that the same command
    given again after an interruption does; with `resume` there must be one. A run that goes on keeps the date that its
    templates saw, and what was decided about its model.
    """
    root, name = Path(settings.run.root), settings.run.name
    runs.check_writable(root, DISK_BYTES, "training")
    if name is None and (name := _newest_unfinished(root, settings)) is not None:
        say(f"train: going on with the unfinished run '{name}' (to begin another, give it a name: RUN= or --run.name)")
    if resume and name is None:
        raise RunError(f"--resume: no unfinished run with these settings in {root}/; leave it out to begin one")
    if resume and not (root / str(name) / CONFIG).is_file():
        raise RunError(f"--resume: no run '{name}' in {root}/")
    settings = settings.model_copy(update={"run": settings.run.model_copy(update={"name": name})})
    if name is not None:
        lock.check(root / name)
    if name is not None and (root / name / CONFIG).is_file():
        settings = as_begun(settings, Begun.read(Run(root / name)))
    date = settings.chat.date or datetime.now(UTC).strftime("%Y-%m-%d")
    return settings.model_copy(update={"chat": settings.chat.model_copy(update={"date": date})})


def as_begun(settings: TrainSettings, begun: Begun) -> TrainSettings:
    """Return the settings with what was decided when the run began, where they ask what was asked then."""
    for section, key in (*KEPT, ("chat", "date")):
        now, kept = getattr(settings, section), begun.used.get(section, {}).get(key)
        same = getattr(now, key) == begun.asked.get(section, {}).get(key) or (key == "date" and now.date is None)
        if same and kept not in OPEN:
            settings = settings.model_copy(update={section: now.model_copy(update={key: kept})})
    return settings


def settle_name(settings: TrainSettings, prepared: Prepared) -> TrainSettings:
    """Return the settings with a name for the run: the one that was given, or one of its own."""
    name = settings.run.name or runs.new_id(prepared.base.name, settings.data.path)
    return settings.model_copy(update={"run": settings.run.model_copy(update={"name": name})})


def is_finished(settings: TrainSettings) -> bool:
    """Whether the run that the settings name has nothing left to do."""
    return settings.run.name is not None and Run(Path(settings.run.root) / settings.run.name).has(TrainRecord)


def finished_run(settings: TrainSettings, prepared: Prepared) -> Run:
    """Return the finished run that the settings name. Raises RunError where its settings or data were others."""
    run = Run(Path(settings.run.root).resolve() / str(settings.run.name))
    _check_same(Begun.read(run), settings, inputs(prepared))
    return run


def open_run(asked: TrainSettings, resolved: Resolved, prepared: Prepared) -> tuple[Run, Resolved]:
    """Return the run to work on, with what it uses written to it; `asked` are the settings before they were decided.

    A named run that exists goes on where it stopped, if its settings, data and base are the same.
    """
    name = asked.run.name or runs.new_id(prepared.base.name, asked.data.path)
    run, resolved = Run(Path(asked.run.root).resolve() / name), resolved.named(name)
    found = {**inputs(prepared), "parent_sha256": resolved.parent_sha256}
    if (run.path / CONFIG).is_file():
        begun = Begun.read(run)
        if not begun.whole:
            raise RunError(
                f"run '{run.id}' was begun by an older version, which did not record what it decided: finish it with"
                f" that version, or choose another name (RUN=, --run.name), or remove {run.path} to begin it again"
            )
        _check_same(begun, asked, found)
    else:
        said = {**found, "asked": asked.model_dump()}
        runs.write_atomic(run.path / STARTED, json.dumps(said, indent=1, ensure_ascii=False) + "\n")
    write_config(run, resolved)
    return run, resolved


def write_config(run: Run, resolved: Resolved) -> None:
    """Write what the run uses; where it is to be published may have been written there by hand, and stays."""
    text = resolved.yaml()
    if (run.path / CONFIG).is_file() and resolved.settings.push.repo is None:
        kept = Begun.read(run).used.get("push", {})
        text = yaml.safe_dump({**yaml.safe_load(text), "push": kept}, sort_keys=False, allow_unicode=True)
    runs.write_atomic(run.path / CONFIG, text)


def inputs(prepared: Prepared) -> dict[str, str | None]:
    """Return what a run is made from, by content: the file, the base, the template, and the very rows of each side."""
    return {
        "data_sha256": prepared.data_sha256,
        "eval_sha256": prepared.eval_sha256,
        "base_sha256": prepared.base.sha256,
        **template_inputs(prepared),
        "rows_sha256": _rows_sha256(prepared.train),
        "heldout_sha256": _rows_sha256(prepared.heldout),
    }


def template_inputs(prepared: Prepared) -> dict[str, str | None]:
    """Return the chat template's hash and the date that it saw."""
    return {
        "chat_template_sha256": runs.text_sha256(prepared.template.source) if prepared.template else None,
        "template_date": prepared.template.date if prepared.template else "",
    }


def _rows_sha256(rows: Iterable[Row]) -> str:
    """Return one sha256 over rows as they are trained: their ids and spans."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(
            array("q", [len(row.input_ids), *row.input_ids, *(i for span in row.spans for i in span)]).tobytes()
        )
    return digest.hexdigest()


def _comparable(settings: TrainSettings) -> dict[tuple[str, str], Any]:
    """Settings without those that only say where things are, or where they go afterwards."""
    dump = settings.model_dump()
    flat = {
        (s, key): value for s, section in dump.items() for key, value in section.items() if s not in ("run", "push")
    }
    for key in (("data", "path"), ("base", "id")):
        flat.pop(key, None)  # compared by their sha256 instead
    return flat


def _check_same(begun: Begun, settings: TrainSettings, found: dict[str, str | None]) -> None:
    """Raise RunError with every difference between a run as it was begun and what is asked now."""
    faults = begun.differences(settings)
    faults += [
        f"{key.removesuffix('_sha256')}: its content is not what the run began with"
        for key, value in found.items()
        if key.endswith("sha256") and begun.inputs.get(key, value) != value
    ]
    if faults:
        raise RunError(
            [f"run '{begun.run.id}' was begun with other settings: {fault}" for fault in faults]
            + [f"choose another name, or remove {begun.run.path} to begin it again"]
        )


def _newest_unfinished(root: Path, settings: TrainSettings) -> str | None:
    """Return the newest run that was begun with these settings on this very data, and has not finished."""
    given = {"data_sha256": settings.data.path, "eval_sha256": settings.data.eval_path}
    hashes = {k: runs.file_sha256(Path(path)) if path and Path(path).is_file() else None for k, path in given.items()}
    there = [Run(p) for p in root.iterdir() if not p.is_symlink() and (p / CONFIG).is_file()]
    begun = filter(None, (_begun_with(run, settings, hashes) for run in there if not run.has(TrainRecord)))
    found = max(begun, key=lambda one: (one.run.path / CONFIG).stat().st_mtime_ns, default=None)
    return found.run.id if found else None


def _begun_with(run: Run, settings: TrainSettings, hashes: dict[str, str | None]) -> Begun | None:
    """Return a run that was begun with these settings on this data and can go on, else None."""
    try:
        begun = Begun.read(run)
    except RunError:
        return None
    same_base = begun.asked.get("base", {}).get("id") == settings.base.id
    same_inputs = all(begun.inputs.get(key) == digest for key, digest in hashes.items())
    if not (same_base and same_inputs) or begun.differences(settings):
        return None
    if not begun.whole:
        warn(
            f"the unfinished run '{run.id}' does not go on: an older version began it, and recorded not all it decided"
        )
        return None
    return begun
