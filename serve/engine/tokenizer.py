"""What http needs of a model's tokenizer and chat template. serve.llama has the one of a GGUF."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

# how a prompt ends: with the opening of an assistant's turn, after the last message, or within that message
Ending = Literal["opening", "message", "continued"]


class PromptTooLong(Exception):
    """A text that can't fit into the context: it has at least `tokens` tokens, and was not tokenized."""

    def __init__(self, tokens: int) -> None:
        super().__init__(f"at least {tokens} tokens")
        self.tokens = tokens


class TextBusy(Exception):
    """Every worker was busy for as long as one request may take."""


class TextUnavailable(Exception):
    """No worker can be started, for want of memory, processes or descriptors."""


class Tokenizer(Protocol):
    """Text and chats to token ids, and back. What takes long is awaited: the event loop goes on meanwhile.

    What is awaited may raise burnish.chat.ChatError, where a text or a chat is refused or takes too long, TextBusy
    and TextUnavailable.
    """

    @property
    def vocab_size(self) -> int:
        """How many tokens there are; ids are below it."""

    @property
    def has_template(self) -> bool:
        """Whether chats can be encoded."""

    async def encode(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
        """Return the ids of a text. `add_special` adds the start and end tokens that the model is configured for, the
        start token not where a parsed text begins with it; `parse_special` reads special strings as their tokens."""

    async def encode_pieces(
        self, text: str, *, add_special: bool = False, parse_special: bool = True
    ) -> list[tuple[int, str]]:
        """Return the ids of a text, each with its own text."""

    async def encode_prompt(self, text: str, most: int) -> list[int]:
        """Return the ids of a raw prompt, at least one: as `encode` with both flags. Raises PromptTooLong for a text
        that is sure to have more than `most`."""

    async def encode_chat(
        self, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any], ending: Ending, most: int
    ) -> list[int]:
        """Return the ids of a chat. Raises PromptTooLong as `encode_prompt`."""

    async def render_chat(
        self, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any], ending: Ending
    ) -> str:
        """Return the text of a chat."""

    async def special_string(self, messages: Sequence[Mapping[str, Any]]) -> tuple[int, str, str] | None:
        """Return message index, field and string of the first special string that the messages spell."""

    def piece(self, token: int) -> bytes:
        """Return the bytes of one token, those of a special one too; perhaps part of a character."""

    async def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, special ones included."""
