"""Encode special strings as tokens or as characters, with transformers and llama.cpp tokenizers."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Protocol

# llama_token_attr in llama.h
UNKNOWN, CONTROL, USER_DEFINED, LSTRIP, RSTRIP = 1 << 0, 1 << 3, 1 << 4, 1 << 7, 1 << 8
ASCII_SPACE = " \t\n\v\f\r"  # C's isspace set, which llama.cpp strips
# llama.cpp changes these control tokens to user-defined (llama-vocab.cpp), so it parses them in any text
HARMONY = frozenset({"<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"})
HARMONY_END = "<|end|>"

Part = str | int


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer's special strings and two ways to encode; neither adds a BOS or EOS.

    `specials` maps them to ids: special tokens in transformers, CONTROL tokens in a GGUF. `parse` encodes a text with
    special strings as tokens. `spell` encodes parts: ids are control tokens, texts are always plain characters, and no
    token spans two parts.
    """

    specials: Mapping[str, int]
    parse: Callable[[str], list[int]]
    spell: Callable[[Sequence[Part]], list[int]]
    unknown: int | None = None  # the id for text missing from the vocabulary
    always_parsed: frozenset[str] = frozenset()  # llama.cpp parses them even without parse_special: split


class GgufVocabulary(Protocol):
    """The part of burnish.llama.Model that `from_gguf` needs."""

    def attributes(self) -> list[int]: ...
    def token_text(self, token: int) -> str: ...
    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]: ...


def from_gguf(model: GgufVocabulary) -> Vocabulary:
    """Return a GGUF's vocabulary. Special tokens are CONTROL tokens, the unknown token, and tokens that an older
    converter marked as user-defined, recognised by their text."""
    attributes = {i: a for i, a in enumerate(model.attributes()) if a & (UNKNOWN | CONTROL | USER_DEFINED)}
    texts = {i: model.token_text(i) for i in attributes}
    special = {texts[i]: i for i, a in attributes.items() if a & (UNKNOWN | CONTROL) or looks_special(texts[i])}
    # tokens that are also CONTROL (Gemma 4's <|tool_response>) are found only if special tokens are parsed
    found = frozenset(text for text, i in special.items() if not attributes[i] & (UNKNOWN | CONTROL))

    def spell(parts: Sequence[Part]) -> list[int]:
        ids: list[int] = []
        for at, part in enumerate(parts):
            if isinstance(part, int):
                ids.append(part)
                continue
            before, after = parts[at - 1] if at else None, parts[at + 1] if at + 1 < len(parts) else None
            if isinstance(before, int) and attributes[before] & RSTRIP:
                part = part.lstrip(ASCII_SPACE)
            if isinstance(after, int) and attributes[after] & LSTRIP:
                part = part.rstrip(ASCII_SPACE)
            ids += model.tokenize(part, add_special=False, parse_special=False)
        return ids

    unknown = next((i for i, a in attributes.items() if a & UNKNOWN), None)
    return Vocabulary(_usable(special), partial(model.tokenize, add_special=False), spell, unknown, found)


def from_tokenizer(tokenizer: Any, encode: Callable[[str], list[int]] | None = None) -> Vocabulary:
    """Return the vocabulary of a transformers tokenizer based on the tokenizers library.

    Its special tokens are the added tokens marked as special, and tokens that llama.cpp's converter marks as CONTROL
    because of their text. `encode` parses a text; the default is the tokenizer itself.
    """
    backend = tokenizer.backend_tokenizer
    added = backend.get_added_tokens_decoder()
    special = {t.content: i for i, t in added.items() if t.special or looks_special(t.content)}

    @cache
    def speller() -> Callable[[Sequence[Part]], list[int]]:
        return _speller(backend, special)  # a second copy of the tokenizer, created only on demand

    def parse(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)

    unknown = getattr(tokenizer, "unk_token_id", None)
    return Vocabulary(_usable(special), encode or parse, lambda parts: speller()(parts), unknown, _harmony(special))


def start_ids(encode: Callable[[str], list[int]], plain: Callable[[str], list[int]]) -> tuple[int, ...]:
    """Return the ids that a tokenizer adds before a text; `encode` adds BOS and EOS, `plain` does not."""
    whole, bare = encode("x"), plain("x")
    at = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), 0)
    return tuple(whole[:at])


def single_start(encode: Callable[[str], list[int]], plain: Callable[[str], list[int]]) -> Callable[[str], list[int]]:
    """Wrap `encode` for raw texts that may already contain the tokenizer's start tokens, which are then not repeated.

    Tokenizers add start tokens to any text (llama.cpp only logs that there are two).
    """
    start = list(start_ids(encode, plain))

    def ids(text: str) -> list[int]:
        found = encode(text)
        return found[len(start) :] if start and found[: 2 * len(start)] == 2 * start else found

    return ids


def looks_special(text: str) -> bool:
    """Return whether llama.cpp's converter marks an added token as CONTROL even if it is not marked as special.

    The rule is does_token_look_special in the converter's conversion/base.py.
    """
    return (
        text in ("<pad>", "<mask>", "<2mass>", "[@BOS@]")
        or (text.startswith("<|") and text.endswith("|>"))
        or (text.startswith("<｜") and text.endswith("｜>"))
        or (text.startswith("<unused") and text.endswith(">"))
    )


def _harmony(names: Collection[str]) -> frozenset[str]:
    """Return the control tokens that llama.cpp changes to user-defined."""
    there = set(names)
    ends = {"<|return|>", "<|call|>"} <= there or ("<|flush|>" in there and there & {"<|call|>", "<|calls|>"})
    return frozenset(there & (HARMONY | {HARMONY_END} if ends else HARMONY))


def _usable(special: Mapping[str, int]) -> dict[str, int]:
    """Return the special strings except blank ones."""
    return {text: i for text, i in special.items() if text.strip()}


def _speller(backend: Any, special: Mapping[str, int]) -> Callable[[Sequence[Part]], list[int]]:
    """Return the encoder for parts: a copy of the tokenizer with special token names that no text contains.

    The library thus splits text, strips around tokens and adds prefix spaces as usual, but does not recognise special
    strings in text. An extra token separates adjacent texts and is removed from the ids.
    """
    nonce = secrets.token_hex(8)
    names = {i: f"\ue000{nonce}x{i}\ue001" for i in special.values()}
    border = f"\ue000{nonce}\ue001"
    content = json.loads(backend.to_str())
    old = {token["content"]: token["id"] for token in content["added_tokens"]}
    for token in content["added_tokens"]:
        token["content"] = names.get(token["id"], token["content"])
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    content["added_tokens"].append({"id": 1 + max(backend.get_vocab_size(), *old.values()), "content": border, **plain})
    content |= {"post_processor": None, "truncation": None, "padding": None}
    copy = type(backend).from_str(json.dumps(content))
    back = {copy.token_to_id(names.get(i, text)): i for text, i in old.items()}
    parted = copy.token_to_id(border)

    def spell(parts: Sequence[Part]) -> list[int]:
        words: list[str] = []
        for at, part in enumerate(parts):
            if at and isinstance(part, str) and isinstance(parts[at - 1], str):
                words.append(border)
            words.append(names[part] if isinstance(part, int) else part)
        ids = copy.encode("".join(words), add_special_tokens=False).ids
        return [back.get(i, i) for i in ids if i != parted]

    return spell
