"""The HTTP layer's interface to tokenizer and chat template. serve.llama implements it for GGUF files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

from ..decoding.constraints.constraint import Constraint

# how a prompt ends: with the start of an assistant turn, after the last message, or inside that one (to continue it)
Ending = Literal["opening", "message", "continued"]


class PromptTooLong(Exception):
    """A text exceeds the token limit; it has at least `tokens` tokens."""

    def __init__(self, tokens: int) -> None:
        super().__init__(f"at least {tokens} tokens")
        self.tokens = tokens


class TextBusy(Exception):
    """All workers stayed busy for one request's time limit."""


class TextUnavailable(Exception):
    """No worker can be started: out of memory, processes or file descriptors."""


class ConstraintRefused(Exception):
    """Raised when a schema or grammar can't be honoured; `place` is a JSON pointer into the schema, "" for all of it.

    `function` is the number of the function whose parameters it is, None for the schema of an answer.
    """

    def __init__(self, place: str, why: str, function: int | None = None) -> None:
        super().__init__(why)
        self.place, self.why, self.function = place, why, function


class Constraints(Protocol):
    """Compiles requested constraints. serve.llama implements it with llguidance."""

    async def compiled(self, wanted: Mapping[str, Any]) -> Callable[[], Constraint]:
        """Return a factory for the constraints of a request's sequences.

        `wanted` is described in serve.decoding.constraints.grammar. Raises ConstraintRefused, TextBusy and
        TextUnavailable.
        """


class Tokenizer(Protocol):
    """Converts text and chats to token ids, and back.

    Slow operations are async and run outside the event loop. Results that may be large and only go into a reply are
    returned as JSON, so that the event loop need not decode and encode them again. Every async method may raise
    burnish.chat.ChatError (the text or chat is rejected or takes too long), TextBusy and TextUnavailable.
    """

    @property
    def vocab_size(self) -> int:
        """The number of tokens; ids are below it."""

    @property
    def has_template(self) -> bool:
        """Whether chats can be encoded."""

    async def encode_json(
        self, text: str, *, add_special: bool = False, parse_special: bool = True, max_pieces: int | None = None
    ) -> bytes:
        """Return a text's token ids as a JSON array; with `max_pieces`, objects {"id", "piece"}.

        `add_special` adds the start and end tokens configured in the model, but no second start token if the parsed
        text begins with one. `parse_special` tokenizes special strings as control tokens. Raises
        PromptTooLong for more than `max_pieces` tokens.
        """

    async def encode_prompt(self, text: str, limit: int) -> list[int]:
        """Return a raw prompt's token ids, at least one, as `encode_json` with both flags does.

        Raises PromptTooLong for a text certain to exceed `limit` tokens; a result may still exceed `limit`.
        """

    async def encode_chat(
        self, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any], ending: Ending, limit: int
    ) -> list[int]:
        """Return a chat's token ids. Raises PromptTooLong as `encode_prompt` does."""

    async def render_json(
        self, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any], ending: Ending
    ) -> bytes:
        """Return a chat's rendered text as a JSON string."""

    async def special_string(self, messages: Sequence[Mapping[str, Any]]) -> tuple[int, str, str] | None:
        """Return the message index, field and text of the first special string in the messages, or None."""

    def piece(self, token: int) -> bytes:
        """Return the bytes of one token, special tokens included; possibly part of a character."""

    async def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, special tokens included."""

    async def decode_json(self, ids: Sequence[int]) -> bytes:
        """Return the text of token ids as a JSON string."""
