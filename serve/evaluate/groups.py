"""Scores by the values of a column, and what a model forgot."""

from __future__ import annotations

from collections.abc import Sequence

from burnish.evaluations.record import MAX_GROUPS, Evaluation, Group

from ..batch.prompts import Prompt
from ..batch.tables import to_json
from .measuring import Scored
from .scorers import ScoreError

LONGEST = 200  # characters of a group's name


def values_of(prompts: Sequence[Prompt], column: str | None) -> list[str]:
    """Return each row's value in a column as text; nothing without a column. Raises ScoreError for too many."""
    if column is None:
        return []
    if all(column not in prompt.value for prompt in prompts):
        raise ScoreError(f"group: no row has a column '{column}'")
    cells = [prompt.value.get(column) for prompt in prompts]
    found = [cell if isinstance(cell, str) else to_json(cell) for cell in cells]
    if (count := len(set(found))) > MAX_GROUPS:
        raise ScoreError(f"group: expected at most {MAX_GROUPS} values in the column '{column}', got {count:,}")
    return [" ".join(value.split())[:LONGEST] or "(empty)" for value in found]


def means(values: Sequence[str], tuned: Scored, base: Scored | None) -> dict[str, Group]:
    """Return the mean scores by value, in the order in which the values first appear."""
    found = {}
    for value in dict.fromkeys(values):
        rows = [row for row, other in enumerate(values) if other == value]
        scores = [sum(one.scores[row] for row in rows) / len(rows) for one in (tuned, base) if one is not None]
        found[value] = Group(rows=len(rows), tuned=scores[0], base=scores[1] if base is not None else None)
    return found


def forgotten(record: Evaluation, limit: float | None) -> str:
    """Return a warning if the tuned model lost more than the share `limit` of the base's score, or ""."""
    if limit is None or record.base is None or record.base.score == 0:
        return ""
    lost = (record.base.score - record.tuned.score) / record.base.score
    if lost <= limit:
        return ""
    return (
        f"the tuned model lost {lost:.0%} of the base's score on {record.name} ({record.base.score:.3f} to"
        f" {record.tuned.score:.3f}): it forgot; a lower learning rate, fewer epochs or general rows in the data help"
    )
