"""Render and encode each chat once: a row's prompt is needed to build it and again to prove it."""

from __future__ import annotations

import marshal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from burnish.tokenizers.special_text import Chat, Prompt

WITHOUT_REFERENCES = 2  # marshal's newest format in which equal values have equal bytes


@dataclass(frozen=True)
class RememberedChat(Chat):
    """A Chat that keeps its renderings and their ids until `forget`."""

    _rendered: dict[bytes, Prompt] = field(default_factory=dict, compare=False, repr=False)
    _encoded: dict[Prompt, list[int]] = field(default_factory=dict, compare=False, repr=False)

    @staticmethod
    def of(chat: Chat) -> RememberedChat:
        """Return the same chat with a memory."""
        return RememberedChat(chat.template, chat.vocabulary, chat.reading, chat.variables)

    def render(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = False, **variables: Any
    ) -> Prompt:
        """Render as Chat does."""
        asked: Any = (list(messages), add_generation_prompt, self.variables, variables)
        try:
            key = marshal.dumps(asked, WITHOUT_REFERENCES)
        except ValueError:  # a value that marshal does not know
            return super().render(messages, add_generation_prompt, **variables)
        if (found := self._rendered.get(key)) is None:
            found = self._rendered[key] = super().render(messages, add_generation_prompt, **variables)
        return found

    def encode(self, prompt: Prompt) -> list[int]:
        """Encode as Chat does."""
        if (found := self._encoded.get(prompt)) is None:
            found = self._encoded[prompt] = super().encode(prompt)
        return list(found)

    def forget(self) -> None:
        self._rendered.clear()
        self._encoded.clear()
