"""Convert a table in a single JSON object to rows: DataFrames written by pandas, and rows keyed by id."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from .faults import kind
from .json_scanner import scan_json
from .schema import KNOWN, fitting

Table = dict[str, Any]
SPEAKERS, TURNS = ("role", "from"), ("messages", "conversations", "conversation")


def unfold(values: Sequence[Any], notes: list[str]) -> list[Any] | None:
    """Return the rows nested in a file's values, or None if the values already are the rows.

    Handles a DataFrame object (`DataFrame.to_json` with orient columns, index, split or table, or lists by column),
    an object with rows keyed by id, and rows that are JSON strings. Adds what was done to `notes`.
    """
    if len(values) == 1 and isinstance(values[0], dict):
        for read, what in READERS:
            if (rows := read(values[0])) is not None:
                notes.append(f"one JSON object with {what}: read as {len(rows)} rows")
                return rows
    return _from_texts(values, notes)


def named(names: Sequence[Any], cells: Any) -> Any:
    """Build a row from names and cells; return `cells` unchanged unless it is a list of the same length."""
    return dict(zip(names, cells, strict=True)) if isinstance(cells, list) and len(cells) == len(names) else cells


def _split(table: Table) -> list[Any] | None:
    names, data = table.get("columns"), table.get("data")
    if not isinstance(names, list) or not isinstance(data, list) or not names or not data:
        return None
    if not all(isinstance(name, str) for name in names) or not all(isinstance(cells, list) for cells in data):
        return None
    return [named(names, cells) for cells in data]


def _schema(table: Table) -> list[Any] | None:
    schema, data = table.get("schema"), table.get("data")
    if not (isinstance(schema, dict) and "fields" in schema and isinstance(data, list) and data):
        return None
    return data


def _columns(table: Table) -> list[Any] | None:
    """Read one object per column with cells keyed by row label; a missing label is an empty cell."""
    if not table or not all(isinstance(cells, dict) and cells for cells in table.values()):
        return None
    labels = dict.fromkeys(label for cells in table.values() for label in cells)
    rows = [{name: cells.get(label) for name, cells in table.items()} for label in labels]
    return rows if any(map(fitting, rows)) else None


def _index(table: Table) -> list[Any] | None:
    rows = list(table.values())
    objects = [row for row in rows if isinstance(row, dict)]
    if not objects or not _fit(objects) or 2 * len(objects) <= len(rows) or any(key in KNOWN for key in table):
        return None
    return rows


def _lists(table: Table) -> list[Any] | None:
    """Read one list of cells per column. A single row of turn lists looks similar, but its items have speakers."""
    cells = list(table.values())
    if not cells or not all(isinstance(column, list) and len(column) == len(cells[0]) > 0 for column in cells):
        return None
    if any(_is_turn(name, cell) for name, column in table.items() for cell in column):
        return None
    rows = [dict(zip(table, row, strict=True)) for row in zip(*cells, strict=True)]
    return rows if _fit(rows) else None


def _is_turn(name: str, cell: Any) -> bool:
    """Return whether an element is a turn, not a cell: an object with a speaker, possibly as a JSON string."""
    if isinstance(cell, str):
        return name in TURNS and cell.lstrip().startswith("{")
    return isinstance(cell, dict) and any(key in cell for key in SPEAKERS)


READERS: tuple[tuple[Callable[[Table], list[Any] | None], str], ...] = (
    (_split, "a DataFrame (orient='split')"),
    (_schema, "a DataFrame (orient='table')"),
    (_columns, "an object of cells per column (the default of pandas)"),
    (_index, "rows by id"),
    (_lists, "a list of cells per column"),
)


def _from_texts(values: Sequence[Any], notes: list[str]) -> list[Any] | None:
    """Read rows that are JSON strings inside JSON; return None unless all are."""
    if not values or not all(isinstance(value, str) and value.lstrip().startswith("{") for value in values):
        return None
    rows = [parsed(value) for value in values]
    if not all(isinstance(row, dict) and fitting(row) for row in rows):
        return None
    notes.append(f"{len(rows)} rows are JSON strings: read as objects")
    return rows


def parsed(text: str, faults: list[str] | None = None) -> Any:
    """Parse a JSON text with a single value; an array becomes a list. Malformed text returns None.

    Adds any error to `faults`.
    """
    found: list[str] = []
    values = [value for _, value in scan_json(text, found)]
    if faults is not None:
        faults += found
    if found:
        return None
    return values if text.lstrip().startswith("[") else values[0] if len(values) == 1 else None


def as_object(value: Any) -> dict[str, Any] | None:
    """Return an object, also from its JSON text; None if it is neither."""
    found = parsed(value) if isinstance(value, str) else value
    return found if isinstance(found, dict) else None


def dumped(value: Any, what: str, faults: list[str]) -> str | None:
    """Return a value as JSON text; None, and an error, if JSON can't represent it."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, default=_refused)
    except (ValueError, TypeError) as error:
        faults.append(f"{what} has a value that JSON can't represent: {error}")
        return None


def _refused(value: Any) -> Any:
    raise TypeError(kind(value))


def parsed_list(text: str, faults: list[str]) -> list[Any] | None:
    """Parse a list from JSON, or from a Python literal as pandas writes to CSV. Adds an error if there is none."""
    found: list[str] = []
    value = parsed(text, found)
    if found and "malformed JSON" in found[0]:
        with suppress(ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            again: list[str] = []
            value, found = parsed(json.dumps(ast.literal_eval(text)), again), again
    faults += found
    return value if isinstance(value, list) and not found else None


def _fit(rows: Sequence[Any]) -> bool:
    return 2 * sum(bool(fitting(row)) for row in rows) > len(rows)
