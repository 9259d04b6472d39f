"""Plain text rows: a text between a start and an end, neither of them twice where the text spells its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the package imports this module
    from .row import Codec


def text_ids(text: str, codec: Codec) -> tuple[list[int], tuple[int, int]]:
    """Return the ids of a text row and its trained span [start, end): all but the start tokens, up to the end token.

    The tokenizer's start tokens come first, unless the text itself begins with them. The tokenizer's end token comes
    last, unless the text itself ends in a token that ends a generation of this base; blanks after that one, as
    templates write after a turn, stay in the row, and are not learned: nothing is generated there.
    """
    ids = codec.encode(text)
    if tuple(ids[: len(codec.bos)]) != codec.bos:
        ids = [*codec.bos, *ids]
    end = _end(ids, codec)
    if end is None:
        ids, end = [*ids, codec.eos], len(ids) + 1
    return ids, (len(codec.bos), end)


def text_faults(text: str, ids: Sequence[int], end: int, codec: Codec) -> list[str]:
    """Check that ids decode to the text, after one start and before one end; `end` is where the trained span ends."""
    faults = []
    if tuple(ids[: len(codec.bos)]) != codec.bos or _end(ids, codec) != end:
        faults.append("it does not stand between the tokenizer's start tokens and an end token")
    body = next((b for b in _bodies(ids, codec) if codec.same(codec.decode(ids[b]), text)), None)
    if body is None:
        return [*faults, _changed(text, codec.decode(ids[len(codec.bos) : -1]))]
    if body.start and tuple(ids[body][: len(codec.bos)]) == codec.bos:
        faults.append("its start tokens stand twice")
    if body.stop < len(ids) and _end(ids[body], codec) is not None:
        faults.append("its end token stands twice")
    return faults


def _end(ids: Sequence[int], codec: Codec) -> int | None:
    """Return where the ids' last end token ends, if only blanks follow it; None where the text is not ended."""
    ends = codec.end_ids
    last = next((i for i in range(len(ids) - 1, -1, -1) if ids[i] in ends), None)
    return last + 1 if last is not None and not codec.decode(ids[last + 1 :]).strip() else None


def _bodies(ids: Sequence[int], codec: Codec) -> Iterator[slice]:
    """Yield where the text's own ids may stand: between a start and an end, with one of them, with both."""
    starts = dict.fromkeys((len(codec.bos), 0)) if tuple(ids[: len(codec.bos)]) == codec.bos else (0,)
    for stop in (len(ids) - 1, len(ids)) if ids[-1] == codec.eos else (len(ids),):
        yield from (slice(start, stop) for start in starts)


def _changed(text: str, found: str) -> str:
    at = next((i for i, (a, b) in enumerate(zip(found, text, strict=False)) if a != b), min(len(found), len(text)))
    here = slice(max(0, at - 20), at + 20)
    return f"the tokenizer changes the text: {text[here]!r} became {found[here]!r}"
