"""The Tokenizer for a GGUF file: runs the file's vocabulary and chat template in separate processes."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from burnish.chat import ChatError, ChatTemplate
from burnish.dialects.find import Found
from burnish.llama import Model
from burnish.tokenizers.special_text import Reading

from ..engine.tokenizer import ConstraintRefused, Ending, PromptTooLong
from .text.frames import Kind, Reply
from .text.pool import TextFailed, TextWorkers


class LlamaTokenizer:
    """Renders and tokenizes in worker processes; the caller closes it.

    `template` is None if the model has none. `reading` is how special strings in messages are tokenized. `timeout_s`
    limits rendering and tokenizing one request. `tool_dialect`: the only dialect that may read the template's calls.
    `end_tokens` may end a constrained answer.
    """

    def __init__(
        self,
        model: Model,
        template: ChatTemplate | None,
        reading: Reading,
        timeout_s: float,
        tool_dialect: str | None = None,
        end_tokens: Collection[int] = (),
    ) -> None:
        self.model, self.has_template = model, template is not None
        settings = {
            "model": str(model.path.resolve()),
            "template": template and {**asdict(template), "timeout_s": timeout_s},
            "reading": reading,
            "timeout_s": timeout_s,
            "tool_dialect": tool_dialect,
            "end_tokens": sorted(end_tokens),
        }
        self._workers = TextWorkers(settings)
        self._fault: str | None = None
        self.dialects = Found()  # known after `wait`

    def wait(self) -> str | None:
        """Wait until the workers are ready. Return why chats can't be rendered, or None. Raises ChatError."""
        report = self._workers.wait_ready()
        self._fault, self.dialects = report["fault"], Found.from_json(report["dialects"])
        return self._fault

    def close(self) -> None:
        self._workers.close()

    @property
    def vocab_size(self) -> int:
        return self.model.n_vocab

    async def encode_json(
        self, text: str, *, add_special: bool = False, parse_special: bool = True, max_pieces: int | None = None
    ) -> bytes:
        flags = {"add_special": add_special, "parse_special": parse_special}
        return (await self._ask("encode", text=text, max_pieces=max_pieces, **flags)).body

    async def encode_prompt(self, text: str, limit: int) -> list[int]:
        return (await self._ask("prompt", text=text, limit=limit)).ids

    async def encode_chat(
        self, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any], ending: Ending, limit: int
    ) -> list[int]:
        return (await self._chat("chat", messages, variables, ending, limit=limit)).ids

    async def render_json(
        self, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any], ending: Ending
    ) -> bytes:
        return (await self._chat("render", messages, variables, ending)).body

    async def _chat(
        self, do: str, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any], ending: Ending, **more: int
    ) -> Reply:
        if self._fault is not None:
            raise ChatError(self._fault)
        return await self._ask(do, messages=list(messages), variables=dict(variables), ending=ending, **more)

    async def special_string(self, messages: Sequence[Mapping[str, Any]]) -> tuple[int, str, str] | None:
        if not self.has_template:
            return None
        found = (await self._ask("strings", messages=list(messages))).value
        return tuple(found) if found else None

    async def grammar(self, wanted: Mapping[str, Any], cpu_s: float) -> str:
        """Return the grammar for a request, which must compile within `cpu_s` seconds of CPU time.

        Raises ConstraintRefused, TextBusy and TextUnavailable.
        """
        try:
            reply = await self._workers.ask({"do": "grammar", "wanted": dict(wanted), "cpu_s": cpu_s}, again=False)
        except TextFailed:
            raise ConstraintRefused(
                "", "compiling takes too much time or memory: make the constraint smaller"
            ) from None
        if reply.kind is not Kind.VALUE:
            raise ConstraintRefused("", str(reply.value))
        if "grammar" not in reply.value:
            raise ConstraintRefused(**reply.value)
        return str(reply.value["grammar"])

    async def _ask(self, do: str, **content: Any) -> Reply:
        reply = await self._workers.ask({"do": do, **content})
        if reply.kind is Kind.REFUSED:
            raise ChatError(reply.value)
        if reply.kind is Kind.TOO_LONG:
            raise PromptTooLong(reply.value)
        return reply

    def piece(self, token: int) -> bytes:
        return self.model.piece(token, special=True)

    async def decode(self, ids: Sequence[int]) -> str:
        return str(json.loads(await self.decode_json(ids)))

    async def decode_json(self, ids: Sequence[int]) -> bytes:
        return (await self._ask("decode", ids=list(ids))).body
