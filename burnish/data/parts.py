"""A directory of parts: which of its files are data, in the order of their names."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from .faults import DataError

DATA = frozenset({".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".arrow", ".feather"})
PACKED = frozenset({".gz", ".bz2", ".xz", ".lzma", ".zst", ".zstd"})
# what `datasets` and others write beside their parts
DESCRIPTIONS = frozenset(
    {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "metadata.json"}
)
EVALUATION = frozenset({"test", "eval", "evaluation", "valid", "validation", "val", "dev", "heldout", "holdout"})
MAX_SHOWN = 5


def find_parts(directory: Path, notes: list[str]) -> list[Path]:
    """Return the data files of a directory by name; files of other kinds, hidden ones apart, are named in `notes`.

    Raises DataError where there is none, or where the files are not parts of one data set: a training file beside one
    for evaluation, or one table written in two ways.
    """
    try:
        there = sorted(path for path in directory.iterdir() if not path.name.startswith((".", "_")))
    except OSError as error:
        raise DataError(f"{directory}: can't be read: {error.strerror}") from None
    parts = [path for path in there if _is_part(path)]
    others = [path.name + ("/" if path.is_dir() else "") for path in there if path not in parts]
    if not parts:
        found = f"it holds {_some(others)}" if others else "it is empty"
        raise DataError(f"{directory}: is a directory without data files: {found}; give a data file, or its directory")
    _check_splits(directory, parts)
    _check_twice(directory, parts)
    if others:
        notes.append(f"not read: {_some(others)}")
    return parts


def _check_splits(directory: Path, parts: list[Path]) -> None:
    held = [path.name for path in parts if EVALUATION.intersection(re.split(r"[^a-z]+", path.name.lower()))]
    if held and len(held) < len(parts):
        raise DataError(
            f"{directory}: {_some(held)} in it {'is' if len(held) == 1 else 'are'} for evaluation by name: give the"
            " training file as data.path, and that one as data.eval_path"
        )


def _check_twice(directory: Path, parts: list[Path]) -> None:
    names: defaultdict[str, list[str]] = defaultdict(list)
    for path in parts:
        names[path.name.split(".")[0]].append(path.name)
    twice = [both for both in names.values() if len({_kind(Path(name)) for name in both}) > 1 or _packed_beside(both)]
    if twice:
        raise DataError(f"{directory}: {' and '.join(twice[0])} look like one table written twice: give one of them")


def _packed_beside(names: list[str]) -> bool:
    """Whether a file stands beside itself, packed."""
    plain = [name for name in names if Path(name).suffix.lower() not in PACKED]
    return any(name.startswith(f"{other}.") for name in names for other in plain)


def _kind(path: Path) -> str:
    """Return the extension, that of what is packed where the file is packed, "" for a bare number (part-00000)."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    while suffixes and (suffixes[-1] in PACKED or suffixes[-1][1:].isdecimal()):
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _is_part(path: Path) -> bool:
    kind = _kind(path)
    numbered = not kind and any(character.isdecimal() for character in path.name)
    return path.is_file() and (kind in DATA or numbered) and path.name not in DESCRIPTIONS


def _some(names: list[str]) -> str:
    more = len(names) - MAX_SHOWN
    return ", ".join(names[:MAX_SHOWN]) + (f" and {more} more" if more > 0 else "")
