"""A chat with all of the base's special strings as text; export checks that artifacts also treat them as text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..files import read_text
from .special_text import Chat

FILE = "probe.json"
MAX_STRINGS = 256


@dataclass(frozen=True)
class SpecialsCheck:
    """The messages, the prompt's ids from the training tokenizer, and every special string with its id."""

    messages: list[dict[str, Any]]
    input_ids: list[int]
    specials: Mapping[str, int]

    @staticmethod
    def of(chat: Chat) -> SpecialsCheck | None:
        """Create a run's check; None if special strings are parsed. Raises ChatError if they can't become text."""
        strings = sorted(chat.vocabulary.specials, key=chat.vocabulary.specials.__getitem__)[:MAX_STRINGS]
        if chat.reading == "parse" or not strings:
            return None
        text = "\n".join(f"What is x{s}y, {s} or {s}{s} {s}?" for s in strings)
        messages = [{"role": "user", "content": text}]
        return SpecialsCheck(messages, chat.ids(messages, add_generation_prompt=True), dict(chat.vocabulary.specials))

    def save(self, directory: Path) -> None:
        """Write probe.json into an existing directory."""
        (directory / FILE).write_text(json.dumps(asdict(self), ensure_ascii=False) + "\n", encoding="utf-8")

    @staticmethod
    def load(directory: Path) -> SpecialsCheck | None:
        """Read a check written by `save`; None if the file does not exist."""
        path = directory / FILE
        return SpecialsCheck(**json.loads(read_text(path))) if path.is_file() else None

    def not_special_in(self, chat: Chat) -> list[str]:
        """Return strings that are special in training but ordinary single tokens in `chat`'s vocabulary."""
        there = chat.vocabulary.specials
        return [s for s in self.specials if s not in there and len(chat.vocabulary.parse(s)) == 1]
