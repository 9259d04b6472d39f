"""train.json: the base, data, adapter, settings and metrics of a training run."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from ..chat import RESERVED_VARIABLES
from ..fields import (
    LICENCE_KEYS,
    LONGEST_PATH,
    MAX_COUNT,
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
# paths on the training machine: for display, and for finding the base
Place = Annotated[str, Field(min_length=1, max_length=4 * LONGEST_PATH, pattern=r"^[^\x00]+$")]


class BaseModelRef(Record):
    """The base model: Hub id, directory or file; its Hub revision; the sha256 of its files (`tree_sha256`).

    `license` contains license, license_name and license_link if the model card or metadata specifies them.
    """

    id: Place
    revision: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_./-]{0,254}$")] | None = None
    sha256: Sha256
    license: dict[Line, Line] = {}

    @model_validator(mode="after")
    def _hub_id(self) -> BaseModelRef:
        if self.revision is not None and not HUB_ID.fullmatch(self.id):
            raise ValueError("id: expected a Hub id (owner/name), because a revision is set")
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
    """The adapter, and the sha256 (`tree_sha256`) of the initial adapter, if training started from one."""

    parent_sha256: Sha256 | None = None


class Lengths(Record):
    """Row length histogram: `counts` for bins `bin_tokens` wide, starting at 0."""

    bin_tokens: Tokens
    counts: Annotated[list[Count], Field(max_length=1000)]


class SourceRef(Record):
    """One source of the data: `origin` is the version of what was fetched (a commit on the Hub, or a sha256), `rows`
    are the rows to choose from, `used` those of an epoch."""

    path: Place
    sha256: Sha256
    origin: Annotated[str, Field(max_length=200)] | None = None
    format: Word
    rows: Count
    used: Count


class DataRef(Record):
    """The data. `over_length` counts dropped or truncated rows.

    `duplicates` counts rows that repeat an earlier one, `near_duplicates` held-out rows with a near duplicate among the
    training rows, `eval_overlap` eval-file rows that are also in the data, and `eval_overlap_dropped` the training rows
    dropped because of that; None if not counted. `eval_sha256` is the eval file's hash, None if held-out rows were
    split from the data. `sources` are where the rows are from; `lengths` describes the training rows.
    """

    path: Place
    sha256: Sha256
    format: Word
    rows: Count
    eval_rows: Count
    over_length: Count
    duplicates: Count | None = None
    deduplicated: Count | None = None
    near_duplicates: Count | None = None
    eval_overlap: Count | None = None
    eval_overlap_dropped: Count | None = None
    eval_sha256: Sha256 | None = None
    sources: Annotated[list[SourceRef], Field(max_length=1000)] = []
    lengths: Lengths | None = None

    def leaks(self) -> list[str]:
        """Return warnings about held-out rows that also occur in the training rows."""
        found = []
        if self.eval_overlap and not self.eval_overlap_dropped:
            found.append(f"held-out rows that were also trained: {self.eval_overlap} (data.eval_overlap allow)")
        if self.near_duplicates:
            found.append(f"held-out rows that are near duplicates of trained rows: {self.near_duplicates}")
        return found


class ExamRef(FileRef):
    """The exam: `rows` questions, including `general_rows` general texts, with `tokens` scored tokens."""

    rows: Count
    tokens: Count
    general_rows: Count | None = None


class TrainMetrics(Record):
    """Training metrics. Losses are means over response tokens, in nats per token; None if not finite."""

    train_loss: Loss
    eval_loss: Loss = None
    train_runtime_s: Measured
    tokens_per_s: Measured
    peak_memory_bytes: Count


class TrainRecord(StageRecord):
    """train.json; its presence means that the train stage finished."""

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
    template_kwargs: Variables = {}  # chat template variables, set in every rendering
    tool_dialect: Word | None = None  # the template's tool-call format; None: none, or unknown
    reasoning_format: Word | None = None  # the template's reasoning format
    special_tokens: Literal["text", "parse"] = "parse"  # special strings in messages; older runs parsed them
    max_length: Annotated[int, Field(ge=1, le=MAX_COUNT)]  # as configured, not limited to the base's context
    metrics: TrainMetrics
    exam: ExamRef
    versions: Versions
    hardware: Annotated[dict[Line, Any], Field(max_length=1000)]

    @field_validator("template_kwargs")
    @classmethod
    def _not_ours(cls, values: dict[str, Any]) -> dict[str, Any]:
        return free_variables(values)


def free_variables(values: dict[str, Any]) -> dict[str, Any]:
    """Validate a template's variables. Raises ValueError for names that rows or the tokenizer provide."""
    if taken := sorted(RESERVED_VARIABLES & values.keys()):
        raise ValueError(f"{', '.join(taken)} can't be set: the rows or the tokenizer provide it")
    return values
