"""Find the parts of a dataset in a directory."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath

from ...console import listed
from ..faults import DataError
from ..reading.content import CSV_SUFFIXES, JSON_SUFFIXES, PACKED_SUFFIXES

DATA_SUFFIXES = JSON_SUFFIXES | CSV_SUFFIXES | {".parquet", ".arrow", ".feather"}
# metadata files that `datasets` and other tools write next to the parts
DESCRIPTIONS = frozenset(
    {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "metadata.json"}
)
EVALUATION = frozenset({"test", "eval", "evaluation", "valid", "validation", "val", "dev", "heldout", "holdout"})
MAX_NAMES_SHOWN = 5


def find_parts(directory: Path, notes: list[str]) -> list[Path]:
    """Return a directory's data files, sorted by name; add other non-hidden files to `notes`.

    Raises DataError if there are none, or if they are not parts of one dataset: a training file next to an evaluation
    file, or the same table in two file types.
    """
    try:
        there = sorted(path for path in directory.iterdir() if not path.name.startswith((".", "_")))
    except OSError as error:
        raise DataError(f"{directory} can't be read: {error.strerror}") from None
    parts = [path for path in there if path.is_file() and is_data(path.name)]
    read = set(parts)
    others = [path.name + ("/" if path.is_dir() else "") for path in there if path not in read]
    if not parts:
        found = f"found: {listed(others, MAX_NAMES_SHOWN)}" if others else "empty"
        raise DataError(f"{directory}: no data files found ({found}): pass a data file or its directory")
    check_parts(str(directory), [path.name for path in parts])
    if others:
        notes.append(f"not read: {listed(others, MAX_NAMES_SHOWN)}")
    return parts


def check_parts(title: str, names: Sequence[str]) -> None:
    """Raise DataError if files are not parts of one dataset."""
    held = [name for name in names if EVALUATION.intersection(re.split(r"[^a-z]+", name.lower()))]
    if held and len(held) < len(names):
        raise DataError(
            f"{title}: by name, {listed(held, MAX_NAMES_SHOWN)} {'is' if len(held) == 1 else 'are'} for evaluation:"
            " set data.path to the training file and data.eval_path to the evaluation file"
        )
    by_stem: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        by_stem[name.split(".")[0]].append(name)
    twice = [both for both in by_stem.values() if len(set(map(_kind, both))) > 1 or _packed_beside(both)]
    if twice:
        raise DataError(f"{title}: {' and '.join(twice[0])} look like the same table twice: pass one of them")


def is_data(name: str) -> bool:
    """Return whether a file is a part of a dataset by its name."""
    kind = _kind(name)
    numbered = not kind and any(character.isdecimal() for character in name)
    return (kind in DATA_SUFFIXES or numbered) and name not in DESCRIPTIONS


def _packed_beside(names: Iterable[str]) -> bool:
    """Return whether a file is present both uncompressed and compressed."""
    plain = {name for name in names if PurePath(name).suffix.lower() not in PACKED_SUFFIXES}
    return any(name[:end] in plain for name in names for end, mark in enumerate(name) if mark == ".")


def _kind(name: str) -> str:
    """Return the extension, ignoring compression extensions; "" for a bare number (part-00000)."""
    suffixes = [suffix.lower() for suffix in PurePath(name).suffixes]
    while suffixes and (suffixes[-1] in PACKED_SUFFIXES or suffixes[-1][1:].isdecimal()):
        suffixes.pop()
    return suffixes[-1] if suffixes else ""
