"""Findings in the texts of rows. Findings of a file's parts can be added."""

from __future__ import annotations

import re
from array import array
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from burnish.data.formats import Example

from . import suspects

_PLACEHOLDER = re.compile(r"(?<!\{)\{\{\s*([^\W\d][\w .-]{0,40}?)\s*\}\}(?!\})")
# control tokens of common chat templates, without <think>
_MARKER = re.compile(
    r"<[|｜][\w▁]{1,40}[|｜]>|</?s>|<(?:bos|eos|pad|unk)>"
    r"|<(?:start|end)_of_turn>|<</?SYS>>|\[/?(?:INST|SYSTEM_PROMPT)\]"
)
# UTF-8 read as Windows-1252: é becomes Ã©, ’ becomes â€™
_MOJIBAKE = re.compile(r"â€.|Ã[\u0080-\u00bf]|Â[\u00a0-\u00bf]|ï»¿|ðŸ")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_QUOTED = re.compile(r'\s*"[^"]*"\s*')

Rows: TypeAlias = "array[int]"  # lines, or numbers of rows


@dataclass
class Facts:
    """Findings by kind and name, each with its rows in order; counts of rows, and of those that are chats.

    `ends` are the base's end tokens, which may end a plain text.
    """

    ends: Collection[str] = ()
    rows: int = 0
    chats: int = 0
    named: dict[str, dict[str, Rows]] = field(default_factory=dict)

    def add(self, example: Example) -> None:
        """Add one row's findings."""
        self.rows += 1
        self.chats += bool(example.messages)
        for kind, name in self._found(example):
            lines = self.named.setdefault(kind, {}).setdefault(name, array("q"))
            if not lines or lines[-1] != example.number:
                lines.append(example.number)

    def merge(self, other: Facts) -> None:
        """Add the findings in the file's next rows."""
        self.rows += other.rows
        self.chats += other.chats
        for kind, named in other.named.items():
            for name, lines in named.items():
                self.named.setdefault(kind, {}).setdefault(name, array("q")).extend(lines)

    def rows_of(self, kind: str) -> dict[str, tuple[int, ...]]:
        """Return the rows of every name found, most frequent first."""
        found = self.named.get(kind, {})
        return {name: tuple(lines) for name, lines in sorted(found.items(), key=lambda item: -len(item[1]))}

    def lines(self, kind: str) -> tuple[int, ...]:
        """Return the rows with a finding that has no names."""
        return tuple(self.named.get(kind, {}).get("", ()))

    def _found(self, example: Example) -> Iterator[tuple[str, str]]:
        for role, text in example.texts():
            yield from _anywhere(text, role == "", self.ends)
            if role != "tool":  # results are never trained, and are as the tools wrote them
                for name in suspects.empty_cells(text, role == "user"):
                    yield "empty-cell", f"'{name}'"
                yield from (("escape", name) for name in suspects.escapes(text))
                yield from (("line-end", name) for name in suspects.line_ends(text))
        messages = example.messages or ()
        if messages and messages[-1].content.lstrip().startswith('"') and _QUOTED.fullmatch(messages[-1].content):
            yield "quoted", ""
        if any(m.role == "assistant" and m.train and m.content != m.content.strip() for m in messages):
            yield "whitespace", ""


def _anywhere(text: str, plain: bool, ends: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield the findings relevant in any turn; cheap tests come first, since nearly all texts have none."""
    if "{{" in text:
        yield from (("placeholder", "{{" + match.group(1) + "}}") for match in _PLACEHOLDER.finditer(text))
    if "<" in text or "[" in text:
        searched = _without_end(text, ends) if plain else text
        yield from (("marker", match.group()) for match in _MARKER.finditer(searched))
    if _CONTROL.search(text):
        yield "control", ""
    if text.isascii():
        return
    if "\ufffd" in text:
        yield "replacement", ""
    if _MOJIBAKE.search(text):
        yield "mojibake", ""
    yield from (("invisible", name) for name in suspects.invisible(text))


def _without_end(text: str, ends: Collection[str]) -> str:
    """Return a plain text without its final end token."""
    bare = text.rstrip()
    end = next((end for end in ends if end and bare.endswith(end)), None)
    return text if end is None else bare.removesuffix(end)
