"""A run's start: started.json (settings as given, input hashes) and config.yaml (resolved settings)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import yaml

from burnish.config import fields
from burnish.config.schema import show
from burnish.fields import moment
from burnish.files import read_json, text_sha256, write_atomic
from burnish.run import CONFIG, Run, RunError, now

from .data.prepare import Prepared
from .resolved import Resolved
from .settings import TrainSettings

STARTED = "started.json"
MAX_BYTES = 8 << 20
Settings = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class StartedRun:
    """A started run: its settings as given (`requested`) and as resolved (`used`), and its `inputs`.

    `whole` is False if the run was started by an older version that did not record resolved settings.
    """

    run: Run
    requested: Settings
    used: Settings
    inputs: dict[str, Any]
    whole: bool

    @staticmethod
    def read(run: Run) -> StartedRun:
        """Read a run's start. Raises RunError or FileError if a file is missing or damaged."""
        used, path = run.settings(), run.inside(STARTED)
        inputs = read_json(path, MAX_BYTES)
        requested: Any = inputs.get("asked", used) if isinstance(inputs, dict) else None
        if not isinstance(requested, dict) or not all(isinstance(section, dict) for section in requested.values()):
            raise RunError(f"{path}: expected sections of settings")
        return StartedRun(run, requested, used, inputs, "asked" in inputs)

    @property
    def created(self) -> datetime:
        """The start time; the file's modification time if an older version did not record it."""
        try:
            return moment(str(self.inputs["created"]))
        except (KeyError, ValueError, OverflowError):
            return datetime.fromtimestamp((self.run.path / STARTED).stat().st_mtime, UTC)

    def differences(self, settings: TrainSettings) -> list[str]:
        """Return each setting that matches neither the given nor the resolved value from the run's start."""
        defaults = {path: info.get_default(call_default_factory=True) for path, info in fields(TrainSettings)}
        found = []
        for (section, key), value in _comparable(settings).items():
            default = defaults[section, key]  # for settings that an older version lacked
            was, used = (part.get(section, {}).get(key, default) for part in (self.requested, self.used))
            if value not in (was, used) and not ((section, key) == ("chat", "date") and value is None):
                became = f" (resolved: {show(used)})" if used != was else ""
                given = key in getattr(settings, section).model_fields_set
                change = f"you set {show(value)}" if given else f"now it is {show(value)}, the default"
                found.append(f"{section}.{key}: the run has {show(was)}{became}, {change}")
        return found


def write_config(run: Run, resolved: Resolved) -> None:
    """Write the resolved settings, keeping a push section that was edited by hand."""
    text = resolved.yaml()
    if (run.path / CONFIG).is_file() and resolved.settings.push.repo is None:
        push = StartedRun.read(run).used.get("push", {})
        text = yaml.safe_dump({**yaml.safe_load(text), "push": push}, sort_keys=False, allow_unicode=True)
    write_atomic(run.path / CONFIG, text)


def write_started(run: Run, requested: TrainSettings, found: dict[str, str | None]) -> None:
    """Write the settings as given and the input hashes."""
    content = {**found, "created": now(), "asked": requested.model_dump()}
    write_atomic(run.path / STARTED, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def inputs(prepared: Prepared) -> dict[str, str | None]:
    """Return a run's input hashes: data files, base, template, training rows and held-out rows."""
    return {
        "data_sha256": prepared.data_sha256,
        "eval_sha256": prepared.eval_sha256,
        "base_sha256": prepared.base.sha256,
        **template_inputs(prepared),
        "rows_sha256": prepared.rows_sha256,
        "heldout_sha256": prepared.heldout_sha256,
    }


def template_inputs(prepared: Prepared) -> dict[str, str | None]:
    """Return the chat template's hash and date."""
    return {
        "chat_template_sha256": text_sha256(prepared.template.source) if prepared.template else None,
        "template_date": prepared.template.date if prepared.template else "",
    }


def _comparable(settings: TrainSettings) -> dict[tuple[str, str], Any]:
    """Return the settings except the ones that are only locations or apply after training."""
    dump = settings.model_dump()
    flat = {
        (s, key): value for s, section in dump.items() for key, value in section.items() if s not in ("run", "push")
    }
    for key in (("data", "path"), ("base", "id")):
        flat.pop(key, None)  # compared by their sha256 instead
    return flat
