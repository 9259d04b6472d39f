"""Make proven rows from examples, and truncate or drop rows that are too long."""

from __future__ import annotations

from collections.abc import Sequence

from burnish.chat import ChatTemplate
from burnish.console import say, warn
from burnish.data.files import DataError
from burnish.data.formats import Example

from ..settings import DataSection
from .mask import Codec, MaskError, Row, build, prove

FIRST_ROWS = 100  # if all of them have the same error, the others are not checked
MOST_NAMED = 3  # most over-long rows named in a message


class RowMaker:
    """Makes proven rows, and records the lengths of all rows and the lines of those that are too long."""

    def __init__(self, template: ChatTemplate | None, codec: Codec, data: DataSection) -> None:
        self.template, self.codec, self.data = template, codec, data
        self.lengths: list[int] = []
        self.dropped: list[int] = []
        self.truncated: list[int] = []

    def rows(self, examples: Sequence[Example], path: str) -> list[Row]:
        """Return the rows of a file's examples that fit into data.max_length.

        Raises MaskError or DataError with every row that can't be trained, or if no row is left.
        """
        rows = self._proven(examples, path)
        self.lengths += [len(row.input_ids) for row in rows]
        if self.data.over_length == "error":
            self._refuse_long(rows, path)
        fitting = [shortened for row in rows if (shortened := self._fit(row)) is not None]
        if long := sum(len(row.input_ids) > self.data.max_length for row in rows):
            self._say_long(long, len(rows), len(rows) - len(fitting), path)
        if not fitting:
            cut = self.data.over_length == "truncate"
            found = "every row's prompt already fills" if cut else "every row is longer than"
            raise DataError(f"{path}: {found} data.max_length {self.data.max_length}, so none is left: raise it")
        return fitting

    def _proven(self, examples: Sequence[Example], path: str) -> list[Row]:
        first, others = examples[:FIRST_ROWS], len(examples) - FIRST_ROWS
        if others > FIRST_ROWS:  # the first rows show whether a template fits none
            try:
                self._built(first)
            except MaskError as error:
                if error.rows == len(first):
                    *before, last = (f"{path}: {fault}" for fault in error.faults)
                    last += f"; none of the first {len(first)} rows can be trained"
                    raise MaskError([*before, f"{last}, so the other {others:,} were not checked"]) from None
        try:
            return self._built(examples)
        except MaskError as error:
            raise MaskError([f"{path}: {fault}" for fault in error.faults]) from None

    def _built(self, examples: Sequence[Example]) -> list[Row]:
        rows = build(examples, self.template, self.codec)
        prove(rows, self.template, self.codec)
        return rows

    def _refuse_long(self, rows: Sequence[Row], path: str) -> None:
        limit = self.data.max_length
        long = [row for row in rows if len(row.input_ids) > limit]
        if not long:
            return
        named = ", ".join(f"{row.example.where}: {len(row.input_ids)} tokens" for row in long[:MOST_NAMED])
        others = f" ... the longest has {max(len(row.input_ids) for row in long)}" if len(long) > MOST_NAMED else ""
        raise DataError(
            f"{path}: {len(long)} of {len(rows)} rows are longer than data.max_length {limit} ({named}{others}): raise"
            " it, or set data.over_length to drop or truncate"
        )

    def _say_long(self, long: int, rows: int, dropped: int, path: str) -> None:
        """Report rows that are too long; with a warning if most are dropped, which is rarely intended."""
        (warn if dropped * 2 > rows else say)(
            f"data: {path}: {long} of {rows} rows are longer than data.max_length {self.data.max_length}: {dropped}"
            f" dropped, {long - dropped} truncated (data.over_length {self.data.over_length})"
        )

    def _fit(self, row: Row) -> Row | None:
        """Return the row; if too long, truncated or None (dropped). Rows without a response left are dropped."""
        limit = self.data.max_length
        if len(row.input_ids) <= limit:
            return row
        spans = tuple((start, min(end, limit)) for start, end in row.spans if start < limit)
        if self.data.over_length == "drop" or not spans:
            self.dropped.append(row.example.number)
            return None
        self.truncated.append(row.example.number)
        cut = row.spans[len(spans) - 1][1] > limit
        return Row(row.example, row.input_ids[:limit], spans, row.turns[: len(spans)], cut)
