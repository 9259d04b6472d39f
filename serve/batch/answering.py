"""Answer many prompts with limited concurrency; each result is written to the journal immediately."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from burnish.console import bar
from burnish.errors import UserError

from .endpoints import CHAT, COMPLETIONS, Endpoint, EndpointError, Lost, Refused
from .journal import Journal
from .prompts import Prompt
from .results import Result

# if this many rows fail first, all with the same message, the request itself is wrong
MAX_FAILED_FIRST = 16
# if this many rows in succession get no answer, or all that are asked at once if these are more, the server is lost
MAX_LOST = 16
UNLIMITED = -1  # max_tokens: as many as the context holds


class Ask(Protocol):
    """Get a row's result. Raises Refused or Lost if the row fails, EndpointError if no row can be answered."""

    async def __call__(self, endpoint: Endpoint, prompt: Prompt) -> Result: ...


def completing(fields: Mapping[str, Any]) -> Ask:
    """Return a function that requests chat or text completions with these fields."""
    wanted = fields.get("n") or 1

    async def ask(endpoint: Endpoint, prompt: Prompt) -> Result:
        started = time.monotonic()
        if prompt.text is not None:
            reply = await endpoint.ask(COMPLETIONS, {"max_tokens": UNLIMITED, **fields, "prompt": prompt.text})
        else:
            tools = {"tools": prompt.tools} if prompt.tools else {}
            reply = await endpoint.ask(CHAT, {**tools, **fields, "messages": prompt.messages})
        try:
            result = Result.of_reply(reply, time.monotonic() - started)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise Refused(
                "the endpoint's reply is not a completion (expected a list 'choices', each with 'message' or 'text'): "
                "check that the URL is that of an OpenAI-compatible API"
            ) from None
        if len(result.answers) != wanted:
            raise Refused(f"expected {wanted} answers (n), got {len(result.answers)}: the endpoint may not support n")
        return result

    return ask


async def answer(
    endpoint: Endpoint, prompts: Sequence[Prompt], journal: Journal, ask: Ask, title: str, parallel: int
) -> None:
    """Answer every prompt without a result in the journal, `parallel` at a time, with a progress bar.

    A row that fails is recorded with its error. Raises EndpointError if the endpoint can't be used, and
    JournalError if the results can't be written.
    """
    left = [prompt for prompt in prompts if prompt.number not in journal]
    with bar(title, len(left)) as tick:
        progress = _Progress(journal, tick, max(MAX_LOST, parallel))
        waiting = iter(left)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(parallel, len(left))):
                    group.create_task(_work(endpoint, waiting, ask, progress))
        except* UserError as found:
            error = found.exceptions[0]
            raise error from None
        progress.check_end()


class _Progress:
    """Writes results to the journal and counts them."""

    def __init__(self, journal: Journal, tick: Callable[[float, str], None], most_lost: int) -> None:
        self._journal, self._tick, self._most_lost = journal, tick, most_lost
        self._started = time.monotonic()
        self._done = self._failed = self._lost = 0
        self._faults = set[str]()

    def add(self, row: int, result: Result, lost: bool = False) -> None:
        """Record one result. Raises EndpointError if the first rows, or many in succession, failed as if all would."""
        self._journal.add(row, result)
        self._done += 1
        self._lost = self._lost + 1 if lost else 0
        if result.error is not None:
            self._failed += 1
            self._faults.add(result.error)
        if self._failed == self._done == MAX_FAILED_FIRST and len(self._faults) == 1:
            raise EndpointError(f"the first {self._done} rows all failed: {self._faults.pop()}")
        if self._lost >= self._most_lost:
            raise EndpointError(f"{self._lost} rows in succession got no answer: {result.error}")
        rate = self._done / max(time.monotonic() - self._started, 1e-9)
        failed = f", {self._failed} failed" if self._failed else ""
        self._tick(self._done, f"{rate:.1f} rows/s{failed}")

    def check_end(self) -> None:
        """Raise EndpointError if no row got an answer, not even an error."""
        if self._done and self._lost == self._done:
            raise EndpointError(f"no row got an answer: {'; '.join(sorted(self._faults))}")


async def _work(endpoint: Endpoint, prompts: Iterator[Prompt], ask: Ask, progress: _Progress) -> None:
    """Answer the next prompt until none is left; several workers share the iterator."""
    for prompt in prompts:
        lost = False
        try:
            result = await ask(endpoint, prompt)
        except (Refused, Lost) as error:
            result, lost = Result(error=str(error)), isinstance(error, Lost)
        progress.add(prompt.number, result, lost)
