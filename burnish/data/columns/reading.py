"""How a file's rows are read: their format, and conversion of columns or transcripts. Decided from the first rows."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..faults import DataError, kind
from ..reading.row import RawRow
from ..recognition import recognise
from .cells import CellFault
from .mapping import ColumnMap, Shaped
from .transcript import Transcript, recognise_transcript

TEXT = "text"


@dataclass(frozen=True)
class Reshape:
    """Converts a row to a known format: columns with templates, or a dialogue in one text to turns.

    Picklable. `used` are the columns in use.
    """

    columns: ColumnMap | None = None
    transcript: Transcript | None = None

    @property
    def used(self) -> frozenset[str]:
        return self.columns.used if self.columns else frozenset({TEXT})

    @property
    def format(self) -> Literal["messages", "text"]:
        """The format of the resulting rows."""
        return "messages" if self.transcript or not self.columns else self.columns.format

    def shape(self, row: Any) -> Shaped:
        """Return the row's turns or text. Raises CellFault."""
        if self.columns is None:
            value = row if isinstance(row, str) else row.get(TEXT) if isinstance(row, dict) else None
            if not isinstance(value, str):
                raise CellFault(f"'{TEXT}': expected text, got {kind(value)}")
            return self._split(value)
        if not isinstance(row, dict):
            raise CellFault(f"expected an object, got {kind(row)}")
        shaped = self.columns.shape(row)
        return self._split(shaped.value[TEXT]) if self.transcript else shaped

    def _split(self, text: str) -> Shaped:
        assert self.transcript is not None
        turns = self.transcript.split(text)
        if isinstance(turns, str):
            raise CellFault(f"the text is not a dialogue: {turns} (data.transcript)")
        return Shaped({"messages": turns}, "messages")


@dataclass(frozen=True)
class Reading:
    """The format of a file's rows, a description for messages, and the conversion of its rows. Picklable."""

    format: str
    how: str = ""
    reshape: Reshape | None = None


def decide(
    first: Sequence[RawRow],
    title: str,
    format: str = "auto",
    columns: ColumnMap | None = None,
    transcript: Transcript | Literal["auto", "none"] = "auto",
    names: Collection[str] | None = None,
) -> Reading:
    """Choose how a file is read from its first rows. Raises DataError if that fails, or a column is unknown.

    `names` are the file's columns (None: those of the first rows).
    """
    if columns is not None:
        columns.check(columns_of(first) if names is None else names, title)
        style = transcript if isinstance(transcript, Transcript) else None
        if style and columns.kind != TEXT:
            raise DataError(
                "data.transcript: requires a single text: set data.columns to {text: ...}, or remove data.transcript"
            )
        reshape = Reshape(columns, style)
        return Reading(reshape.format, "built from data.columns", reshape)
    if isinstance(transcript, Transcript) and format in ("auto", TEXT):
        return Reading("messages", "dialogues split by data.transcript", Reshape(None, transcript))
    name = recognise(first, Path(title)) if format == "auto" else format
    if name == TEXT and transcript == "auto" and (style := recognise_transcript(_texts(first))):
        how = f"dialogues recognised ({style.name}) and split into turns; data.transcript none keeps them as texts"
        return Reading("messages", how, Reshape(None, style))
    return Reading(name, "recognised" if format == "auto" else "")


def columns_of(rows: Sequence[RawRow]) -> list[str]:
    """Return the names of all columns in the rows, in order."""
    return list(dict.fromkeys(key for row in rows if isinstance(row.value, dict) for key in row.value))


def _texts(rows: Sequence[RawRow]) -> list[str]:
    values = (row.value.get(TEXT) if isinstance(row.value, dict) else row.value for row in rows)
    return [value for value in values if isinstance(value, str)]
