"""What http needs of a model's tokenizer and chat template. serve.llama has the one of a GGUF."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

# how a prompt ends: with the opening of an assistant's turn, after the last message, or within that message
Ending = Literal["opening", "message", "continued"]


class PromptTooLong(Exception):
    """A text has more tokens than may be, at least `tokens`."""

    def __init__(self, tokens: int) -> None:
        super().__init__(f"at least {tokens} tokens")
        self.tokens = tokens


class TextBusy(Exception):
    """Every worker was busy for as long as one request may take."""


class TextUnavailable(Exception):
    """No worker can be started, for want of memory, processes or descriptors."""


class Tokenizer(Protocol):
    """Text and chats to token ids, and back. What takes long is awaited: the event loop goes on meanwhile. What may be
    large and only goes into a reply comes as JSON, which the event loop need not decode and encode again.

    What is awaited may raise burnish.chat.ChatError, where a text or a chat is refused or takes too long, TextBusy
    and TextUnavailable.
    """

    @property
    def vocab_size(self) -> int:
        """How many tokens there are; ids are below it."""

    @property
    def has_template(self) -> bool:
        """Whether chats can be encoded."""

    async def encode_json(
        self, text: str, *, add_special: bool = False, parse_special: bool = True, most_pieces: int | None = None
    ) -> bytes:
        """Return the ids of a text as a JSON array; with `most_pieces`, objects {"id", "piece"}.

        `add_special` adds the start and end tokens that the model is configured for, the start token not where a parsed
        text begins with it; `parse_special` reads special strings as their tokens. Raises PromptTooLong for more than
        `most_pieces`.
        """

    async def encode_prompt(self, text: str, most: int) -> list[int]:
        """Return the ids of a raw prompt, at least one: as `encode_json` with both flags. Raises PromptTooLong for a
        text that is sure to have more than `most`."""

    async def encode_chat(
        self, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any], ending: Ending, most: int
    ) -> list[int]:
        """Return the ids of a chat. Raises PromptTooLong as `encode_prompt`."""

    async def render_json(
        self, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any], ending: Ending
    ) -> bytes:
        """Return the text of a chat as a JSON string."""

    async def special_string(self, messages: Sequence[Mapping[str, Any]]) -> tuple[int, str, str] | None:
        """Return message index, field and string of the first special string that the messages spell."""

    def piece(self, token: int) -> bytes:
        """Return the bytes of one token, those of a special one too; perhaps part of a character."""

    async def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, special ones included."""

    async def decode_json(self, ids: Sequence[int]) -> bytes:
        """Return the same as a JSON string."""
