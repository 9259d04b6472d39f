"""The served model, as the HTTP layer sees it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from burnish.dialects.find import Found

from .engine.tokenizer import Constraints, Tokenizer


@dataclass(frozen=True)
class Served:
    """Name, tokenizer, and the ids and strings that end a completion; `record` is what /version reports.

    created: Unix time in seconds; fingerprint: the system_fingerprint of replies; refuse_specials: reject messages that
    contain special strings; dialects: how the chat template writes tool calls and reasoning; constraints: None if
    answers can't be constrained.
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
    dialects: Found = field(default_factory=Found)
    constraints: Constraints | None = None
