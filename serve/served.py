"""The served model as http knows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .engine.tokenizer import Tokenizer


@dataclass(frozen=True)
class Served:
    """Name, tokenizer, and the ids and strings that end an answer; `record` is what /version says of it.

    created: seconds since 1970; fingerprint: the system_fingerprint of replies; refuse_specials: messages that spell
    special strings are errors.
    """

    name: str
    tokenizer: Tokenizer
    end_tokens: frozenset[int]
    stop_strings: tuple[str, ...]
    context_length: int
    created: int
    fingerprint: str
    record: dict[str, Any]
    refuse_specials: bool = False
