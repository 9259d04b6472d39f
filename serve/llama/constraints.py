"""Compiles the grammars of requests: first in a process that may be killed, then for the engine; each once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ..decoding.constraints.cache import CompiledCache, key_of
from ..decoding.constraints.constraint import Constraint
from ..decoding.constraints.library import Compiled, GrammarError, Matchers
from ..engine.tokenizer import ConstraintRefused
from .tokenizer import LlamaTokenizer

# CPU time in which a grammar must compile in a text worker
MAX_CPU_S = 0.8


class LlamaConstraints:
    """The constraints of one model. Used in the event loop only."""

    def __init__(self, tokenizer: LlamaTokenizer, matchers: Matchers) -> None:
        self._tokenizer, self._matchers = tokenizer, matchers
        self._cache = CompiledCache()
        self._compiling: dict[str, asyncio.Task[Compiled]] = {}
        self._thread = ThreadPoolExecutor(1, "grammars")

    async def compiled(self, wanted: Mapping[str, Any]) -> Callable[[], Constraint]:
        key = key_of(wanted)
        found = self._cache.get(key)
        if found is None:
            task = self._compiling.get(key)
            if task is None:
                task = self._compiling[key] = asyncio.create_task(self._compile(key, wanted))
                task.add_done_callback(lambda done: self._finished(key, done))
            found = await asyncio.shield(task)  # other requests may wait for it too
        return found.start

    async def _compile(self, key: str, wanted: Mapping[str, Any]) -> Compiled:
        grammar = await self._tokenizer.grammar(wanted, MAX_CPU_S)
        try:
            compiled = await asyncio.get_running_loop().run_in_executor(self._thread, self._matchers.compile, grammar)
        except GrammarError as error:
            raise ConstraintRefused("", str(error)) from None
        self._cache.put(key, compiled, len(grammar))
        return compiled

    def _finished(self, key: str, task: asyncio.Task[Compiled]) -> None:
        del self._compiling[key]
        if not task.cancelled():
            task.exception()  # whoever waited has seen it
