"""Find rows that are nearly the same as an earlier row, among all rows, with MinHash."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from burnish.console import bar
from burnish.data.formats import Example

from .digests import Numbers
from .near import SHINGLE_WORDS, words_of

SIMILARITY = 0.8  # Jaccard similarity of the rows' five-word sequences, as estimated
PERMUTATIONS = 128  # the estimate's standard error is at most 0.045
SEED = 42  # which RMinHashDeduplicator expects
PART_ROWS = 2048


def near_repeats(examples: Sequence[Example]) -> Numbers:
    """Return the positions of the examples that are nearly the same as an earlier one that is not in the result.

    Case, punctuation and system turns are ignored, and rows of fewer than five words. Memory is about 1 KB for each
    row that is kept. The library has threads of its own, which would not survive a fork.
    """
    from rensa import RMinHash, RMinHashDeduplicator

    kept = RMinHashDeduplicator(threshold=SIMILARITY, num_perm=PERMUTATIONS, use_lsh=True)
    found: list[int] = []
    with bar("data: near duplicates", len(examples)) as tick:
        for start in range(0, len(examples), PART_ROWS):
            sequences = [
                _sequences(example, start + n) for n, example in enumerate(examples[start : start + PART_ROWS])
            ]
            sketches = RMinHash.from_token_sets(sequences, num_perm=PERMUTATIONS, seed=SEED)
            new = kept.add_pairs((str(start + n), sketch) for n, sketch in enumerate(sketches))
            found += [start + n for n, added in enumerate(new) if not added]
            tick(start + len(sequences))
    return np.array(found, dtype=np.int64)


def _sequences(example: Example, number: int) -> list[str]:
    """Return a row's five-word sequences; something unique for a shorter row, of which a word is too large a part."""
    words = words_of(example)[0]
    found = [" ".join(words[at : at + SHINGLE_WORDS]) for at in range(len(words) - SHINGLE_WORDS + 1)]
    return found or [f"\0{number}"]
