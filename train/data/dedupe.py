"""Find shared content of rows: duplicates, conversations that continue another row's, and near duplicates."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b, sha256
from unicodedata import normalize

from burnish.data.formats import Example
from burnish.data.tools.definitions import shown

# a row that starts this many others is a common opening ("Hi." "Hello, how can I help?"), not a split conversation
MIN_OPENINGS, OPENINGS_SHARE = 10, 0.01
SHINGLE_WORDS = 5
NEAR = 0.5
# a sequence or prompt in more rows than this is part of the data's style
MIN_COMMON, COMMON_SHARE, SAMPLED_ROWS = 10, 0.1, 1000
# limits on time and memory: compared held-out rows, their sequences, and counted matches
MAX_HELDOUT, MAX_SHINGLES, MAX_ROWS_OF_SHINGLE, MAX_COUNTED = 4096, 2_000_000, 50, 50_000_000
STRIDE_FROM_WORDS = 64

# a word, or one character of a script without blanks
_WORD = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff]|\w+")
_ASCII_BLANKS = {code: " " for code in range(128) if not (chr(code).isalnum() or chr(code) == "_")}


def prefix_keys(example: Example) -> list[bytes]:
    """Return a digest of the conversation up to each assistant turn, the last for the whole row; for a text one.

    Rows with the same digest have the same content: the same tools, roles and texts, ignoring blanks, line breaks,
    composed or decomposed accents, and whether turns are trained.
    """
    digest = blake2b(digest_size=16)
    if example.messages is None:
        _feed(digest, "text", example.text or "")
        return [digest.digest()]
    keys = []
    if example.tools:
        _feed(digest, "tools", shown(example.tools))
    for message in example.messages:
        if message.role != "system" or message.content.strip():
            _feed(digest, message.role, message.whole)
        if message.role == "assistant":
            keys.append(digest.digest())
    return keys or [digest.digest()]


def content_key(example: Example) -> bytes:
    """Return the digest of a row's content."""
    return prefix_keys(example)[-1]


def groups(examples: Sequence[Example]) -> list[bytes]:
    """Return each row's group key, independent of the rows' order; a group must stay on one side of a split.

    A group's rows have the same content, or one starts with the other: a conversation split into several rows.
    """
    keys = [prefix_keys(example) for example in examples]
    wholes = {row[-1] for row in keys}
    openings = Counter(key for row in keys for key in row if key in wholes)
    most = max(MIN_OPENINGS, int(OPENINGS_SHARE * len(examples)))
    first = _Union()
    for row in keys:
        for key in row[:-1]:
            if key in wholes and openings[key] <= most:
                first.join(row[-1], key)
    if len({first.of(key) for key in wholes}) == 1:  # a single group can't be split: group by content only
        return [row[-1] for row in keys]
    return [first.of(row[-1]) for row in keys]


def ordered(keys: Iterable[bytes], seed: int) -> list[bytes]:
    """Return the keys in an order that depends only on them and the seed."""
    return sorted(set(keys), key=lambda key: sha256(str(seed).encode() + b"\0" + key).digest())


def repeats(examples: Sequence[Example]) -> list[tuple[Example, Example]]:
    """Return every row with the content of an earlier one, with the first such row."""
    first: dict[bytes, Example] = {}
    found = []
    for example in examples:
        earlier = first.setdefault(content_key(example), example)
        if earlier is not example:
            found.append((example, earlier))
    return found


def overlap(train: Sequence[Example], heldout: Sequence[Example]) -> list[tuple[Example, Example]]:
    """Return every held-out row whose content is also trained, with the first such training row."""
    held = {content_key(example) for example in heldout}
    first: dict[bytes, Example] = {}
    for example in train:
        if (key := content_key(example)) in held:
            first.setdefault(key, example)
    return [(example, first[key]) for example in heldout if (key := content_key(example)) in first]


def without(train: Sequence[Example], heldout: Sequence[Example]) -> list[Example]:
    """Return the training rows whose content is not in any held-out row."""
    held = {content_key(example) for example in heldout}
    return [example for example in train if content_key(example) not in held]


@dataclass(frozen=True)
class NearDuplicates:
    """Held-out rows with a near duplicate among the training rows, each with the first one.

    `compared` is the number of held-out rows compared; `whole` is False if only some training rows were compared.
    """

    pairs: list[tuple[Example, Example]]
    compared: int
    whole: bool = True


def near_duplicates(train: Sequence[Example], heldout: Sequence[Example]) -> NearDuplicates:
    """Find held-out rows with much, but not all, of their content in one training row.

    That is: at least half of its five-word sequences (except those in more than a tenth of all rows), all its words, or
    its prompt with another answer. System turns count only for the prompt. Time grows with the words of the training
    rows; memory is limited.
    """
    index = _Index(heldout[:MAX_HELDOUT], _common(train, heldout))
    for example in train:
        index.look(example)
        if index.counted > MAX_COUNTED:
            break
    pairs = [(index.rows[n], index.found[n]) for n in sorted(index.found)]
    pairs = [(held, example) for held, example in pairs if content_key(held) != content_key(example)]
    return NearDuplicates(pairs, len(index.rows), index.counted <= MAX_COUNTED)


class _Union:
    """Disjoint sets of keys (union-find); each set is named by its smallest key."""

    def __init__(self) -> None:
        self.parent: dict[bytes, bytes] = {}

    def of(self, key: bytes) -> bytes:
        root = key
        while (above := self.parent.get(root, root)) != root:
            root = above
        while (above := self.parent.get(key, key)) != root:
            self.parent[key], key = root, above
        return root

    def join(self, one: bytes, other: bytes) -> None:
        low, high = sorted((self.of(one), self.of(other)))
        self.parent[high] = low


class _Index:
    """The five-word sequences and prompts of held-out rows, and the rows found among training rows."""

    def __init__(self, heldout: Sequence[Example], common: frozenset[int]) -> None:
        self.rows: list[Example] = []
        self.found: dict[int, Example] = {}
        self.shingles: dict[int, list[int]] = {}
        self.whole: dict[int | None, list[int]] = {}  # by a hash of all words, or of the prompt
        self.sizes: list[int] = []
        self.counted = 0
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
        words, prompt = _words(example)
        own = set(_shingles(words)) - common
        self.sizes.append(len(own))
        for shingle in own:
            self.shingles.setdefault(shingle, []).append(number)
        for key in {_all(words), prompt} - common - {None}:
            self.whole.setdefault(key, []).append(number)

    def look(self, example: Example) -> None:
        """Compare one training row with all held-out rows."""
        words, prompt = _words(example)
        for key in (_all(words), prompt):
            for number in self.whole.get(key, ()):
                self.found.setdefault(number, example)
        # if half of a row's sequences are in this one, so is one of those at every fifth word
        stride = 1 if len(words) < STRIDE_FROM_WORDS else SHINGLE_WORDS
        if not any(shingle in self.shingles for shingle in _shingles(words, stride)):
            return
        counts = Counter(n for s in set(_shingles(words)) for n in self.shingles.get(s, ()))
        self.counted += counts.total()
        for number, count in counts.items():
            if count >= NEAR * self.sizes[number]:
                self.found.setdefault(number, example)


def _common(train: Sequence[Example], heldout: Sequence[Example]) -> frozenset[int]:
    """Return the sequences and prompts in more than a tenth of a sample of all rows."""
    step = max(1, (len(train) + len(heldout)) // SAMPLED_ROWS)
    sample = [*train[::step], *heldout[::step]]
    rows: Counter[int] = Counter()
    for example in sample:
        words, prompt = _words(example)
        rows.update({*_shingles(words)} if prompt is None else {*_shingles(words), prompt})
    most = max(MIN_COMMON, COMMON_SHARE * len(sample))
    return frozenset(key for key, count in rows.items() if count > most)


def _words(example: Example) -> tuple[list[str], int | None]:
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


def _feed(digest: blake2b, role: str, text: str) -> None:
    plain = " ".join((text if text.isascii() else normalize("NFC", text)).split()).encode("utf-8", "surrogatepass")
    digest.update(f"{role} {len(plain)} ".encode() + plain)
