"""The Tokenizer of a GGUF: its vocabulary and its chat template, which work in processes of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from burnish.chat import ChatError
from burnish.llama import Model
from burnish.tokenizers.special_text import Chat

from ..engine.tokenizer import Ending, PromptTooLong
from .text.frames import Kind, Reply
from .text.pool import TextWorkers


class LlamaTokenizer:
    """`chat` makes ids of messages; None where the model has no template. Close it.

    `timeout_s` is the longest time to render and tokenize one request.
    """

    def __init__(self, model: Model, chat: Chat | None, timeout_s: float) -> None:
        self.model, self.chat = model, chat
        settings = {
            "model": str(model.path.resolve()),
            "template": chat and {**asdict(chat.template), "timeout_s": timeout_s},
            "reading": chat.reading if chat else "text",
            "timeout_s": timeout_s,
        }
        self._workers = TextWorkers(settings)
        self._fault: str | None = None

    def wait(self) -> str | None:
        """Wait until the workers are ready; return why no chat can be rendered, if that is so. Raises ChatError."""
        self._fault = self._workers.hello()["fault"]
        return self._fault

    def close(self) -> None:
        """End the workers."""
        self._workers.close()

    @property
    def vocab_size(self) -> int:
        return self.model.n_vocab

    @property
    def has_template(self) -> bool:
        return self.chat is not None

    async def encode(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
        return (await self._encode(text, add_special, parse_special, pieces=False)).ids

    async def encode_pieces(
        self, text: str, *, add_special: bool = False, parse_special: bool = True
    ) -> list[tuple[int, str]]:
        found = (await self._encode(text, add_special, parse_special, pieces=True)).value
        return [(token, piece) for token, piece in found]

    async def _encode(self, text: str, add_special: bool, parse_special: bool, pieces: bool) -> Reply:
        return await self._ask("encode", text=text, add_special=add_special, parse_special=parse_special, pieces=pieces)

    async def encode_prompt(self, text: str, most: int) -> list[int]:
        return (await self._ask("prompt", text=text, most=most)).ids

    async def encode_chat(
        self, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any], ending: Ending, most: int
    ) -> list[int]:
        return (await self._chat("chat", messages, variables, ending, most=most)).ids

    async def render_chat(
        self, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any], ending: Ending
    ) -> str:
        return str((await self._chat("render", messages, variables, ending)).value)

    async def _chat(
        self, do: str, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any], ending: Ending, **more: int
    ) -> Reply:
        if self._fault is not None:
            raise ChatError(self._fault)
        return await self._ask(do, messages=list(messages), variables=dict(variables), ending=ending, **more)

    async def special_string(self, messages: Sequence[Mapping[str, Any]]) -> tuple[int, str, str] | None:
        if self.chat is None:
            return None
        found = (await self._ask("strings", messages=list(messages))).value
        return tuple(found) if found else None

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
        return str((await self._ask("decode", ids=list(ids))).value)
