"""The formats of reasoning before an answer, and their readers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .events import Content, Event, Reading, Thought
from .source import Source


@dataclass(frozen=True)
class Thoughts:
    """The markers around reasoning."""

    name: str
    begin: str
    end: str

    def open_in(self, prompt: str) -> bool:
        """Return whether a prompt ends inside opened reasoning, which the answer then continues."""
        return prompt.rstrip().endswith(self.begin.rstrip())


FORMATS: Mapping[str, Thoughts] = {
    thoughts.name: thoughts
    for thoughts in (
        Thoughts("think", "<think>", "</think>"),
        Thoughts("seed-think", "<seed:think>", "</seed:think>"),
        Thoughts("bracket-think", "[THINK]", "[/THINK]"),
        Thoughts("start-thinking", "<|START_THINKING|>", "<|END_THINKING|>"),
        Thoughts("kimi-think", "◁think▷", "◁/think▷"),
        Thoughts("gemma-channel", "<|channel>thought\n", "<channel|>"),
    )
}
# parsed by the dialect with the same name
CHANNELS = Thoughts("channels", "<|channel|>analysis<|message|>", "<|end|>")


class Blanks:
    """Holds back trailing whitespace until it is known whether a marker follows."""

    def __init__(self) -> None:
        self._kept: list[str] = []

    def add(self, text: str) -> str:
        """Add text; return the part that can be emitted."""
        body = text.rstrip()
        if not body:
            self._kept.append(text)
            return ""
        found = self.take() + body
        self._kept = [text[len(body) :]]
        return found

    def take(self) -> str:
        """Return and clear the whitespace held back."""
        found, self._kept = "".join(self._kept), []
        return found


def texts(source: Source, markers: tuple[str, ...], kind: type[Content] | type[Thought], kept: Blanks) -> Reading[str]:
    """Yield the text before the first marker, right-stripped; read and return the marker, or "" at the end."""
    pieces = source.until(markers)
    while True:
        try:
            piece = next(pieces)
        except StopIteration as end:
            return str(end.value)
        event: Event | None = None
        if piece is not None:
            if not (text := kept.add(piece)):
                continue
            event = kind(text)
        yield event


def thought(source: Source, thoughts: Thoughts) -> Reading[None]:
    """Read reasoning after its opening marker, and the surrounding whitespace."""
    yield from source.blanks()
    yield from texts(source, (thoughts.end,), Thought, Blanks())
    yield from source.blanks()
