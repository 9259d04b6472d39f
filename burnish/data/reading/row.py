"""One row of a data file, and its location for messages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Unit = Literal["line", "row"]


@dataclass(frozen=True)
class RawRow:
    """One row of a data file: `line` is its first line, `row` its number, both starting at 1.

    `unit` is the unit that messages use for locations: "line", or "row" where rows share a line (minified JSON) and
    in Parquet, whose rows have line 0. In a dataset of several parts, `file` is the row's part, and `row` is counted
    over all parts. `source` is the number of the row's source, where there are several.
    """

    line: int
    value: Any
    row: int = 0
    unit: Unit = "line"
    file: str = ""
    source: int = 0

    @property
    def where(self) -> str:
        """The row's location in the file, for messages."""
        return place(self.line, self.row, self.unit, self.file)


def place(line: int, row: int, unit: Unit, file: str = "") -> str:
    """Return "line 3", "line 1, row 37" where rows share lines, or "row 37" in a file without lines."""
    here = f"line {line}" if unit == "line" else f"line {line}, row {row}" if line else f"row {row}"
    return f"{file} {here}" if file else here
