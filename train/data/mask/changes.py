"""Changes by the chat template to responses: text written before them, whitespace, and omitted reasoning."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .proof import response_text
from .row import Codec, Row

MOST_TEXTS = 1000  # different texts before responses that are counted


@dataclass
class Changes:
    """Counts over rows. The counts of a file's parts add up.

    `before` counts the texts before responses, `changed` the responses whose blanks or accents differ; `lost` counts
    the rows with reasoning that is not trained, the first of them at `first_lost`.
    """

    before: Counter[str] = field(default_factory=Counter)
    changed: int = 0
    responses: int = 0
    lost: int = 0
    first_lost: str = ""

    def add(self, row: Row, codec: Codec) -> None:
        """Add one row's responses."""
        if not row.example.messages:
            return
        for added, same in _responses(row, codec):
            if added and (added in self.before or len(self.before) < MOST_TEXTS):
                self.before[added] += 1
            self.changed += not same
            self.responses += 1
        if any(not kept for kept in thoughts_kept(row, codec)):
            self.lost += 1
            self.first_lost = self.first_lost or row.example.where

    def merge(self, other: Changes) -> None:
        """Add the counts of the file's next rows."""
        self.before.update(other.before)
        self.changed += other.changed
        self.responses += other.responses
        self.lost += other.lost
        self.first_lost = self.first_lost or other.first_lost

    def to_json(self) -> dict[str, Any]:
        """Return the counts for `from_json`."""
        return {**vars(self), "before": dict(self.before)}

    @staticmethod
    def from_json(found: Mapping[str, Any]) -> Changes:
        """Return the counts that `to_json` returned."""
        return Changes(**{**found, "before": Counter(found["before"])})


def _responses(row: Row, codec: Codec) -> Iterator[tuple[str, bool]]:
    """For each complete response, yield the text before its content and whether the content is unchanged."""
    for (start, end), turn in zip(row.whole, row.turns, strict=False):
        message = (row.example.messages or ())[turn]
        content, thought = message.content, message.reasoning.strip()
        text = None if message.calls else response_text(row.input_ids[start:end], content, codec)
        if text is None:
            continue
        if same := text.endswith(content):
            added = text.removesuffix(content)
        elif text.rstrip().endswith(content.strip()):
            added = text.rstrip().removesuffix(content.strip())
        else:
            added = codec.canonical(text).rstrip().removesuffix(codec.canonical(content).strip())
        yield added.replace(thought, "...") if thought else added, same


def thoughts_kept(row: Row, codec: Codec) -> Iterator[bool]:
    """Yield for each complete response with reasoning whether that is trained."""
    for (start, end), turn in zip(row.spans, row.turns, strict=False):
        thought = (row.example.messages or ())[turn].reasoning.strip()
        if thought and (start, end) in row.whole:
            learned = codec.decode(row.input_ids[start:end])
            yield thought in learned or codec.canonical(thought) in codec.canonical(learned)
