"""Settings of a source: the same for data.path and for each entry of data.sources."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from ...config import Strict
from ..columns.cells import CellFault, Condition
from ..columns.mapping import parse_columns
from ..columns.transcript import parse_transcript
from ..tables import as_object
from .dataset import Spec

Format = Literal[
    "auto", "sharegpt", "messages", "alpaca", "prompt-completion", "text", "dolly", "ultrachat", "oasst", "preference"
]  # fmt: skip
JOIN = " + "


class Reading(Strict):
    """How rows are read."""

    format: Format = Field("auto", description="format of the rows; auto detects it")
    columns: dict[str, Any] | list[Any] | None = Field(
        None,
        description="templates over columns, {{ name }}: {user, assistant, system}, {prompt, completion}, {text},"
        " or a list of turns",
    )
    transcript: str | dict[str, str] = Field(
        "auto",
        description="split dialogues in one text into turns: auto detects them; none keeps texts; a style such as"
        " human-bot, or markers by role, such as {user: 'Customer:', assistant: 'Agent:'}",
    )
    where: str | None = Field(
        None, description="an expression over columns, such as `language == 'de'`: other rows are left out"
    )

    @field_validator("columns")
    @classmethod
    def _templates(cls, value: dict[str, Any] | list[Any] | None) -> dict[str, Any] | list[Any] | None:
        if value is not None:
            parse_columns(value)
        return value

    @field_validator("transcript", mode="before")
    @classmethod
    def _marks(cls, value: Any) -> Any:
        value = as_object(value) or value if isinstance(value, str) else value  # marks as JSON on the command line
        if value not in ("auto", "none"):
            parse_transcript(value)
        return value

    @field_validator("where")
    @classmethod
    def _expression(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                Condition(value, "data.where").check()
            except CellFault as error:
                raise ValueError(f"is not an expression over columns: {error}") from None
        return value

    @model_validator(mode="after")
    def _one_way(self) -> Reading:
        if self.columns is not None and self.format != "auto":
            raise ValueError(f"columns and format {self.format}: the templates make the rows, leave out format")
        if self.transcript not in ("auto", "none") and self.format not in ("auto", "text"):
            raise ValueError(f"transcript and format {self.format}: only texts are split, leave out one of them")
        return self


class SourceSection(Reading):
    """One entry of data.sources."""

    path: str = Field(
        min_length=1, description="file, directory, pattern, URL or Hub dataset with the rows, as in data.path"
    )
    share: float | None = Field(None, gt=0.0, le=1.0, description="share of all rows")
    rows: int | None = Field(None, ge=1, description="number of rows")

    @model_validator(mode="after")
    def _one_size(self) -> SourceSection:
        if self.share is not None and self.rows is not None:
            raise ValueError("share and rows: set one of them")
        return self


def spec(path: str, given: Reading, setting: str = "data", defaults: Reading | None = None) -> Spec:
    """Return a source as its settings describe it; `defaults` has the settings that it does not set."""

    def chosen(name: str) -> Any:
        return getattr(given if name in given.model_fields_set or defaults is None else defaults, name)

    columns, transcript, where = chosen("columns"), chosen("transcript"), chosen("where")
    if "format" in given.model_fields_set and "columns" not in given.model_fields_set:
        columns = None  # the source has a known format
    return Spec(
        path,
        "auto" if columns is not None else chosen("format"),
        None if columns is None else parse_columns(columns, f"{setting}.columns"),
        transcript if transcript in ("auto", "none") else parse_transcript(transcript),
        None if where is None else Condition(where, f"{setting}.where"),
        getattr(given, "share", None),
        getattr(given, "rows", None),
    )


def joined(sources: Any) -> str:
    """Return the paths of data.sources in one text, as the setting data.path shows them."""
    paths = (one.get("path") if isinstance(one, Mapping) else getattr(one, "path", None) for one in sources or ())
    return JOIN.join(str(path) for path in paths)
