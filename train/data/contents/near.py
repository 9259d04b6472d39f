"""Find held-out rows that are near duplicates of training rows."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from burnish.children.pool import Pool
from burnish.data.formats import Example
from burnish.data.tools.definitions import shown

from .keys import content_key

SHINGLE_WORDS = 5
NEAR = 0.5
# a sequence or prompt in more rows than this is part of the data's style
MIN_COMMON, COMMON_SHARE, SAMPLED_ROWS = 10, 0.1, 1000
# limits on time and memory: compared held-out rows, their sequences, and counted matches
MAX_HELDOUT, MAX_SHINGLES, MAX_ROWS_OF_SHINGLE, MAX_COUNTED = 4096, 2_000_000, 50, 50_000_000
STRIDE_FROM_WORDS = 64
PART_ROWS = 4096  # training rows that a process compares at a time

Found = tuple[dict[int, Example], int]

# a word, or one character in a script without spaces
_WORD = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff]|\w+")
_ASCII_BLANKS = {code: " " for code in range(128) if not (chr(code).isalnum() or chr(code) == "_")}


@dataclass(frozen=True)
class NearDuplicates:
    """Held-out rows with a near duplicate among the training rows, each with the first one.

    `compared` is the number of held-out rows compared; `whole` is False if only some training rows were compared.
    """

    pairs: list[tuple[Example, Example]]
    compared: int
    whole: bool = True


def near_duplicates(train: Sequence[Example], heldout: Sequence[Example], processes: int = 1) -> NearDuplicates:
    """Find held-out rows with much, but not all, of their content in one training row.

    That is: at least half of its five-word sequences (except those in more than a tenth of all rows), all its words, or
    its prompt with another answer. System turns count only for the prompt. Time grows with the words of the training
    rows; memory is limited.
    """
    index = _Index(heldout[:MAX_HELDOUT], _common(train, heldout))
    found: dict[int, Example] = {}
    counted = 0
    parts = [slice(at, at + PART_ROWS) for at in range(0, len(train), PART_ROWS)]
    work = partial(_look, index, train)
    with Pool[slice, Found](work, processes if len(parts) > processes else 1) as pool:
        for found_in_part, counted_in_part in pool.map(parts):
            for number, example in found_in_part.items():
                found.setdefault(number, example)
            counted += counted_in_part
            if counted > MAX_COUNTED:
                break
    pairs = [(index.rows[n], found[n]) for n in sorted(found)]
    pairs = [(held, example) for held, example in pairs if content_key(held) != content_key(example)]
    return NearDuplicates(pairs, len(index.rows), counted <= MAX_COUNTED)


def _look(index: _Index, train: Sequence[Example], part: slice) -> Found:
    return index.look(train[part])


class _Index:
    """The five-word sequences and prompts of held-out rows, and the rows found among training rows."""

    def __init__(self, heldout: Sequence[Example], common: frozenset[int]) -> None:
        self.rows: list[Example] = []
        self.shingles: dict[int, list[int]] = {}
        self.whole: dict[int | None, list[int]] = {}  # by a hash of all words, or of the prompt
        self.sizes: list[int] = []
        for example in heldout:
            if len(self.shingles) > MAX_SHINGLES:
                break
            self._add(example, common)
        for rows in [rows for rows in self.shingles.values() if len(rows) > MAX_ROWS_OF_SHINGLE]:
            for row in rows:
                self.sizes[row] -= 1
        self.shingles = {k: rows for k, rows in self.shingles.items() if len(rows) <= MAX_ROWS_OF_SHINGLE}

    def _add(self, example: Example, common: frozenset[int]) -> None:
        number = len(self.rows)
        self.rows.append(example)
        words, prompt = words_of(example)
        own = set(_shingles(words)) - common
        self.sizes.append(len(own))
        for shingle in own:
            self.shingles.setdefault(shingle, []).append(number)
        for key in {_all(words), prompt} - common - {None}:
            self.whole.setdefault(key, []).append(number)

    def look(self, examples: Iterable[Example]) -> Found:
        """Compare training rows with all held-out rows; return the first match of each, and the match counts."""
        found: dict[int, Example] = {}
        counted = sum(self._look(example, found) for example in examples)
        return found, counted

    def _look(self, example: Example, found: dict[int, Example]) -> int:
        words, prompt = words_of(example)
        for key in (_all(words), prompt):
            for number in self.whole.get(key, ()):
                found.setdefault(number, example)
        # if half of a row's sequences are in this one, so is one of those at every fifth word
        stride = 1 if len(words) < STRIDE_FROM_WORDS else SHINGLE_WORDS
        if not any(shingle in self.shingles for shingle in _shingles(words, stride)):
            return 0
        counts = Counter(n for s in set(_shingles(words)) for n in self.shingles.get(s, ()))
        for number, count in counts.items():
            if count >= NEAR * self.sizes[number]:
                found.setdefault(number, example)
        return counts.total()


def _common(train: Sequence[Example], heldout: Sequence[Example]) -> frozenset[int]:
    """Return the sequences and prompts in more than a tenth of a sample of all rows."""
    step = max(1, (len(train) + len(heldout)) // SAMPLED_ROWS)
    sample = [*train[::step], *heldout[::step]]
    rows: Counter[int] = Counter()
    for example in sample:
        words, prompt = words_of(example)
        rows.update({*_shingles(words)} if prompt is None else {*_shingles(words), prompt})
    most = max(MIN_COMMON, COMMON_SHARE * len(sample))
    return frozenset(key for key, count in rows.items() if count > most)


def words_of(example: Example) -> tuple[list[str], int | None]:
    """Return a row's words in lower case and a hash of its prompt, which is None for a text."""
    if example.messages is None:
        return _split((example.text or "").lower()), None
    turns = [m.whole.lower() for m in example.messages if m.role != "system"]
    system = "".join(m.content for m in example.messages if m.role == "system") + shown(example.tools)
    before = "\n".join(turns[:-1])
    words = _split(before)
    return words + _split(turns[-1] if turns else ""), hash((system, tuple(words) or before))


def _split(text: str) -> list[str]:
    return text.translate(_ASCII_BLANKS).split() if text.isascii() else _WORD.findall(text)  # the same result, faster


def _all(words: Sequence[str]) -> int | None:
    return hash(tuple(words)) if words else None


def _shingles(words: Sequence[str], stride: int = 1) -> Iterator[int]:
    return (hash(tuple(words[i : i + SHINGLE_WORDS])) for i in range(0, len(words) - SHINGLE_WORDS + 1, stride))
