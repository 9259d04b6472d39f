"""Plain-text rows: the text with start and end tokens, which are not duplicated if the text already contains them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # avoids an import cycle: the package imports this module
    from .row import Codec


class PromptCut(Exception):
    """A token crosses from a text's prompt to its completion, which can't happen in generation."""


def text_ids(text: str, codec: Codec, prompt: str = "") -> tuple[list[int], tuple[int, int]]:
    """Return a text row's ids and trained span [start, end), excluding the start tokens, including the end token.

    With `prompt`, the start of the text, only what follows it is trained. Raises PromptCut if the tokens of the prompt
    alone, as a server makes them, don't begin the text's.

    The tokenizer's start tokens are added unless the text starts with them, and its end token unless the text ends
    with one of the base's end-of-generation tokens. Whitespace after such a token, as templates add after a turn,
    stays in the row but is not trained, since nothing is generated there.
    """
    ids = codec.encode(text)
    if tuple(ids[: len(codec.bos)]) != codec.bos:
        ids = [*codec.bos, *ids]
    end = _end(ids, codec)
    if end is None:
        ids, end = [*ids, codec.eos], len(ids) + 1
    start = len(before := prompt_ids(prompt, codec))
    if ids[:start] != before or start >= end:
        raise PromptCut
    return ids, (start, end)


def prompt_ids(prompt: str, codec: Codec) -> list[int]:
    """Return the ids that precede a text's trained part: the tokenizer's start tokens, then the prompt."""
    ids = codec.encode(prompt) if prompt else []
    return ids if ids and tuple(ids[: len(codec.bos)]) == codec.bos else [*codec.bos, *ids]


def text_faults(text: str, ids: Sequence[int], end: int, codec: Codec) -> list[str]:
    """Check that ids are the text with one start and one end; `end` is where the trained span ends."""
    faults = []
    if tuple(ids[: len(codec.bos)]) != codec.bos or _end(ids, codec) != end:
        faults.append("the text is not between the tokenizer's start tokens and an end token")
    body = next((b for b in _bodies(ids, codec) if codec.same(codec.decode(ids[b]), text)), None)
    if body is None:
        return [*faults, _changed(text, codec.decode(ids[len(codec.bos) : -1]))]
    if body.start and tuple(ids[body][: len(codec.bos)]) == codec.bos:
        faults.append("its start tokens occur twice")
    if body.stop < len(ids) and _end(ids[body], codec) is not None:
        faults.append("its end token occurs twice")
    return faults


def _end(ids: Sequence[int], codec: Codec) -> int | None:
    """Return the position after the last end token if only whitespace follows; None if the text has no end."""
    ends = codec.end_ids
    last = next((i for i in range(len(ids) - 1, -1, -1) if ids[i] in ends), None)
    return last + 1 if last is not None and not codec.decode(ids[last + 1 :]).strip() else None


def _bodies(ids: Sequence[int], codec: Codec) -> Iterator[slice]:
    """Yield the possible ranges of the text's own ids: excluding the start and end tokens, one of them, or neither."""
    starts = dict.fromkeys((len(codec.bos), 0)) if tuple(ids[: len(codec.bos)]) == codec.bos else (0,)
    for stop in (len(ids) - 1, len(ids)) if ids[-1] == codec.eos else (len(ids),):
        yield from (slice(start, stop) for start in starts)


def _changed(text: str, found: str) -> str:
    at = next((i for i, (a, b) in enumerate(zip(found, text, strict=False)) if a != b), min(len(found), len(text)))
    here = slice(max(0, at - 20), at + 20)
    return f"the tokenizer changes the text: {text[here]!r} became {found[here]!r}"
