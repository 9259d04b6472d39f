"""Encode and decode many texts fast, with exactly the tokenizer's own results."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from .comparison import encoder, sample_texts

MAX_REMEMBERED = 2 << 20  # characters; their ids take about 20 bytes each


class Encoder:
    """A tokenizer's text -> ids function without BOS and EOS, with exactly the ids of `tokenizer(text)`.

    Tokenizers split a text at control tokens first, so the ids of a rendered chat are those of its turns
    in a row. The pieces that chats share (the system turn, a prompt and the start of the whole chat) are encoded once.
    A tokenizer for which this does not hold (checked with sample texts) encodes whole texts.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._whole = encoder(tokenizer)
        self._backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        self._ids: dict[str, list[int]] = {}
        self._characters = 0
        self._cut = self._pattern(tokenizer)

    def __call__(self, text: str) -> list[int]:
        """Return a text's ids, in a new list."""
        if self._cut is None:
            return self._whole(text)
        starts = [match.start() for match in self._cut.finditer(text)]
        if starts[:1] != [0]:
            starts.insert(0, 0)
        pieces = [text[start:end] for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]
        if self._characters > MAX_REMEMBERED:
            self._ids, self._characters = {}, 0
        self._encode([piece for piece in pieces if piece not in self._ids])
        return [i for piece in pieces for i in self._ids[piece]]

    def _encode(self, pieces: Sequence[str]) -> None:
        if not pieces:
            return
        self._characters += sum(map(len, pieces))
        found = self._backend.encode_batch_fast(pieces, add_special_tokens=False)
        self._ids.update(zip(pieces, (one.ids for one in found), strict=True))

    def _pattern(self, tokenizer: Any) -> re.Pattern[str] | None:
        """Return the pattern of the control tokens at which texts are cut; None if whole texts must be encoded."""
        backend = self._backend
        if backend is None or backend.truncation or backend.padding or backend.encode_special_tokens:
            return None
        added = list(backend.get_added_tokens_decoder().values())
        if any(token.single_word for token in added):
            return None
        plain = [t.content for t in added if not (t.normalized or t.lstrip or t.rstrip)]
        if not (cuts := _never_hidden(plain, [t.content for t in added])):
            return None
        self._cut = re.compile("|".join(map(re.escape, sorted(cuts, key=len, reverse=True))))
        samples = sample_texts(tokenizer)
        mixed = [f"{text}{mark}{text}{mark}" for text, mark in zip(samples, cuts * len(samples), strict=False)]
        return self._cut if all(self(text) == self._whole(text) for text in (*samples, *mixed)) else None


def _never_hidden(texts: Sequence[str], tokens: Sequence[str]) -> list[str]:
    """Return the tokens that can't start inside another token, which would be matched instead."""
    ends = {token[at:] for token in tokens for at in range(1, len(token))}
    inside = "\0".join(token[1:] for token in tokens)
    return [t for t in texts if t and t not in inside and not any(t[:n] in ends for n in range(1, len(t) + 1))]


class Decoder:
    """A tokenizer's ids -> text function that keeps special tokens and cleans nothing up.

    It calls the tokenizers library directly: transformers' wrapper takes as long again. A tokenizer with a decoding of
    its own (checked with sample texts) is called as it is.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        encode = encoder(tokenizer)
        samples = [encode(text) for text in sample_texts(tokenizer)]
        if self._backend is not None and any(self(ids) != self._own(ids) for ids in samples):
            self._backend = None

    def __call__(self, ids: Sequence[int]) -> str:
        """Return the text of ids."""
        if self._backend is None:
            return self._own(ids)
        return str(self._backend.decode(ids, skip_special_tokens=False))

    def _own(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))
