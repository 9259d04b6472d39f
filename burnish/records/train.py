"""train.json: what was trained, on what, with what, and how it went."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from ..chat import RESERVED_VARIABLES
from ..fields import (
    LICENCE_KEYS,
    LONGEST_PATH,
    MOST_COUNT,
    Count,
    Date,
    InsidePath,
    Line,
    Lines,
    Loss,
    Measured,
    Record,
    Sha256,
    StageRecord,
    Tokens,
    Variables,
    Versions,
    Word,
)

HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", re.ASCII)
# paths of the machine that trained: shown, and of a base tried
Place = Annotated[str, Field(min_length=1, max_length=4 * LONGEST_PATH, pattern=r"^[^\x00]+$")]


class BaseModelRef(Record):
    """The base model: hub id, directory or file; the hub revision; sha256 over its files (`tree_sha256`).

    `license` is what its own card or metadata says of it: license, license_name, license_link; empty: nothing.
    """

    id: Place
    revision: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_./-]{0,254}$")] | None = None
    sha256: Sha256
    license: dict[Line, Line] = {}

    @model_validator(mode="after")
    def _hub_id(self) -> BaseModelRef:
        if self.revision is not None and not HUB_ID.fullmatch(self.id):
            raise ValueError("id: with a revision, expected the id of a model on the Hub: owner/name")
        return self

    @field_validator("license")
    @classmethod
    def _known(cls, value: dict[str, str]) -> dict[str, str]:
        if others := sorted(value.keys() - set(LICENCE_KEYS)):
            raise ValueError(f"unknown key '{others[0]}': expected {', '.join(LICENCE_KEYS)}")
        return value


class FileRef(Record):
    """A file or directory, relative to the run, and its sha256."""

    path: InsidePath
    sha256: Sha256


class AdapterRef(FileRef):
    """The adapter, and the sha256 of the one that training started from (`tree_sha256`); None: from none."""

    parent_sha256: Sha256 | None = None


class Lengths(Record):
    """Rows by length: `counts` of equal bins of `bin_tokens`, the first from 0."""

    bin_tokens: Tokens
    counts: Annotated[list[Count], Field(max_length=1000)]


class DataRef(Record):
    """What was trained on. `over_length` counts the rows that were dropped or truncated.

    `duplicates` counts the rows that repeat an earlier one, `near_duplicates` the held-out rows with a near duplicate
    among the training rows, `eval_overlap` the eval file's rows that the data had as well, and
    `eval_overlap_dropped` the training rows that were left out for it; None: not counted then.
    `eval_sha256` is that of the eval file; None where rows were split off. `lengths` are those of the training rows.
    """

    path: Place
    sha256: Sha256
    format: Word
    rows: Count
    eval_rows: Count
    over_length: Count
    duplicates: Count | None = None
    near_duplicates: Count | None = None
    eval_overlap: Count | None = None
    eval_overlap_dropped: Count | None = None
    eval_sha256: Sha256 | None = None
    lengths: Lengths | None = None

    def leaks(self) -> list[str]:
        """Say what of the held-out rows was trained, for those who read the figures on them."""
        found = []
        if self.eval_overlap and not self.eval_overlap_dropped:
            found.append(f"{self.eval_overlap} held-out rows were trained as well (data.eval_overlap allow)")
        if self.near_duplicates:
            found.append(f"{self.near_duplicates} held-out rows are near duplicates of rows that were trained")
        return found


class ExamRef(FileRef):
    """The exam: `rows` questions, `general_rows` of them general texts, with `tokens` scored tokens."""

    rows: Count
    tokens: Count
    general_rows: Count | None = None


class TrainMetrics(Record):
    """What training measured. Losses are means over response tokens, in nats per token; None: not a number."""

    train_loss: Loss
    eval_loss: Loss = None
    train_runtime_s: Measured
    tokens_per_s: Measured
    peak_memory_bytes: Count


class TrainRecord(StageRecord):
    """train.json: present means that the train stage finished."""

    base: BaseModelRef
    quantization: Literal["nf4", "none"]
    load_dtype: Word
    compute_dtype: Word
    double_quant: bool
    skipped_modules: Lines
    adapter: AdapterRef
    config: FileRef | None = None
    data: DataRef
    chat_template_sha256: Sha256 | None
    template_date: Date
    terminators: Lines
    template_kwargs: Variables = {}  # the chat template's variables, set wherever it renders
    special_tokens: Literal["text", "parse"] = "parse"  # of special strings in messages; older runs parsed them
    max_length: Annotated[int, Field(ge=1, le=MOST_COUNT)]  # as it was set, whatever the base knows
    metrics: TrainMetrics
    exam: ExamRef
    versions: Versions
    hardware: Annotated[dict[Line, Any], Field(max_length=1000)]

    @field_validator("template_kwargs")
    @classmethod
    def _not_ours(cls, values: dict[str, Any]) -> dict[str, Any]:
        return free_variables(values)


def free_variables(values: dict[str, Any]) -> dict[str, Any]:
    """Return a template's variables. Raises ValueError for those that come from the rows or the tokenizer."""
    if taken := sorted(RESERVED_VARIABLES & values.keys()):
        raise ValueError(f"{', '.join(taken)} can't be set: the template gets it from the rows or the tokenizer")
    return values
