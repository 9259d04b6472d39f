"""The scores by name: the values each requires in a row, and the scoring of an answer from 0 to 1."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

from burnish.dialects.comparison import same_json
from burnish.errors import UserError, did_you_mean
from burnish.rendering.bounds import BoundExceeded, bounded

from ..batch.prompts import Prompt
from ..batch.results import Answer
from ..batch.tables import to_json
from . import text_scores
from .custom import load_function

NAMES = ("exact", "contains", "regex", "json", "json_schema", "tool_calls", "numeric", "f1", "choice", "rows")
CUSTOM = "python:"
# each row names its score in a column
ROWS, COLUMN = "rows", "score"
TEXTS: dict[str, Callable[[str, str], float]] = {
    "exact": text_scores.exact,
    "contains": text_scores.contains,
    "numeric": text_scores.numeric,
    "f1": text_scores.f1,
    "json": text_scores.json_equal,
    "choice": text_scores.exact,
}
# processor time for one pattern or schema
LIMIT_S = 5.0
SCHEMA = "schema"


class ScoreError(UserError):
    """Raised when a score is unknown or can't be computed, or rows lack its reference values."""


@dataclass(frozen=True)
class Against:
    """The reference for answers: a column, or the last assistant turn; for regex and json_schema also one for all rows.

    `schema` is a JSON Schema.
    """

    column: str | None = None
    pattern: str | None = None
    schema: dict[str, Any] | None = None

    def text(self, prompt: Prompt) -> str | None:
        """Return the reference text for a row's answer, or None if the row has none."""
        if self.column is None:
            return prompt.expected.content if prompt.expected else None
        value = prompt.value.get(self.column)
        return value if isinstance(value, str) or value is None else to_json(value)


Score = Callable[[Answer, Prompt], float]
# what a row lacks for a score, or ""
Check = Callable[[Prompt], str]


def make_score(name: str, against: Against, prompts: Sequence[Prompt]) -> Score:
    """Return the score with this name, after checking that every row has the required values. Raises ScoreError."""
    if name.startswith(CUSTOM):
        return partial(_custom, load_function(name.removeprefix(CUSTOM)))
    score: Score
    check: Check
    if name in TEXTS:
        score, check = partial(_text, TEXTS[name], against), partial(_bad_text, name, against)
    elif name == "regex":
        score, check = partial(_regex, against), partial(_bad_pattern, against)
    elif name == "json_schema":
        score, check = partial(_schema, against), partial(_bad_schema, against)
    elif name == ROWS:
        return _by_row(against, prompts)
    elif name == "tool_calls":
        score, check = _tool_calls, _lacks_turn
    else:
        raise ScoreError(f"score: unknown '{name}'{did_you_mean(name, [*NAMES, CUSTOM + 'file.py:function'])}")
    if faults := [f"{prompt.where}: {fault}" for prompt in prompts if (fault := check(prompt))]:
        raise ScoreError(faults)
    return score


def _by_row(against: Against, prompts: Sequence[Prompt]) -> Score:
    """Return a score that applies the one named in each row. Raises ScoreError."""
    groups: dict[str, list[Prompt]] = {}
    errors: list[str] = []
    for prompt in prompts:
        name = prompt.value.get(COLUMN)
        if isinstance(name, str) and name in NAMES and name not in (ROWS, "choice"):
            groups.setdefault(name, []).append(prompt)
        else:
            errors.append(f"{prompt.where}: the column '{COLUMN}': expected the name of a score, got {name!r:.40}")
    if errors:
        raise ScoreError(errors)
    scores = {name: make_score(name, against, rows) for name, rows in groups.items()}
    return lambda answer, prompt: scores[prompt.value[COLUMN]](answer, prompt)


def _text(compare: Callable[[str, str], float], against: Against, answer: Answer, prompt: Prompt) -> float:
    return compare(answer.text, against.text(prompt) or "")


def _lacks_text(against: Against, prompt: Prompt) -> str:
    if text := against.text(prompt):
        return "" if text.strip() else "the expected answer is empty"
    if against.column is not None:
        return f"the column '{against.column}' is empty or missing: put the correct answer there"
    return "no assistant turn to compare the answer with: add it, or name the column with --expected"


def _bad_text(name: str, against: Against, prompt: Prompt) -> str:
    """Return what an expected text lacks: an answer can't equal JSON or a number that is not there."""
    if fault := _lacks_text(against, prompt):
        return fault
    expected = against.text(prompt) or ""
    if name == "json" and not text_scores.parse_json(expected)[0]:
        return f"the expected answer is not JSON: {expected!r:.60}"
    if name == "numeric" and text_scores.last_number(expected) is None:
        return f"the expected answer has no number in digits: {expected!r:.60}"
    return ""


def _limited(call: Callable[[], float], what: str) -> float:
    try:
        return bounded(call, LIMIT_S)
    except (BoundExceeded, RecursionError) as error:
        raise ScoreError(f"{what}: {error or 'it recurses too deeply'}") from None


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def _regex(against: Against, answer: Answer, prompt: Prompt) -> float:
    pattern = against.pattern or against.text(prompt) or ""
    return _limited(lambda: float(bool(_compiled(pattern).search(answer.text))), f"{prompt.where}: the pattern")


def _bad_pattern(against: Against, prompt: Prompt) -> str:
    if against.pattern is None and (fault := _lacks_text(against, prompt)):
        return f"{fault}; or one pattern for all rows with --pattern"
    try:
        _compiled(against.pattern or against.text(prompt) or "")
    except (re.error, OverflowError, RecursionError) as error:
        return f"the pattern can't be compiled: {error}"
    return ""


def _row_schema(against: Against, prompt: Prompt) -> Any:
    """Return the JSON Schema for a row: the one for all rows, or else the one in its column."""
    value = against.schema if against.schema is not None else prompt.value.get(against.column or SCHEMA)
    return json.loads(value) if isinstance(value, str) else value


def _schema(against: Against, answer: Answer, prompt: Prompt) -> float:
    well, value = text_scores.parse_json(answer.text)
    if not well:
        return 0.0
    import referencing.exceptions

    validator = _validator(to_json(_row_schema(against, prompt)))
    try:
        return _limited(lambda: float(validator.is_valid(value)), f"{prompt.where}: the schema")
    except referencing.exceptions.Unresolvable as error:
        raise ScoreError(f"{prompt.where}: the schema refers to '{error.ref}', which is not in it") from None


def _bad_schema(against: Against, prompt: Prompt) -> str:
    try:
        schema = _row_schema(against, prompt)
    except (ValueError, RecursionError) as error:
        return f"the schema is not JSON: {error}"
    if not isinstance(schema, dict):
        return f"no JSON Schema in the column '{against.column or SCHEMA}': name it with --expected, or use --schema"
    return _schema_fault(to_json(schema))


@lru_cache(maxsize=256)
def _schema_fault(text: str) -> str:
    import jsonschema

    try:
        bounded(lambda: jsonschema.validators.validator_for(json.loads(text)).check_schema(json.loads(text)), LIMIT_S)
    except jsonschema.SchemaError as error:
        return f"the schema is not valid: {error.message[:200]}"
    except (BoundExceeded, RecursionError) as error:
        return f"the schema can't be checked: {error}"
    return ""


@lru_cache(maxsize=256)
def _validator(text: str) -> Any:
    """Return a validator without network access: a reference to a different document is an error."""
    import jsonschema
    import referencing

    schema = json.loads(text)
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    return kind(schema, registry=referencing.Registry())


def _tool_calls(answer: Answer, prompt: Prompt) -> float:
    """Return 1 if the answer has exactly the expected calls, in any order, with arguments equal as JSON."""
    wanted = list(prompt.expected.calls if prompt.expected else ())
    for call in answer.tool_calls:
        name, (well, arguments) = call["function"].get("name"), text_scores.parse_json(call["function"]["arguments"])
        match = next((w for w in wanted if well and w.name == name and same_json(w.value(), arguments)), None)
        if match is None:
            return 0.0
        wanted.remove(match)
    return float(not wanted)


def _lacks_turn(prompt: Prompt) -> str:
    return "" if prompt.expected else "no assistant turn to compare the calls with"


def _custom(function: Callable[[str, dict[str, Any]], Any], answer: Answer, prompt: Prompt) -> float:
    row = {**prompt.value, "expected": prompt.expected.content if prompt.expected else None,
           "tool_calls": list(answer.tool_calls)}  # fmt: skip
    value = function(answer.text, row)
    if (score := text_scores.clamp(value)) is None:
        raise ScoreError(
            f"{prompt.where}: the function must return true, false or a number from 0 to 1, got {value!r:.80}"
        )
    return score
