"""Read rows from Parquet and Arrow files. pyarrow is imported only here, and only when such a file is read.

Dates, durations and raw bytes in columns unknown to every format are not decoded: Python cannot represent many of
them (a date in the year 20000, an unknown time zone).
"""

from __future__ import annotations

import resource
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..files import first_line
from .compression import unpacked_limit
from .faults import Undecoded
from .reading.part import Unpacked
from .schema import KNOWN

PARQUET_MAGIC, ARROW_FILE, ARROW_STREAM = b"PAR1", b"ARROW1", b"\xff\xff\xff\xff"
BATCH_ROWS = 1024
SLACK_BYTES = 256 << 20  # allocators reserve more than is requested
# name prefixes of types whose values Python can represent only partly
TIMES = ("date", "time", "duration")


class ArrowError(Exception):
    """Raised when a Parquet or Arrow file can't be read; the message states the reason."""


def is_arrow(data: bytes) -> bool:
    """Return whether the bytes are a Parquet or Arrow file."""
    return data.startswith((PARQUET_MAGIC, ARROW_FILE, ARROW_STREAM))


def read_arrow(data: bytes, packed: int = 0, unpacked: Unpacked | None = None) -> Iterator[dict[str, Any]]:
    """Yield the rows. Raises ArrowError.

    The rows may unpack to what a file of `packed` bytes may (0: of the size of `data`), with what is already counted
    in `unpacked`.
    """
    unpacked = unpacked or Unpacked()
    name = "Parquet" if data.startswith(PARQUET_MAGIC) else "Arrow"
    try:
        import pyarrow as pa
    except ImportError:
        raise ArrowError(f"reading {name} needs pyarrow, which is not installed: save the rows as JSONL") from None
    most, why = unpacked_limit(packed or len(data))
    try:
        for batch, absent in _batches(pa, data, most):
            unpacked.bytes += batch.nbytes
            if unpacked.bytes > most:
                raise MemoryError
            columns = {field.name: _column(pa, field, batch.column(n)) for n, field in enumerate(batch.schema)}
            for number in range(batch.num_rows):
                yield {key: cells[number] for key, cells in columns.items()} | absent
    except MemoryError:  # pyarrow.lib.ArrowMemoryError is a subclass
        raise ArrowError(
            f"the {name} file unpacks to more than {most / 2**20:,.0f} MiB, {why}: if that size is intended, save it"
            " uncompressed"
        ) from None
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise ArrowError(f"malformed {name}: {first_line(error, repr(error))}") from None


def _batches(pa: Any, data: bytes, most: int) -> Iterator[tuple[Any, dict[str, Undecoded]]]:
    """Yield record batches, with a placeholder cell for every column that was not read.

    Raises MemoryError before a batch can use more than `most` bytes.
    """
    if data.startswith(PARQUET_MAGIC):
        import pyarrow.parquet as pq

        file = pq.ParquetFile(pa.BufferReader(data))
        left = {field.name: Undecoded(str(field.type)) for field in file.schema_arrow if not _wanted(pa, field)}
        names = [name for name in file.schema_arrow.names if name not in left]
        batches = file.iter_batches(batch_size=BATCH_ROWS, columns=names)
        yield from ((batch, left) for batch in _within(most, batches))
    elif data.startswith(ARROW_FILE):
        reader = pa.ipc.open_file(pa.BufferReader(data))
        batches = (reader.get_batch(n) for n in range(reader.num_record_batches))
        yield from ((batch, {}) for batch in _within(most, batches))
    else:
        yield from ((batch, {}) for batch in _within(most, pa.ipc.open_stream(pa.BufferReader(data))))


def _within(most: int, batches: Iterable[Any]) -> Iterator[Any]:
    """Yield batches; the process may allocate at most `most` additional bytes while decoding each one.

    A batch's size is unknown until it is decompressed: 16 KB of compressed data can expand to any size.
    """
    made = iter(batches)
    while True:
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        limit = pages * resource.getpagesize() + most + SLACK_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit if soft < 0 else min(soft, limit), hard))
        try:
            batch = next(made, None)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        if batch is None:
            return
        yield batch


def _column(pa: Any, field: Any, array: Any) -> list[Any]:
    if not _wanted(pa, field):
        return [Undecoded(str(field.type)) if ok else None for ok in array.is_valid().to_pylist()]
    return _cells(pa, array)


def _wanted(pa: Any, field: Any) -> bool:
    """Return whether a column should be read: a format knows it, or its values are plain."""
    return field.name in KNOWN or _is_plain(pa, field.type)


def _is_plain(pa: Any, type: Any) -> bool:
    """Return whether a type consists only of strings, numbers and booleans."""
    is_ = pa.types
    if is_.is_dictionary(type):
        return _is_plain(pa, type.value_type)
    if is_.is_map(type) or is_.is_struct(type) or is_.is_list(type) or is_.is_large_list(type):
        return all(_is_plain(pa, type.field(n).type) for n in range(type.num_fields))
    number = is_.is_integer(type) or is_.is_floating(type) or is_.is_decimal(type)
    text = is_.is_string(type) or is_.is_large_string(type) or is_.is_string_view(type)
    return bool(number or text or is_.is_boolean(type) or is_.is_null(type))


def _cells(pa: Any, array: Any) -> list[Any]:
    """Return an array's values without casting: pyarrow's casts break nested types (structs with a null field)."""
    type, is_ = array.type, pa.types
    if isinstance(type, pa.BaseExtensionType):
        return _cells(pa, array.storage)
    if is_.is_dictionary(type):
        known = _cells(pa, array.dictionary)
        return [None if index is None else known[index] for index in array.indices.to_pylist()]
    valid = array.is_valid().to_pylist()
    if is_.is_struct(type):
        fields = {type.field(n).name: _cells(pa, array.field(n)) for n in range(type.num_fields)}
        return [{name: cells[n] for name, cells in fields.items()} if ok else None for n, ok in enumerate(valid)]
    if is_.is_map(type):
        pairs = list(zip(_cells(pa, array.keys), _cells(pa, array.items), strict=True))
        return [dict(pairs[slice(*ends)]) if ok else None for ends, ok in zip(_ends(array), valid, strict=True)]
    if is_.is_list(type) or is_.is_large_list(type):
        values = _cells(pa, array.values)
        return [values[slice(*ends)] if ok else None for ends, ok in zip(_ends(array), valid, strict=True)]
    if _is_plain(pa, type):
        with suppress(ValueError):  # a string is not UTF-8: decode the cells one by one below
            return list(array.to_pylist())
    return [_cell(array[n], Undecoded(str(type))) if ok else None for n, ok in enumerate(valid)]


def _ends(array: Any) -> Iterator[tuple[int, int]]:
    """Yield each list's start and end offset in the array's values."""
    return pairwise(array.offsets.to_pylist())


def _cell(scalar: Any, unread: Undecoded) -> Any:
    """Return a value that JSON can represent, with bytes as UTF-8 text, or else `unread`."""
    if unread.type.startswith(TIMES):
        return unread
    try:
        value = scalar.as_py()
        return value.decode() if isinstance(value, bytes) else value
    except (ValueError, OverflowError, ImportError, NotImplementedError):
        return unread
