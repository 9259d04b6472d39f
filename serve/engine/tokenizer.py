"""What http needs of a model's tokenizer and chat template. serve.llama has the one of a GGUF."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol


class Tokenizer(Protocol):
    """Text and chats to token ids, and back. Any thread may call these."""

    @property
    def vocab_size(self) -> int:
        """How many tokens there are; ids are below it."""

    @property
    def has_template(self) -> bool:
        """Whether chats can be encoded."""

    def encode(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
        """Return the ids of a text. `add_special` adds the start and end tokens that the model is configured for, the
        start token not where a parsed text begins with it; `parse_special` reads special strings as their tokens."""

    def encode_prompt(self, text: str) -> list[int]:
        """Return the ids of a raw prompt, at least one: as `encode` with both flags."""

    def encode_chat(self, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]) -> list[int]:
        """Return the ids of a chat with the opening of the next answer. Raises burnish.chat.ChatError."""

    def special_strings(self, messages: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, str, str]]:
        """Yield message index, field and string of every special string that the messages spell."""

    def piece(self, token: int) -> bytes:
        """Return the bytes of one token, those of a special one too; perhaps part of a character."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, special ones included."""
