"""python -m serve evaluate: score a run and its untuned base on the same rows, and record the comparison."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from burnish import lock, report
from burnish.console import counted, say, warn
from burnish.data.files import data_sha256, locate
from burnish.errors import UserError
from burnish.evaluations.gate import required
from burnish.evaluations.record import MAX_ROWS, DifferingRow, Evaluation, write_evaluation
from burnish.evaluations.suite import suite_path
from burnish.evaluations.thresholds import parse_threshold
from burnish.files import file_sha256, private_directory, read_json
from burnish.process import Note, ignore_path
from burnish.records import ExportRecord
from burnish.run import Run, find_run, now
from burnish.versions import versions

from ..artifact import choose, verify
from ..batch.answering import Ask, completing
from ..batch.prompts import Prompt, read_prompts
from ..batch.stage import columns
from . import choice, groups
from .comparison import Comparison, bootstrap, compare
from .measuring import Scored, Work, measure
from .models import base_of
from .scorers import CUSTOM, ROWS, Against, make_score
from .settings import EvaluateSettings
from .table import show

WORK = ".evaluate"  # answers by model and request, so that a second run only scores
SUITE_TOKENS = 64  # the answers are short
LONGEST = 4000  # characters of a text in the record


class EvaluateError(UserError):
    """Raised when the evaluation can't be done with these settings."""


def evaluate(settings: EvaluateSettings, mapped: Note = ignore_path) -> int:
    """Evaluate a run, and write its record and report; return 1 if it misses its threshold. Raises UserError."""
    if settings.model is not None:
        raise EvaluateError("model: an evaluation requires a run: choose one with RUN=, and its file with --artifact")
    settings = settings if settings.suite is None else of_suite(settings)
    run = find_run(Path(settings.runs), settings.run, needs=ExportRecord)
    with lock.hold(run.path, "an evaluation"):
        return _evaluate(settings, run, mapped)


def _evaluate(settings: EvaluateSettings, run: Run, mapped: Note) -> int:
    source = locate(settings.data)
    templates = (None, None) if settings.suite else columns(settings, True)
    prompts = read_prompts(source, settings.format, settings.system, *templates)
    against = Against(settings.expected, settings.pattern, _schema(settings))
    score = make_score(settings.score, against, prompts)
    values = groups.values_of(prompts, settings.group)
    ask, request = _asking(settings, prompts, against)
    tuned = choose(settings)
    verify(tuned)
    base = base_of(run, tuned, settings)
    key = {"data": data_sha256(source), "format": settings.format, "columns": settings.columns,
           "system": settings.system, "context": settings.context_length, **request}  # fmt: skip
    work = Work(prompts, ask, key, private_directory(run.inside(WORK)), score)
    scored = measure(work, tuned, settings, f"{run.id}", mapped)
    other = measure(work, base, settings, "the base", mapped) if base else None
    name = settings.name or _name(settings)
    record = _record(run, name, settings, request, prompts, against, scored, other)
    record = record.model_copy(update={"groups": groups.means(values, scored, other)})
    path = write_evaluation(run, record)
    show(record)
    say(f"evaluate: {path}")
    say(f"report: {report.write(run)}")
    if forgotten := groups.forgotten(record, settings.max_forgotten if settings.suite else None):
        warn(forgotten)
    if record.verdict and (fault := unanswered(record)):
        warn(fault)
    if record.verdict == "fail":
        warn(f"serve and push will reject this run: {name} is {record.tuned.score:.4g}, required: {record.threshold}")
    return 1 if record.verdict == "fail" else 0


def unanswered(record: Evaluation) -> str:
    """Return a warning if the verdict counts failed rows, which score 0; "" if it does not."""
    if not record.tuned.failed:
        return ""
    rows = counted(record.tuned.failed, "row")
    return f"the verdict counts {rows} that failed as 0: run the same command again to ask for them once more"


def _name(settings: EvaluateSettings) -> str:
    """Return the evaluation's default name, from the names of data and score."""
    score = Path(settings.score.removeprefix(CUSTOM).rpartition(":")[0]).stem if CUSTOM in settings.score else ""
    stem = "".join(
        c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in Path(settings.data).name.split(".")[0]
    )
    return f"{stem.strip('-_')[:50] or 'data'}-{score or settings.score}"


def of_suite(settings: EvaluateSettings) -> EvaluateSettings:
    """Return the settings with the rows, scores and limits of a suite."""
    given = settings.model_fields_set
    changes = {
        "data": str(suite_path(str(settings.suite))), "score": ROWS, "expected": "expected", "group": "category",
        "name": settings.name or settings.suite, "format": "auto", "columns": None,
        "max_tokens": settings.max_tokens if "max_tokens" in given else SUITE_TOKENS,
    }  # fmt: skip
    return settings.model_copy(update=changes)


def _schema(settings: EvaluateSettings) -> dict[str, Any] | None:
    if settings.schema_file is None:
        return None
    found = read_json(Path(settings.schema_file))
    if not isinstance(found, dict):
        raise EvaluateError(f"schema_file {settings.schema_file}: expected a JSON Schema, an object")
    return found


def _asking(settings: EvaluateSettings, prompts: list[Prompt], against: Against) -> tuple[Ask, dict[str, Any]]:
    """Return the answering function, and everything that affects the answers."""
    if settings.score != "choice":
        fields = settings.request()
        return completing(fields), {"request": fields}
    options = choice.options_of(prompts, settings.options, against)
    return choice.choosing(options, settings.per_character), {
        "options": options, "per_character": settings.per_character,
    }  # fmt: skip


def _record(
    run: Run,
    name: str,
    settings: EvaluateSettings,
    request: dict[str, Any],
    prompts: list[Prompt],
    against: Against,
    tuned: Scored,
    base: Scored | None,
) -> Evaluation:
    threshold = parse_threshold(settings.threshold) if settings.threshold else required(run).get(name)
    compared = compare(base.scores, tuned.scores) if base else None
    mean, interval = _alone(tuned) if compared is None else (compared.tuned, compared.tuned_ci)
    differing = [n for n in range(len(prompts)) if base and _differ(base, tuned, n)]
    return Evaluation(
        run_id=run.id,
        created=now(),
        name=name,
        score=settings.score,
        data=settings.data if settings.suite is None else f"suite {settings.suite}",
        data_sha256=data_sha256(locate(settings.data)),
        count=len(prompts),
        request=request if settings.score != "choice" else {"per_character": settings.per_character},
        export_sha256=file_sha256(run.path / "export.json"),
        tuned=tuned.summary(mean, interval),
        base=base.summary(compared.base, compared.base_ci) if base and compared else None,
        **_figures(compared),
        differing=len(differing),
        rows=[_shown(prompts[n], n, against, base, tuned) for n in _interesting(differing, base, tuned) if base],
        threshold=None if threshold is None else str(threshold),
        verdict=None if threshold is None else "pass" if threshold.holds(mean) else "fail",
        versions=versions(()),
    )


def _alone(scored: Scored) -> tuple[float, tuple[float, float] | None]:
    import numpy as np

    values = np.asarray([scored.scores], np.float64)
    return float(values.mean()), bootstrap(values)[0]


def _figures(compared: Comparison | None) -> dict[str, Any]:
    if compared is None:
        return {}
    names = ("difference", "difference_ci", "wins", "ties", "losses")
    return {name: getattr(compared, name) for name in names}


def _differ(base: Scored, tuned: Scored, row: int) -> bool:
    one, other = base.answer(row), tuned.answer(row)
    return (one.text, one.tool_calls) != (other.text, other.tool_calls)


def _interesting(differing: list[int], base: Scored | None, tuned: Scored) -> list[int]:
    """Return up to MAX_ROWS of the rows: losses first, then wins, then other differences, each in order."""

    def rank(row: int) -> int:
        change = tuned.scores[row] - (base.scores[row] if base else 0.0)
        return 0 if change < 0 else 1 if change > 0 else 2

    return sorted(sorted(differing, key=rank)[:MAX_ROWS])


def _shown(prompt: Prompt, row: int, against: Against, base: Scored, tuned: Scored) -> DifferingRow:
    question = prompt.text if prompt.text is not None else str(prompt.messages[-1]["content"])
    return DifferingRow(
        row=prompt.where,
        prompt=_cut(question),
        expected=_cut(against.text(prompt) or ""),
        base=_cut(_said(base, row)),
        tuned=_cut(_said(tuned, row)),
        base_score=base.scores[row],
        tuned_score=tuned.scores[row],
    )


def _said(scored: Scored, row: int) -> str:
    answer, error = scored.answer(row), scored.results[row].error
    calls = "\n".join(json.dumps(call["function"], ensure_ascii=False) for call in answer.tool_calls)
    return f"(failed: {error})" if error else "\n".join(filter(None, [answer.text, calls]))


def _cut(text: str) -> str:
    plain = text.encode("utf-8", "replace").decode()
    return plain if len(plain) <= LONGEST else f"{plain[:LONGEST]}…"
