"""Recognise the format of a file's rows from their keys."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ..console import counted
from ..errors import nearest
from .faults import DataError
from .reading.row import RawRow
from .schema import FORMATS, MESSAGES_APART, fitting

MAX_KEYS_SHOWN = 12
OWN_COLUMNS = "map the columns with data.columns: see docs/prepare-data.md, 'Columns of your own'"


def recognise(rows: Sequence[RawRow], path: Path) -> str:
    """Return the format that more than half of the rows fit.

    Raises DataError, with the keys found, if no format fits or several fit equally well.
    """
    votes = Counter(name for row in rows for name in fitting(row.value))
    ranked = votes.most_common(2)
    if len(ranked) == 2 and ranked[0][1] == ranked[1][1]:
        both = " and ".join(f"{name} ({counted(count, 'row')})" for name, count in ranked)
        raise DataError(f"{path}: the rows fit {both} equally well; choose one with data.format")
    if not ranked or ranked[0][1] * 2 <= len(rows):
        raise DataError(_unrecognised(rows, votes, path))
    return ranked[0][0]


def _unrecognised(rows: Sequence[RawRow], votes: Counter[str], path: Path) -> str:
    keys = Counter(key for row in rows if isinstance(row.value, dict) for key in row.value)
    found = ", ".join(f"'{key}' ({counted(count, 'row')})" for key, count in keys.most_common(MAX_KEYS_SHOWN))
    known = "; ".join(f"{name} needs {' and '.join(columns.required)}" for name, columns in FORMATS.items())
    some = ", ".join(f"{name} fits {count} of {len(rows)} rows" for name, count in votes.most_common())
    head = f"most rows fit no format ({some})" if some else "the rows fit no format"
    return f"{path}: {head}; keys found: {found or 'none'}; {known}{_guess(rows, keys)}"


def _guess(rows: Sequence[RawRow], keys: Counter[str]) -> str:
    """Return a hint about the likely content of rows that fit no format."""
    if keys.keys() >= MESSAGES_APART:
        return "; rows of single messages can't be put together: use the file of trees (*.trees.jsonl.gz)"
    only = rows[0].value if len(rows) == 1 and isinstance(rows[0].value, dict) else {}
    if inner := [
        key for key, value in only.items() if isinstance(value, list) and value and isinstance(value[0], dict)
    ]:
        return f"; the rows seem to be under '{inner[0]}': save only that list"
    if only and all(isinstance(value, dict) for value in only.values()):
        return "; it looks like a DataFrame that pandas wrote by columns: use to_json(orient='records')"
    if all(isinstance(row.value, list) for row in rows):
        return "; the rows are lists of cells without names: save them as objects (pandas: to_json(orient='records'))"
    wanted = {name for columns in FORMATS.values() for name in columns.required} - keys.keys()
    near = {key: name for key in keys if (name := nearest(key, wanted))}
    if keys and not near:
        return f"; {OWN_COLUMNS}"
    return "".join(f"; did you mean '{name}' instead of '{key}'?" for key, name in near.items())
