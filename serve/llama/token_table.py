"""The vocabulary of a GGUF file, for constrained decoding."""

from __future__ import annotations

from collections.abc import Collection

from burnish.dialects.find import Found
from burnish.llama import Model
from burnish.tokenizers.vocabulary import CONTROL, UNKNOWN, USER_DEFINED, looks_special

from ..decoding.constraints.library import Matchers, TokenTable

UNUSED = 1 << 1  # LLAMA_TOKEN_ATTR_UNUSED


def token_table(model: Model, ends: Collection[int], marks: Collection[int]) -> TokenTable:
    """Return the bytes of every token. `ends` are the end tokens, `marks` the tokens around calls and reasoning.

    Special tokens are those of burnish.tokenizers.vocabulary, and `marks`: a constraint never puts one into text.
    """
    special, tokens = set(ends) | set(marks), list[bytes]()
    for token, attribute in enumerate(model.attributes()):
        tokens.append(b"" if attribute & UNUSED else model.piece(token, special=True))
        if attribute & (UNKNOWN | CONTROL) or (attribute & USER_DEFINED and looks_special(model.token_text(token))):
            special.add(token)
    return TokenTable(tokens, frozenset(special), frozenset(ends), *model.native_tokenizer())


def matchers(model: Model, ends: Collection[int], dialects: Found) -> Matchers | None:
    """Return a grammar compiler for this vocabulary, or None if it can't be constrained: it has no end token, or
    its tokenizer changes the start of a text."""
    if not ends:
        return None
    table = token_table(model, ends, marks(model, dialects).values())
    try:
        return Matchers(table)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # a panic of llguidance's is not an Exception
        return None


def marks(model: Model, dialects: Found) -> dict[str, int]:
    """Return the strings around calls and reasoning that are single tokens in this vocabulary, with their ids."""
    around = dialects.dialect.markers if dialects.dialect else ()
    around += (dialects.thoughts.begin, dialects.thoughts.end) if dialects.thoughts else ()
    found = {mark.strip(): model.tokenize(mark.strip(), add_special=False) for mark in around}
    return {mark: ids[0] for mark, ids in found.items() if len(ids) == 1}
