"""Read a file's rows, prepare them in one process per core, and write them in order."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from burnish.children.pool import Pool
from burnish.console import Tick, bar
from burnish.data.files import DataError, RawRow
from burnish.machine import cpu_count

from ..cache.columns import ColumnWriter
from ..sources import FIRST_ROWS, Opened
from .work import Done, Findings, Work

LOOKED = 100  # if all of the first rows have the same fault, the others are not checked
MOST_CHUNK_ROWS, CHUNK_BYTES = 512, 1 << 20
# which end counts the elements of which array
ENDS = {"text_end": "text", "key_end": "key", "row_end": "id_end", "id_end": "ids", "span_end": "turn"}
PLAIN = (b"{", b"[", b'"')

Task = tuple[Sequence[RawRow], bool]


class Filling:
    """Findings in the rows so far, and the output arrays (None: the rows are only checked)."""

    def __init__(self, opened: Opened, work: Work, directory: Path | None) -> None:
        self.opened, self.work = opened, work
        self.found = work.findings()
        self.files: dict[str, int] = {}
        self.sums: dict[str, int] = {}
        self.error: DataError | None = None
        self.given_up = False
        self._writer = ColumnWriter(directory) if directory else None
        self._counts = dict.fromkeys(ENDS.values(), 0)

    def run(self) -> Findings:
        """Prepare all rows. `error` is then the reader's error, if there is one.

        `given_up` is set if only the first rows were looked at, because all of them have the same error.
        """
        head, rest = self.opened.first, self.opened.rest
        looked = LOOKED if len(head) > 2 * LOOKED else 0
        if looked:  # they show whether a template fits none, and load what the processes then share
            self._add(self.work((head[:looked], False)))
            if self.found.stopped:
                return self.found
            if not self.found.converter.faults and self.found.faults.most == looked:
                self.given_up = True
                return self.found
        rows = self._read(iter(head[looked:]), rest)
        processes = cpu_count() if len(head) == FIRST_ROWS else 1
        size = _row_bytes(head)
        with Pool[Task, Done](self.work, processes) as pool, _progress(self.opened, size) as tick:
            for done in pool.map(self._tasks(rows, MOST_CHUNK_ROWS)):
                self._add(done)
                tick(self.found.read)
                if self.found.stopped:
                    break
        if self._writer:
            self.sums = self._writer.close()
        return self.found

    @property
    def faulty(self) -> bool:
        """Whether some rows are invalid, so nothing more needs to be written."""
        return bool(self.error or self.found.converter.faults)

    def _tasks(self, rows: Iterator[RawRow], count: int) -> Iterator[Task]:
        chunk: list[RawRow] = []
        size = 0
        for row in rows:
            chunk.append(row)
            size += _size(row.value)
            if len(chunk) >= count or size >= CHUNK_BYTES:
                yield chunk, self.faulty
                chunk, size = [], 0
        if chunk:
            yield chunk, self.faulty

    def _read(self, head: Iterator[RawRow], rest: Iterator[RawRow]) -> Iterator[RawRow]:
        yield from head
        try:
            yield from rest
        except DataError as error:  # all of the reader's faults, after the last row
            self.error = error

    def _add(self, done: Done) -> None:
        self.found.merge(done.findings)
        if self._writer is None or self.faulty or not done.arrays:
            return
        arrays = dict(done.arrays)
        numbers = [self.files.setdefault(name, len(self.files)) for name in done.files]
        arrays["file"] = np.array(numbers, dtype=np.int32)[arrays["file"]]
        counted = {name: len(arrays[name]) for name in ENDS.values()}
        for end, of in ENDS.items():
            arrays[end] = arrays[end] + self._counts[of]
            self._counts[of] += counted[of]
        self._writer.append(arrays)


@contextmanager
def _progress(opened: Opened, row_bytes: int) -> Iterator[_Rate]:
    """Show a progress bar if there are many rows."""
    if len(opened.first) < FIRST_ROWS:
        yield _Rate(lambda done, text="": None, 0)
        return
    total = _estimated(opened, row_bytes)
    with bar(f"data: {Path(opened.path).name}", total or 1) as tick:
        rate = _Rate(tick, total)
        yield rate
        rate.end()


class _Rate:
    """Shows rows per second; `total` is the estimated number of rows, 0 if it is unknown."""

    def __init__(self, tick: Tick, total: int) -> None:
        self._tick, self._total, self._started, self._done = tick, total, time.monotonic(), 0

    def __call__(self, done: int) -> None:
        """Update the bar to `done` prepared rows."""
        self._done = done
        rate = done / max(time.monotonic() - self._started, 1e-3)
        shown = min(done, self._total - 1) if self._total else 0  # the estimate may be low
        self._tick(shown, f"{done:,} rows, {rate:,.0f} rows/s")

    def end(self) -> None:
        """Show that all rows are prepared."""
        rate = self._done / max(time.monotonic() - self._started, 1e-3)
        self._tick(self._total or 1, f"{self._done:,} rows, {rate:,.0f} rows/s")


def _size(value: Any) -> int:
    """Return about how many characters a row has."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_size, value.values()))
    return sum(map(_size, value)) if isinstance(value, list) else 8


def _row_bytes(rows: Sequence[RawRow]) -> int:
    """Return the mean size of the rows as JSON."""
    sizes = [len(json.dumps(row.value, ensure_ascii=False, default=repr)) for row in rows[:LOOKED]]
    return 1 + sum(sizes) // max(1, len(sizes))


def _estimated(opened: Opened, row_bytes: int) -> int:
    """Estimate the number of rows; 0 if the files are compressed or tables."""
    total = 0
    for part in (part for source in opened.dataset.sources for part in source.located.parts):
        with part.open() as file:
            if not file.read(64).lstrip().startswith(PLAIN):
                return 0
        total += part.packed_bytes()
    return total // row_bytes
