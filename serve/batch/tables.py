"""Write rows as CSV, JSONL or Parquet, streaming them."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from burnish.console import warn
from burnish.data.faults import Undecoded
from burnish.errors import UserError

Value = TypeVar("Value")
Row = Mapping[str, Any]
Rows = Callable[[], Iterable[Row]]  # may be called several times
BATCH_ROWS = 1024


class TableError(UserError):
    """Raised when the output file has an unknown extension, or a value does not fit its type."""


def check_type(path: Path) -> None:
    """Raise TableError if files with this extension can't be written."""
    if path.suffix.lower() not in WRITERS:
        raise TableError(f"out {path}: unknown extension '{path.suffix}': expected {', '.join(WRITERS)}")
    if path.suffix.lower() == ".parquet":
        _pyarrow(path)


def write_table(path: Path, type: str, columns: Sequence[str], rows: Rows) -> None:
    """Write rows to a file of the given extension; a column that a row lacks is empty. Raises TableError."""
    left_out = _undecoded(columns, rows())
    if left_out:
        warn(f"columns left out, because their values can't be read: {', '.join(left_out)}; save them as text")
    WRITERS[type.lower()](path, [name for name in columns if name not in left_out], rows)


def _undecoded(columns: Sequence[str], rows: Iterable[Row]) -> list[str]:
    """Return the columns with values that were not decoded, such as dates in Parquet."""
    found = {name for row in rows for name, value in row.items() if isinstance(value, Undecoded)}
    return [name for name in columns if name in found]


def _write_csv(path: Path, columns: Sequence[str], rows: Rows) -> None:
    with path.open("w", encoding="utf-8", newline="", errors="backslashreplace") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for row in rows():
            writer.writerow([_cell(row.get(name)) for name in columns])


def _cell(value: Any) -> str:
    """Return a value as a CSV cell: text unchanged, null as an empty cell, everything else as JSON."""
    return value if isinstance(value, str) else "" if value is None else to_json(value)


def _write_jsonl(path: Path, columns: Sequence[str], rows: Rows) -> None:
    with path.open("wb") as file:
        for row in rows():
            file.write(to_json({name: row[name] for name in columns if name in row}).encode() + b"\n")


def to_json(value: Any) -> str:
    """Return a value as JSON; NaN and infinities become null, and types that JSON lacks become text."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=str)
    except ValueError:
        text = json.dumps(_finite(value), ensure_ascii=False, default=str)
    return text if text.isascii() or _encodes(text) else json.dumps(_finite(value), default=str)


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # an unpaired surrogate
        return False
    return True


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return {name: _finite(one) for name, one in value.items()} if isinstance(value, dict) else value


def _parts(values: Iterable[Value]) -> Iterator[list[Value]]:
    """Yield the values in lists of BATCH_ROWS."""
    waiting = iter(values)
    while part := list(islice(waiting, BATCH_ROWS)):
        yield part


def _pyarrow(path: Path) -> Any:
    try:
        import pyarrow
    except ImportError:
        raise TableError(f"out {path}: writing Parquet needs pyarrow, which is not installed: write .jsonl") from None
    return pyarrow


def _write_parquet(path: Path, columns: Sequence[str], rows: Rows) -> None:
    """Write in two passes: column types, then rows. Columns of mixed types become JSON text."""
    pa = _pyarrow(path)
    import pyarrow.parquet as pq

    types = {name: _column_type(pa, name, rows()) for name in columns}
    schema = pa.schema([(name, type or pa.string()) for name, type in types.items()])
    with pq.ParquetWriter(path, schema) as writer:
        for part in _parts(rows()):
            arrays = [
                pa.array(
                    [row.get(name) if types[name] else _cell(row.get(name)) or None for row in part],
                    schema.field(name).type,
                )
                for name in columns
            ]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _column_type(pa: Any, name: str, rows: Iterable[Row]) -> Any:
    """Return the common Arrow type of a column's values, or None."""
    found = pa.schema([(name, pa.null())])
    try:
        for part in _parts(row.get(name) for row in rows):
            here = pa.schema([(name, pa.array(list(part)).type)])
            found = pa.unify_schemas([found, here], promote_options="permissive")
    except (pa.ArrowException, UnicodeEncodeError, OverflowError):
        return None
    type = found.field(name).type
    return pa.string() if pa.types.is_null(type) else type


WRITERS: dict[str, Callable[[Path, Sequence[str], Rows], None]] = {
    ".csv": _write_csv,
    ".jsonl": _write_jsonl,
    ".parquet": _write_parquet,
}
