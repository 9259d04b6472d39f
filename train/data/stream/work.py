"""One chunk of rows: converted, checked, rendered, tokenized, masked, proven, and packed into arrays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from burnish.chat import ChatTemplate
from burnish.data.files import RawRow
from burnish.data.formats import Example
from burnish.data.sources.converting import DatasetConverter

from ..cache.columns import Array
from ..cache.encoded import encoded
from ..cache.store import UNITS
from ..contents.digests import Digest, Keys
from ..lint import Facts
from ..mask import Codec, Faults, Row, build_some, prove_some
from ..mask.changes import Changes
from ..mask.remembered import RememberedChat
from ..rendered import Signs
from ..special_text import SpecialStrings
from ..vocabulary import UnknownIds


@dataclass
class Findings:
    """Findings in the rows of a file or of a part of it; findings of parts can be added."""

    converter: DatasetConverter
    facts: Facts
    signs: Signs | None
    unknown: UnknownIds
    read: int = 0
    special: SpecialStrings = field(default_factory=SpecialStrings)
    faults: Faults = field(default_factory=Faults)
    changes: Changes = field(default_factory=Changes)
    with_tools: int = 0
    with_results: int = 0
    stopped: bool = False  # the template takes too long, and would for every other row

    def merge(self, other: Findings) -> None:
        """Add the findings in the file's next rows."""
        self.converter.merge(other.converter)
        self.facts.merge(other.facts)
        if self.signs and other.signs:
            self.signs.merge(other.signs)
        self.unknown.merge(other.unknown)
        self.special.merge(other.special)
        self.faults.merge(other.faults)
        self.changes.merge(other.changes)
        self.read += other.read
        self.with_tools += other.with_tools
        self.with_results += other.with_results
        self.stopped |= other.stopped


@dataclass(frozen=True)
class Done:
    """A chunk's findings, and its examples and rows as arrays."""

    findings: Findings
    files: list[str]
    arrays: Mapping[str, Array]


class Work:
    """Prepares chunks of one file. `codec` is None to only convert the rows and report their errors."""

    def __init__(
        self, converter: DatasetConverter, template: ChatTemplate | None, codec: Codec | None, unknown: UnknownIds
    ) -> None:
        self.converter, self.template, self.codec, self.unknown = converter, template, codec, unknown
        self.chat = RememberedChat.of(codec.chat(template)) if codec and template else None
        if self.chat:
            self.chat.prepare()
        self.signs = Signs(template, codec) if codec else None
        self.ends = {codec.decode([token]) for token in codec.end_ids} if codec else set()

    def findings(self) -> Findings:
        """Return findings without rows."""
        return Findings(
            self.converter.empty(), Facts(self.ends), self.signs.empty() if self.signs else None, self.unknown.empty()
        )

    def __call__(self, task: tuple[Sequence[RawRow], bool]) -> Done:
        """Prepare one chunk; with True, only convert it, to report its errors."""
        raw, only_convert = task
        found = self.findings()
        found.read = len(raw)
        examples = [example for row in raw if (example := found.converter.add(row)) is not None]
        if self.codec is None or only_convert or found.converter.faults:  # nothing will be written
            found.stopped = found.converter.stopped
            return Done(found, [], {})
        for example in examples:
            self._inspect(example, found)
        rows, whole = build_some(examples, self.chat, self.codec, found.faults)
        found.stopped = not whole
        prove_some(rows, self.chat, self.codec, found.faults)
        for made in rows:
            found.unknown.add(made)
            found.changes.add(made, self.codec)
        files, arrays = packed(examples, rows)
        if self.chat:
            self.chat.forget()
        return Done(found, files, arrays)

    def _inspect(self, example: Example, found: Findings) -> None:
        found.facts.add(example)
        if example.text is not None and found.signs:
            found.signs.add(example.text)
        if self.chat:
            found.special.add(example, self.chat)
        found.with_tools += bool(example.tools)
        found.with_results += any(m.role == "tool" for m in example.messages or ())


def packed(examples: Sequence[Example], rows: Sequence[Row]) -> tuple[list[str], dict[str, Array]]:
    """Return the file names and the arrays of a chunk, with ends counted from the start of the chunk.

    `rows` are the rows of the examples, in order; an example with errors has no rows.
    """
    digests, texts = [Digest.of(example) for example in examples], [encoded(example) for example in examples]
    keys, files = Keys.of([digest.keys for digest in digests]), list(dict.fromkeys(e.file for e in examples))
    numbers = {name: number for number, name in enumerate(files)}
    made = Counter(id(row.example) for row in rows)
    arrays = {
        "line": [e.line for e in examples],
        "row": [e.row for e in examples],
        "unit": [UNITS.index(e.unit) for e in examples],
        "file": [numbers[e.file] for e in examples],
        "prompt": np.array([digest.prompt for digest in digests], dtype=np.uint64),
        "response": np.array([digest.response for digest in digests], dtype=np.uint64),
        "text_end": np.cumsum([len(text) for text in texts]),
        "text": np.frombuffer(b"".join(texts), dtype=np.uint8),
        "key": keys.flat,
        "key_end": keys.ends,
        "row_end": np.cumsum([made[id(e)] for e in examples]),
        "id_end": np.cumsum([len(row.input_ids) for row in rows]),
        "ids": [i for row in rows for i in row.input_ids],
        "span_end": np.cumsum([len(row.spans) for row in rows]),
        "span": [place for row in rows for span in row.spans for place in span],
        "last": [row.input_ids[end - 1] for row in rows for _, end in row.spans],
        "turn": [turn for row in rows for turn in (row.turns or (-1,) * len(row.spans))],
    }
    return files, {name: np.asarray(values) for name, values in arrays.items()}
