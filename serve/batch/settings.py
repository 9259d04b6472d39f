"""The settings of generate: rows, output file, endpoint and request fields."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from burnish.data.columns.mapping import parse_columns
from burnish.data.sources.section import Format

from ..settings import ModelSettings, Positive, Seconds

# request fields that the command sets, or whose results have no column
OWN_FIELDS = frozenset((
    "messages", "prompt", "tools", "model", "n", "best_of", "stream", "stream_options", "echo", "logprobs",
    "top_logprobs",
))  # fmt: skip
OWN_FIELDS_WHY = "the rows, the other settings and the output's columns decide it"


class RowSettings(ModelSettings):
    """The rows to answer, and the request fields."""

    data: str = Field(description="rows, as for training; a final assistant turn is removed")
    format: Format = Field("auto", description="format of the rows; auto detects it from their keys")
    columns: dict[str, Any] | list[Any] | None = Field(
        None,
        description="templates that build the rows, like data.columns in training; if unset, those of the run if the"
        " rows have its columns",
    )
    system: str | None = Field(None, description="system message for rows without one")
    max_tokens: Positive | None = Field(
        None, description="maximum tokens per answer; if unset, as many as fit in the context"
    )
    seed: int | None = Field(None, description="seed for every row; if unset, a random seed per row")
    response_format: dict[str, Any] | None = Field(
        None, description="OpenAI's response_format as JSON, such as a schema for the answers"
    )
    fields: dict[str, Any] = Field({}, description='additional request fields as JSON, such as {"top_k": 40}')
    request_timeout_s: Seconds = Field(3600.0, description="time limit in seconds for a row's answer")

    @field_validator("columns")
    @classmethod
    def _templates(cls, value: Any) -> Any:
        if value is not None:
            parse_columns(value, "columns")
        return value

    @field_validator("fields")
    @classmethod
    def _no_others(cls, value: dict[str, Any]) -> dict[str, Any]:
        if taken := sorted(OWN_FIELDS & value.keys()):
            raise ValueError(f"{', '.join(taken)} can't be set here: {OWN_FIELDS_WHY}")
        return value

    @model_validator(mode="after")
    def _one_reading(self) -> RowSettings:
        if self.columns is not None and self.format != "auto":
            raise ValueError(f"columns and format {self.format}: the templates make the rows, leave out format")
        return self

    def request(self) -> dict[str, Any]:
        """Return the fields that all requests share."""
        named = {"max_tokens": self.max_tokens, "seed": self.seed, "response_format": self.response_format}
        return {**self.fields, **{name: value for name, value in named.items() if value is not None}}


class GenerateSettings(RowSettings):
    """Settings of `python -m serve generate`."""

    out: str = Field(
        description="output file: .csv, .jsonl or .parquet; a journal next to it contains the answers so far"
    )
    overwrite: bool = Field(False, description="replace an existing file")
    prefix: str = Field(
        "", description="prefix for the added columns, if the rows already have columns with these names"
    )
    url: str | None = Field(
        None, description="instead of a model here: an OpenAI endpoint, such as http://127.0.0.1:8000/v1; its key is"
        " $OPENAI_API_KEY"
    )  # fmt: skip
    url_model: str | None = Field(None, description="model name at the endpoint; if unset, its only model")
    concurrency: Positive | None = Field(
        None,
        description="number of concurrent rows; if unset, the number of sequences of the local model, or 16 for an"
        " endpoint",
    )
    n: Annotated[int, Field(ge=1, le=128)] = Field(1, description="answers per row, each in its own output row")
    temperature: Annotated[float, Field(ge=0, le=2)] | None = Field(
        None, description="sampling temperature, 0 for greedy; if unset, the default of the endpoint, 1"
    )
    top_p: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="nucleus sampling; if unset, the default of the endpoint, 1"
    )

    @model_validator(mode="after")
    def _one_model(self) -> GenerateSettings:
        here = [name for name in ("run", "model", "artifact") if getattr(self, name) is not None]
        if self.url is not None and here:
            raise ValueError(f"url and {' and '.join(here)}: the rows are answered by one model, set only one of them")
        if self.url is None and self.url_model is not None:
            raise ValueError("url_model needs url, the endpoint that has the model")
        return self

    def request(self) -> dict[str, Any]:
        own = {"temperature": self.temperature, "top_p": self.top_p, "n": self.n if self.n > 1 else None}
        return {**super().request(), **{name: value for name, value in own.items() if value is not None}}
