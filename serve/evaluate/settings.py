"""The settings of evaluate: rows, score, and the reference for answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from burnish.evaluations.record import NAME
from burnish.evaluations.thresholds import parse_threshold

from ..batch.settings import RowSettings
from ..settings import Positive

# settings that only one score uses
OF_SCORES = {"pattern": "regex", "schema_file": "json_schema", "options": "choice", "per_character": "choice"}


class EvaluateSettings(RowSettings):
    """Settings of `python -m serve evaluate`."""

    data: str = Field(
        "", description="data with the correct answers, in any format that training accepts; required without suite"
    )
    score: str = Field(
        "",
        description="exact, contains, regex, json, json_schema, tool_calls, numeric, f1, choice, rows (each row's"
        " column score names it) or python:file.py:function; required without suite",
    )
    suite: Literal["general"] | None = Field(
        None, description="instead of data and score: Burnish's own questions, which show what a model forgot"
    )
    group: str | None = Field(None, description="column by whose values the scores are also listed")
    max_forgotten: Annotated[float, Field(ge=0, le=1)] = Field(
        0.1, description="share of the base's score that the tuned model may lose in a suite without a warning"
    )
    name: Annotated[str, Field(pattern=NAME)] | None = Field(
        None, description="name of the evaluation; if unset, the name of the data and the score"
    )
    expected: str | None = Field(
        None, description="column with the correct answer (or pattern, or schema); if unset, the last assistant turn"
    )
    pattern: str | None = Field(None, description="regular expression for all rows, for the score regex")
    schema_file: str | None = Field(None, description="file with a JSON Schema for all rows, for json_schema")
    options: list[str] | None = Field(
        None,
        description="for choice: templates of the options over columns; if unset, the column 'options'",
    )
    per_character: bool = Field(
        False, description="for choice: compare log-probabilities per character, for options of different lengths"
    )
    max_tokens: Positive | None = Field(
        512, description="maximum tokens per answer; longer ones are cut off, counted and scored as they are"
    )
    base: str = Field(
        "auto",
        description="the model to compare with: auto (the untuned base with the same quantization), none, or a .gguf"
        " file",
    )
    threshold: str | None = Field(
        None,
        description="serve and push reject the run unless its score meets this, such as '>= 0.8'; if unset, the"
        " threshold"
        " in the training config (evaluation), if any",
    )
    temperature: Annotated[float, Field(ge=0, le=2)] = Field(0.0, description="sampling temperature; 0 is greedy")

    @field_validator("threshold")
    @classmethod
    def _comparison(cls, value: str | None) -> str | None:
        return None if value is None else str(parse_threshold(value))

    @model_validator(mode="after")
    def _rows_or_suite(self) -> EvaluateSettings:
        given = [name for name in ("data", "score") if getattr(self, name)]
        if self.suite is not None and given:
            raise ValueError(f"suite {self.suite} has its own rows and scores: leave out {' and '.join(given)}")
        if self.suite is None and len(given) < 2:
            raise ValueError("set data and score, or suite")
        return self

    @model_validator(mode="after")
    def _settings_of_the_score(self) -> EvaluateSettings:
        for name, score in OF_SCORES.items():
            if getattr(self, name) not in (None, False) and self.score != score:
                raise ValueError(f"{name} has no effect on the score {self.score or 'of a suite'}, only on {score}")
        return self

    def request(self) -> dict[str, Any]:
        return {"temperature": self.temperature, "seed": 0, **super().request()}
