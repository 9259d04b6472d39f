"""evaluations/<name>.json: what `make evaluate` measured, and the verdict of the config's threshold."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from ..fields import Count, Interval, Line, Measured, Record, Sha256, Share, StageRecord, Text, Versions, Word
from ..files import read_regular, write_atomic
from ..records.reading import RecordError, parse
from ..run import Run, RunError
from .thresholds import parse_threshold

DIRECTORY = "evaluations"
NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,79}$"
MAX_ROWS, MAX_GROUPS = 20, 50
MAX_BYTES = 8 << 20
Difference = Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)]


def _threshold(text: str) -> str:
    return str(parse_threshold(text))


class ModelResult(Record):
    """One model's result: its file, mean score, failed rows (which score 0), and tokens.

    `cut` counts answers that reached the token limit; `seconds` is the time in which rows were being answered.
    """

    model: Line
    quantization: Word
    sha256: Sha256
    score: Share
    score_ci: Interval | None = None
    failed: Count = 0
    cut: Count = 0
    prompt_tokens: Count
    completion_tokens: Count
    seconds: Measured


class DifferingRow(Record):
    """A row that the two models answered differently."""

    row: Text
    prompt: Text
    expected: Text
    base: Text
    tuned: Text
    base_score: Share
    tuned_score: Share


class Group(Record):
    """The mean scores of rows with one value in a column."""

    rows: Count
    tuned: Share
    base: Share | None = None


class Evaluation(StageRecord):
    """The result on one data file with one score. `data` is its path and `request` the request's fields.

    `difference` is the mean of tuned minus base with its paired bootstrap interval; `differing` counts rows whose
    answers differ, and `rows` shows some of them. `verdict` is that of `threshold`, None without one.
    """

    name: Annotated[str, Field(pattern=NAME)]
    score: Line
    data: Annotated[str, Field(max_length=4096)]
    data_sha256: Sha256
    count: Count
    request: dict[str, Any]
    export_sha256: Sha256
    tuned: ModelResult
    base: ModelResult | None = None
    difference: Difference | None = None
    difference_ci: Interval | None = None
    wins: Count = 0
    ties: Count = 0
    losses: Count = 0
    differing: Count = 0
    rows: Annotated[list[DifferingRow], Field(max_length=MAX_ROWS)] = []
    groups: Annotated[dict[Line, Group], Field(max_length=MAX_GROUPS)] = {}
    threshold: Annotated[str, Field(max_length=40), AfterValidator(_threshold)] | None = None
    verdict: Literal["pass", "fail"] | None = None
    versions: Versions = {}


def evaluation_path(run: Run, name: str) -> Path:
    """Return the path of a run's evaluation, which need not exist. Raises RunError if it would leave the run."""
    return run.inside(f"{DIRECTORY}/{name}.json")


def read_evaluation(run: Run, name: str) -> Evaluation:
    """Read an evaluation. Raises RunError with every error if it is missing or damaged."""
    path = evaluation_path(run, name)
    try:
        found = parse(Evaluation, read_regular(path, MAX_BYTES))
    except FileNotFoundError:
        raise RunError(f"run '{run.id}' has no evaluation '{name}' yet: run `make evaluate NAME={name} ...`") from None
    except OSError as error:
        raise RunError(f"{path} can't be read: {error.strerror}") from None
    except RecordError as error:
        raise RunError([f"{path}: {fault}; run `make evaluate` again" for fault in error.faults]) from None
    return found


def evaluations(run: Run) -> Iterator[Evaluation]:
    """Yield a run's evaluations by name. Raises RunError if one is damaged."""
    directory = run.inside(DIRECTORY)
    for path in sorted(directory.glob("*.json")) if directory.is_dir() else []:
        yield read_evaluation(run, path.stem)


def write_evaluation(run: Run, evaluation: Evaluation) -> Path:
    """Write an evaluation atomically, readable by its owner only: it shows rows. Return the path."""
    path = evaluation_path(run, evaluation.name)
    write_atomic(path, evaluation.model_dump_json(indent=2) + "\n", private=True)
    return path
