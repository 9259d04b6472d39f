"""Choose the training and held-out rows of prepared files according to the settings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from burnish.console import counted, say
from burnish.files import write_atomic
from burnish.machine import cpu_count

from ...settings import DataSection, TrainSettings
from ..cache.key import code_sha256, digest
from ..cache.rows import Examples, Rows
from ..cache.store import Store
from ..contents.digests import Numbers, repeated
from ..contents.minhash import near_repeats
from ..contents.near import near_duplicates
from .fit import fit
from .heldout import Chosen, bounded, held_out, without_overlap


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The chosen rows; the fields are those of `Prepared`."""

    train: Rows
    heldout: Rows
    rows_sha256: str
    heldout_sha256: str
    lengths: Sequence[int]
    dropped: list[int]
    truncated: list[int]
    deduplicated: int = 0
    near_duplicates: int = 0
    overlap: int = 0
    overlap_dropped: int = 0
    warnings: list[str] = field(default_factory=list)


def choose(train: Store, heldout: Store | None, settings: TrainSettings) -> Choice:
    """Return the rows. Raises DataError if none are left, or if the files must not share rows but do.

    Slow results (held-out rows, near duplicates, totals) are cached with the rows.
    """
    data, seed = settings.data, settings.train.seed
    trained, overlap = without_overlap(train, heldout, data) if heldout else (None, 0)
    own = fit(train, data, data.path, trained)
    others = fit(heldout, data, str(data.eval_path)) if heldout else None
    kept = own.examples
    dropped = _repeats(train, kept, data)
    kept[dropped] = False
    parts = _kept(train, heldout, settings)
    if heldout is None or others is None:
        index = np.flatnonzero(kept)
        found = _remembered(train, {"split": parts}, lambda: _split(train, index, data, seed))
        held = np.zeros(len(train), dtype=bool)
        held[index[found["held"]]] = True
        rows = own.rows(kept & ~held), own.rows(held)
    else:
        owner = heldout.table.owner[others.kept]
        chosen = others.kept[bounded(heldout.keys.take(owner), data.eval_rows, seed, str(data.eval_path))]
        rows = own.rows(kept), Rows(heldout, chosen, data.max_length)
    near = _remembered(train, {"near": parts}, lambda: _near(*rows))
    lengths = own.lengths if others is None else np.concatenate([own.lengths, others.lengths])
    return Choice(
        train=rows[0],
        heldout=rows[1],
        rows_sha256=near["rows_sha256"],
        heldout_sha256=near["heldout_sha256"],
        lengths=lengths.tolist(),
        dropped=own.dropped + (others.dropped if others else []),
        truncated=own.truncated + (others.truncated if others else []),
        deduplicated=len(dropped),
        near_duplicates=near["count"],
        overlap=overlap,
        overlap_dropped=0 if trained is None else int((~trained).sum()),
        warnings=_near_warning(near, data),
    )


def _repeats(train: Store, kept: Chosen, data: DataSection) -> Numbers:
    """Return the examples that are not used because of data.dedupe."""
    index = np.flatnonzero(kept)
    if data.dedupe == "none":
        return index[:0]
    again, _ = repeated(train.keys.take(index))
    say(f"data: {data.path}: {counted(len(again), 'repeated row')} dropped (data.dedupe {data.dedupe})")
    if data.dedupe == "exact":
        return index[again]
    once = np.delete(index, again)
    parts = {"near repeats": [code_sha256(), hashlib.sha256(once.tobytes()).hexdigest()]}
    near = np.array(_remembered(train, parts, lambda: _near_repeats(Examples(train, once)))["found"], dtype=np.int64)
    say(f"data: {data.path}: {counted(len(near), 'near duplicate')} of earlier rows dropped (data.dedupe near)")
    return np.concatenate([index[again], once[near]])


def _near_repeats(examples: Examples) -> dict[str, Any]:
    return {"found": near_repeats(examples).tolist(), "said": []}


def _kept(train: Store, heldout: Store | None, settings: TrainSettings) -> list[Any]:
    """Return the inputs that determine the choice."""
    data = settings.data
    names = ("max_length", "over_length", "eval_split", "eval_rows", "eval_overlap", "dedupe")
    other = heldout.directory.name if heldout else None
    return [code_sha256(), other, settings.train.seed, *(getattr(data, name) for name in names)]


def _split(train: Store, index: Any, data: DataSection, seed: int) -> dict[str, Any]:
    said: list[str] = []
    held = held_out(train.keys.take(index), data.eval_split, seed, data.eval_rows, said)
    return {"held": np.flatnonzero(held).tolist(), "said": said}


def _near(train: Rows, heldout: Rows) -> dict[str, Any]:
    """Compare the held-out rows with the training rows, and sum both."""
    found = near_duplicates(train.examples, heldout.examples, cpu_count())
    return {
        "count": len(found.pairs),
        "compared": found.compared,
        "whole": found.whole,
        "first": [example.where for example in found.pairs[0]] if found.pairs else [],
        "rows_sha256": train.sha256(),
        "heldout_sha256": heldout.sha256(),
        "said": [],
    }


def _near_warning(near: dict[str, Any], data: DataSection) -> list[str]:
    if not near["count"]:
        return []
    (held, trained), some = near["first"], "" if near["whole"] else " (not all training rows were compared)"
    files = (f"{data.eval_path} ", f"{data.path} ") if data.eval_path else ("", "")
    return [
        f"{near['count']} of {near['compared']} held-out rows are near duplicates of training rows{some}: the same"
        f" prompt, or half of the five-word sequences (first: {files[0]}{held} and {files[1]}{trained}); the eval loss"
        " and the exam will look better than they would on new rows"
    ]


def _remembered(store: Store, parts: dict[str, Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the cached result of `make` for the same rows and parts; print its messages."""
    path = store.directory / f"{digest(parts)}.json"
    found: dict[str, Any]
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = make()
        with suppress(OSError):
            write_atomic(path, json.dumps(found), private=True)
    for line in found["said"]:
        say(line)
    return found
