"""Answer the rows with one model, and score the answers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from burnish.evaluations.record import ModelResult
from burnish.process import Note, ctrl_c_ends_at_once, ctrl_c_raises

from ..artifact import Chosen
from ..assembly import loaded
from ..batch import answering
from ..batch.journal import Journal, journal_path, key_of, open_journal
from ..batch.local import running
from ..batch.prompts import Prompt
from ..batch.results import Answer, Result, working_seconds
from .comparison import Interval
from .scorers import Score
from .settings import EvaluateSettings

NO_ANSWER = Answer("", "error")


@dataclass(frozen=True)
class Scored:
    """A model's results and scores by row; a row that failed scores 0."""

    chosen: Chosen
    results: list[Result]
    scores: list[float]

    def answer(self, row: int) -> Answer:
        """Return a row's answer, or an empty one if the row failed."""
        return self.results[row].answers[0] if self.results[row].answers else NO_ANSWER

    def summary(self, score: float, interval: Interval | None) -> ModelResult:
        """Return the record's entry; `score` is the mean over rows."""
        artifact = self.chosen.record["artifact"]
        return ModelResult(
            model=self.chosen.path.name,
            quantization=artifact["quantization"],
            sha256=artifact["sha256"],
            score=score,
            score_ci=interval,
            failed=sum(result.error is not None for result in self.results),
            cut=sum(answer.finish_reason == "length" for result in self.results for answer in result.answers),
            prompt_tokens=sum(result.prompt_tokens for result in self.results),
            completion_tokens=sum(result.completion_tokens for result in self.results),
            seconds=round(working_seconds(self.results), 3),
        )


@dataclass(frozen=True)
class Work:
    """The inputs shared by both models: rows, request fields, cache key and journal location."""

    prompts: Sequence[Prompt]
    ask: answering.Ask
    key: Mapping[str, Any]
    directory: Path
    score: Score


def measure(work: Work, chosen: Chosen, settings: EvaluateSettings, title: str, mapped: Note) -> Scored:
    """Answer the rows that have no answer yet, failed ones again, and score all of them. Raises UserError."""
    sha256 = chosen.record["artifact"]["sha256"]
    path = journal_path(
        work.directory / "answers", key_of({**work.key, "model": sha256, **_rendering(chosen, settings)})
    )
    with open_journal(path, len(work.prompts)) as journal:
        if journal.answered < len(work.prompts):
            _answer(work, chosen, settings, title, mapped, journal)
        results = [journal.get(prompt.number) or Result(error="not asked") for prompt in work.prompts]
    scores = [
        work.score(result.answers[0], prompt) if result.answers else 0.0
        for result, prompt in zip(results, work.prompts, strict=True)
    ]
    return Scored(chosen, results, scores)


def _rendering(chosen: Chosen, settings: EvaluateSettings) -> dict[str, Any]:
    """Return what turns the same messages into other prompt tokens, or ends an answer elsewhere."""
    return {
        "template": chosen.template_sha256, "template_date": chosen.template_date if chosen.recorded else None,
        "template_kwargs": chosen.template_kwargs, "special_tokens": [settings.special_tokens, chosen.special_tokens],
        "stops": chosen.stops, "tool_dialect": chosen.tool_dialect,
    }  # fmt: skip


def _answer(work: Work, chosen: Chosen, settings: EvaluateSettings, title: str, mapped: Note, journal: Journal) -> None:
    ctrl_c_ends_at_once()  # while the model loads
    with loaded(settings, mapped, chosen) as parts:
        ctrl_c_raises()

        async def run() -> None:
            async with AsyncExitStack() as stack:
                endpoint = await stack.enter_async_context(running(parts, settings, settings.request_timeout_s))
                await answering.answer(endpoint, work.prompts, journal, work.ask, title, endpoint.parallel)

        asyncio.run(run())
