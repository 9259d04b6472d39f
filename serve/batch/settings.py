"""The settings of generate: the rows, the file to write, the endpoint and the request's fields."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from burnish.data.columns.mapping import parse_columns

from ..settings import ModelSettings, Positive, Seconds

Format = Literal["auto", "sharegpt", "messages", "alpaca", "prompt-completion"]


class RowSettings(ModelSettings):
    """The rows that a model answers, and how it answers them."""

    data: str = Field(description="the rows, as for training; a last assistant turn is left out")
    format: Format = Field("auto", description="format of the rows; auto: recognised by their keys")
    columns: dict[str, Any] | list[Any] | None = Field(
        None,
        description="templates that make the rows, as data.columns in training; none: those of the run, if the rows"
        " have its columns",
    )
    system: str | None = Field(None, description="system message for rows that have none")
    max_tokens: Positive | None = Field(None, description="most tokens of an answer; none: as many as fit")
    seed: int | None = Field(None, description="seed of every row's answer; none: a random one for each")
    response_format: dict[str, Any] | None = Field(
        None, description="OpenAI's response_format as JSON, for answers that follow a schema"
    )
    fields: dict[str, Any] = Field({}, description='more fields of the request as JSON, such as {"top_k": 40}')
    request_timeout_s: Seconds = Field(3600.0, description="seconds for a row's answer")

    @field_validator("columns")
    @classmethod
    def _templates(cls, value: Any) -> Any:
        if value is not None:
            parse_columns(value, "columns")
        return value

    def request(self) -> dict[str, Any]:
        """Return the fields that all requests share."""
        named = {"max_tokens": self.max_tokens, "seed": self.seed, "response_format": self.response_format}
        return {**self.fields, **{name: value for name, value in named.items() if value is not None}}


class GenerateSettings(RowSettings):
    """Settings of `python -m serve generate`."""

    out: str = Field(
        description="file to write: .csv, .jsonl or .parquet; a journal beside it holds the answers so far"
    )
    overwrite: bool = Field(False, description="replace an existing file")
    prefix: str = Field("", description="prefix of the added columns' names, if the rows already have one of them")
    url: str | None = Field(
        None, description="instead of a model here: an OpenAI endpoint, such as http://127.0.0.1:8000/v1; its key is"
        " $OPENAI_API_KEY"
    )  # fmt: skip
    url_model: str | None = Field(None, description="model name at the endpoint; none: the only one that it lists")
    concurrency: Positive | None = Field(
        None, description="rows asked at once; none: as many as run here at once, 16 at an endpoint"
    )
    n: Annotated[int, Field(ge=1, le=128)] = Field(1, description="answers per row, each in a row of its own")
    temperature: Annotated[float, Field(ge=0, le=2)] | None = Field(
        None, description="0 is greedy; none: the endpoint's default, 1"
    )
    top_p: Annotated[float, Field(ge=0, le=1)] | None = Field(None, description="none: the endpoint's default, 1")

    def request(self) -> dict[str, Any]:
        own = {"temperature": self.temperature, "top_p": self.top_p, "n": self.n if self.n > 1 else None}
        return {**super().request(), **{name: value for name, value in own.items() if value is not None}}
