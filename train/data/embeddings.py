"""Tokens without an embedding: said before training, refused where a row uses one, left out of what is saved."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from burnish.bases import embeddings
from burnish.bases.base import Base
from burnish.config import ConfigError
from burnish.data.formats import Example
from burnish.tokenizers.embedded import unembedded, without_unembedded
from burnish.tokenizers.loader import TokenizerError

from .mask import Row

MOST_NAMED = 3


def embedded(tokenizer: Any, base: Base) -> tuple[Any, list[str], list[str]]:
    """Return the tokenizer without the added tokens that the base has no embeddings for, those, and a warning of them.

    Nothing is done where neither config.json nor the weights say how many embeddings there are.
    """
    size = embeddings.rows(base.path)
    if size is None or not (lacking := unembedded(tokenizer, size)):
        return tokenizer, [], []
    try:
        kept = without_unembedded(tokenizer, size)
    except TokenizerError as error:
        raise ConfigError(f"base.id {base.id}: {error}") from None
    dropped = [token for token in lacking if token not in kept.get_vocab()]
    shown = ", ".join(f"{token!r} (id {i})" for token, i in list(lacking.items())[:MOST_NAMED])
    shown += " and more" if len(lacking) > MOST_NAMED else ""
    whole = len(dropped) == len(lacking)
    warning = (
        f"base.id {base.id}: its tokenizer has tokens without an embedding: {len(lacking)} beyond the {size:,} that the"
        f" base has ({shown}): a row that uses one is refused, and"
        f" {'they are left out of what is saved' if whole else 'no GGUF can be made of such a base'}"
    )
    return kept, dropped, [warning]


def check_ids(rows: Sequence[Row], tokenizer: Any, base: Base, path: str, dropped: Sequence[str] = ()) -> None:
    """Raise ConfigError where rows use tokens that the base has no embeddings for, by id or by text.

    `dropped` are those of `embedded`, which the tokenizer no longer knows. Nothing is checked where neither config.json
    nor the weights say how many embeddings there are.
    """
    size = embeddings.rows(base.path)
    if size is None:
        return
    where: dict[str, str] = {}
    pattern = re.compile("|".join(map(re.escape, sorted(dropped, key=len, reverse=True)))) if dropped else None
    for row in rows:
        if max(row.input_ids) >= size:
            for i in row.input_ids:
                if i >= size:
                    where.setdefault(f"{tokenizer.convert_ids_to_tokens(i)!r} has id {i}", row.example.where)
        for text in _spoken(row.example) if pattern else ():
            for found in pattern.findall(text) if pattern else ():
                where.setdefault(f"{found!r} has no embedding", row.example.where)
    faults = [
        f"{path}: {place}: the token {token}, and base.id {base.id} has embeddings for {size:,} tokens (vocab_size in"
        " config.json): take it out of the data, or give a base whose embeddings were resized to its tokenizer"
        for token, place in where.items()
    ]
    if faults:
        raise ConfigError(faults)


def _spoken(example: Example) -> list[str]:
    """Return the texts of a row."""
    return [message.content for message in example.messages or ()] + [example.text or ""]
