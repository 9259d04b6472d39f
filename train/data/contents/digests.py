"""Compare the contents of many rows by digests in arrays: repeats, conflicting answers, groups, the held-out choice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b, sha256
from typing import Any

import numpy as np
import numpy.typing as npt

from burnish.data.formats import Example
from burnish.data.tools.definitions import shown

from .keys import prefix_keys

Numbers = npt.NDArray[np.int64]
Digests = npt.NDArray[np.uint64]
KEY_BYTES = 16
# a row that starts this many others is a common opening ("Hi." "Hello, how can I help?"), not a split conversation
MIN_OPENINGS, OPENINGS_SHARE = 10, 0.01


@dataclass(frozen=True)
class Digest:
    """One row's digests: `keys` as in `prefix_keys`; of a chat also the prompt and the last response, else 0."""

    keys: list[bytes]
    prompt: int = 0
    response: int = 0

    @staticmethod
    def of(example: Example) -> Digest:
        keys = prefix_keys(example)
        if not example.messages:
            return Digest(keys)
        *before, last = example.messages
        turns = [(m.role, m.content, m.train, m.reasoning, m.ids, m.name, m.calls) for m in before]
        return Digest(keys, _eight(repr((shown(example.tools), turns))), _eight(last.whole))


@dataclass(frozen=True)
class Keys:
    """The content keys of rows [n]: `flat` [k, 2] contains each row's prefix keys up to `ends` [n], its own last."""

    flat: Digests
    ends: Numbers

    @staticmethod
    def of(keys: Sequence[Sequence[bytes]]) -> Keys:
        ends = np.cumsum([len(row) for row in keys], dtype=np.int64)
        return Keys(pairs(b"".join(key for row in keys for key in row)), ends)

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def whole(self) -> Digests:
        """Each row's own key [n, 2]."""
        return self.flat[self.ends - 1]

    def take(self, index: Numbers) -> Keys:
        """Return the keys of the rows at an index, which may repeat rows."""
        counts = np.diff(self.ends, prepend=0)[index]
        ends = np.cumsum(counts)
        return Keys(self.flat[np.arange(counts.sum()) + np.repeat(self.ends[index] - ends, counts)], ends)

    def groups(self) -> tuple[Numbers, list[bytes]]:
        """Return each row's group [n], and the groups' keys, independent of the rows' order.

        A group must stay on one side of a split: its rows have the same content, or one starts with the other, as in a
        conversation split into several rows.
        """
        ids, first = numbered(self.flat)
        own = ids[self.ends - 1]
        wholes = np.zeros(len(first), dtype=bool)
        wholes[own] = True
        most = max(MIN_OPENINGS, int(OPENINGS_SHARE * len(self)))
        starts = wholes[ids] & (np.bincount(ids, minlength=len(first))[ids] <= most)
        starts[self.ends - 1] = False
        union = _Union()
        for at in np.flatnonzero(starts):
            union.join(int(own[np.searchsorted(self.ends, at, side="right")]), int(ids[at]))
        found = union.applied(own)
        if len(np.unique(found)) == 1:  # a single group can't be split: group by content only
            found = own
        names, inverse = np.unique(found, return_inverse=True)
        return inverse.astype(np.int64), as_bytes(self.flat[first[names]])


@dataclass(frozen=True)
class Contents:
    """Rows to compare [n]: their numbers, keys, and the digests of prompt and last response (0: a plain text).

    `response_of` returns the last response of the row at an index.
    """

    numbers: Numbers
    keys: Keys
    prompts: Digests
    responses: Digests
    response_of: Callable[[int], str]

    @staticmethod
    def of(examples: Sequence[Example]) -> Contents:
        digests = [Digest.of(example) for example in examples]
        return Contents(
            np.array([example.number for example in examples], dtype=np.int64),
            Keys.of([digest.keys for digest in digests]),
            np.array([digest.prompt for digest in digests], dtype=np.uint64),
            np.array([digest.response for digest in digests], dtype=np.uint64),
            lambda at: last_response(examples[at]),
        )

    def repeats(self) -> tuple[Numbers, Numbers]:
        """Return the numbers of rows that repeat an earlier row, and the numbers of the rows they repeat."""
        again, earlier = repeated(self.keys)
        return self.numbers[again], self.numbers[earlier]

    def conflicts(self) -> list[tuple[int, ...]]:
        """For each prompt with several responses, return the number of the first row with each response."""
        chats = np.flatnonzero(self.prompts)
        order = chats[np.lexsort((chats, self.responses[chats], self.prompts[chats]))]
        prompts, responses = self.prompts[order], self.responses[order]
        new_prompt = np.diff(prompts, prepend=prompts[:1] + np.uint64(1)) != 0
        firsts = order[new_prompt | (np.diff(responses, prepend=responses[:1] + np.uint64(1)) != 0)]
        names, counts = np.unique(self.prompts[firsts], return_counts=True)
        several: dict[int, list[int]] = {}
        for at in np.sort(firsts[np.isin(self.prompts[firsts], names[counts > 1])]):
            several.setdefault(int(self.prompts[at]), []).append(int(self.numbers[at]))
        return [tuple(numbers) for numbers in several.values()]

    def commonest_response(self) -> tuple[int, Numbers, str]:
        """Return the number of chats, the rows with the most frequent last response, and that response."""
        chats = np.flatnonzero(self.prompts)
        if not len(chats):
            return 0, chats, ""
        names, first, counts = np.unique(self.responses[chats], return_index=True, return_counts=True)
        most = np.flatnonzero(counts == counts.max())
        at = most[np.argmin(first[most])]
        same = chats[self.responses[chats] == names[at]]
        return len(chats), self.numbers[same], self.response_of(int(same[0]))


def repeated(keys: Keys) -> tuple[Numbers, Numbers]:
    """Return the rows that repeat an earlier row, and the rows they repeat."""
    ids, first = numbered(keys.whole)
    again = np.flatnonzero(first[ids] != np.arange(len(ids)))
    return again, first[ids[again]]


def ordered(keys: Iterable[bytes], seed: int) -> Numbers:
    """Return the positions of distinct keys in an order that depends only on the keys and the seed."""
    start = sha256(str(seed).encode() + b"\0")
    digests = bytearray()
    for key in keys:
        digest = start.copy()
        digest.update(key)
        digests += digest.digest()[:KEY_BYTES]
    return _sorted(pairs(bytes(digests)))


def numbered(keys: Digests) -> tuple[Numbers, Numbers]:
    """Return for each key [n] its rank among the distinct ones, and the first position of each distinct one."""
    order = _sorted(keys)
    ranked = keys[order]
    new = np.ones(len(keys), dtype=bool)
    new[1:] = (ranked[1:] != ranked[:-1]).any(axis=1)
    ids = np.empty(len(keys), dtype=np.int64)
    ids[order] = np.cumsum(new) - 1
    return ids, order[new]  # the sort is stable


def pairs(data: bytes) -> Digests:
    """Return 16-byte keys as pairs [n, 2] with the same order as the bytes."""
    return np.frombuffer(data, dtype=">u8").reshape(-1, 2).astype(np.uint64)


def as_bytes(keys: Digests) -> list[bytes]:
    """Return the keys of `pairs` as bytes."""
    data = keys.astype(">u8").tobytes()
    return [data[at : at + KEY_BYTES] for at in range(0, len(data), KEY_BYTES)]


def last_response(example: Example) -> str:
    """Return a chat's last turn as one text."""
    return example.messages[-1].whole if example.messages else ""


def _sorted(keys: Digests) -> Numbers:
    found: Numbers = np.lexsort((keys[:, 1], keys[:, 0])).astype(np.int64)
    return found


def _eight(text: str) -> int:
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") or 1


class _Union:
    """Disjoint sets of numbers (union-find); each set is named by its smallest number."""

    def __init__(self) -> None:
        self.parent: dict[int, int] = {}

    def of(self, number: int) -> int:
        root = number
        while (above := self.parent.get(root, root)) != root:
            root = above
        while (above := self.parent.get(number, number)) != root:
            self.parent[number], number = root, above
        return root

    def join(self, one: int, other: int) -> None:
        low, high = sorted((self.of(one), self.of(other)))
        self.parent[high] = low

    def applied(self, numbers: Numbers) -> Numbers:
        """Return the set of every number."""
        if not self.parent:
            return numbers
        table: Any = np.arange(max(int(numbers.max()), max(self.parent)) + 1)
        for number in list(self.parent):
            table[number] = self.of(number)
        found: Numbers = table[numbers]
        return found
