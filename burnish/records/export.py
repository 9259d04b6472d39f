"""export.json: a run's artifacts, their exam figures and the gate's verdict on each."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from ..exam.fidelity import Fidelity
from ..exam.gate import Verdict
from ..fields import (
    Count,
    Finite,
    InsidePath,
    Line,
    Lines,
    Record,
    Sha256,
    StageRecord,
    Text,
    Tokens,
    Variables,
    Versions,
    Word,
)
from .train import free_variables

Kind = Literal["safetensors", "gguf", "gguf-lora"]
MAX_ARTIFACTS = 200
Threshold = Annotated[Finite, Field(ge=0, le=1e9)]


class Merge(Record):
    """The base that the adapter was merged into, and the reason."""

    base: Literal["dequantized", "original"]
    reason: Text
    candidates: Annotated[dict[Line, dict[str, Any]], Field(max_length=10)]


class Examined(Record):
    """One exported model and its figures. `path` is relative to the run; `sha256` covers the file or directory.

    `fallbacks` counts the tensors whose shape forced a different type, by "wanted -> taken".
    """

    path: InsidePath
    kind: Kind
    quantization: Word
    bytes: Count
    sha256: Sha256
    fidelity: Fidelity
    fallbacks: Annotated[dict[Line, Count], Field(max_length=1000)] = {}


class Artifact(Examined):
    """An examined model with the gate's verdict."""

    verdict: Verdict
    why: Text

    @property
    def outcome(self) -> str:
        """The exam outcome as a predicate: "failed its exam"."""
        return {
            "pass": "passed its exam",
            "fail": "failed its exam",
            "inconclusive": "is inconclusive in its exam",
        }[self.verdict]


class ExportRecord(StageRecord):
    """export.json; its presence means that the export stage finished. `gate` contains every applied threshold.

    `no_gguf` states why there is no GGUF, if llama.cpp's converter does not support the merged model.
    """

    train_sha256: Sha256
    gate: Annotated[dict[Word, Threshold], Field(max_length=100)] = {}
    merge: Merge
    artefacts: Annotated[list[Artifact], Field(max_length=MAX_ARTIFACTS)]
    default: InsidePath | None
    no_gguf: Text | None = None
    chat_template_sha256: Sha256 | None
    stop: Annotated[Lines, Field(max_length=1000)]
    context_length: Tokens
    versions: Versions = {}
    template_kwargs: Variables = {}
    tool_dialect: Word | None = None
    reasoning_format: Word | None = None
    special_tokens: Literal["text", "parse"] = "parse"

    @field_validator("template_kwargs")
    @classmethod
    def _not_ours(cls, values: dict[str, Any]) -> dict[str, Any]:
        return free_variables(values)
