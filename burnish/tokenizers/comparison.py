"""Comparison of tokenizers: the ids that two give for the same texts, and whether decoding gives a text back."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, normalizers

# what a tokenizer writes instead of a blank: no change of the text, and llama.cpp does the same by itself
BLANK = "▁"
BLANKS = frozenset({"Prepend", "Replace"})
SAMPLE_TEXTS = (
    "Hello, world! It's 2025-02-12T03:00:00+07:00; path='/app' costs $1,234.56.",
    "  two blanks before,  two within, two after  ",
    "\n\n\tIndented  twice   thrice\r\n\r\n    four blanks\n",
    "naïve café Straße Ærøskøbing Ελλάδα Привет, мир!",
    "你好，世界 こんにちは 안녕하세요 สวัสดี नमस्ते שלום مرحبا",
    "🙂🚀 👩‍👩‍👧 ½ ∑ → ≥ № \u00a0\u200b",
    "def f(x):\n    return x**2  # THEY'RE we'll I'd\n\n\n",
    "1 22 333 4444 55555 0x1F 3.14159",
    "### Instruction:\nName the boats.\n\n### Response:\n",
)


def reload_difference(directory: Path, expected: Callable[[str], list[int]], texts: Sequence[str]) -> str:
    """Say how transformers' AutoTokenizer reads `directory` otherwise than `expected`; nothing where it does not."""
    from transformers import AutoTokenizer

    read = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    return first_difference(encoder(read), expected, texts)


def encoder(tokenizer: Any, special: bool = False) -> Callable[[str], list[int]]:
    """Return text -> ids of a transformers tokenizer; `special` adds BOS and EOS as it is configured."""
    return lambda text: list(tokenizer(text, add_special_tokens=special, verbose=False).input_ids)


def plain_encoder(tokenizer: Tokenizer) -> Callable[[str], list[int]]:
    """Return text -> ids of a tokenizer of the tokenizers library, without BOS and EOS."""
    return lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids)


def sample_texts(tokenizer: Any, known: Callable[[str], bool] = bool) -> tuple[str, ...]:
    """Return the sample texts, and one with the tokenizer's own special tokens, if `known`, between words."""
    named = [token for token in dict.fromkeys(tokenizer.all_special_tokens) if token and known(token)][:32]
    return (*SAMPLE_TEXTS, "".join(f"{token}word {token} " for token in named)) if named else SAMPLE_TEXTS


def first_difference(
    found: Callable[[str], list[int]], expected: Callable[[str], list[int]], texts: Sequence[str]
) -> str:
    """Say where two encoders first give other ids, on which text; nothing where all are the same."""
    for text in texts:
        if difference := ids_difference(text, found(text), expected(text)):
            return difference
    return ""


def ids_difference(text: str, found: list[int], expected: list[int]) -> str:
    """Say where two lists of ids of one text differ; nothing where they are the same."""
    if found == expected:
        return ""
    pairs = enumerate(zip(found, expected, strict=False))
    at = next((i for i, (a, b) in pairs if a != b), min(len(found), len(expected)))
    shown = text if len(text) <= 40 else f"{text[:40]}…"
    return f"{shown!r} at token {at}: {found[at : at + 3]}, expected {expected[at : at + 3]}"


def normalizer(tokenizer: Any) -> Callable[[str], str]:
    """Return what the tokenizer does to the characters of a text before it splits it (NFC, lower case ...).

    Blanks that it writes as another character are left: that changes no text, and llama.cpp does it too, while it
    never composes accents.
    """
    steps = steps_of(json.loads(tokenizer.backend_tokenizer.to_str())["normalizer"], "normalizers")
    kept = [step for step in steps if step["type"] not in BLANKS]
    if not kept:
        return str
    bare = {**_EMPTY, "normalizer": {"type": "Sequence", "normalizers": kept}}
    made: normalizers.Normalizer = Tokenizer.from_str(json.dumps(bare)).normalizer
    return lambda text: str(made.normalize_str(text))


_EMPTY: dict[str, Any] = {
    "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
    "pre_tokenizer": None, "post_processor": None, "decoder": None,
    "model": {"type": "BPE", "vocab": {}, "merges": []},
}  # fmt: skip


def canonical_text(tokenizer: Any, beside: Iterable[str] = ()) -> Callable[[str], str]:
    """Return what makes one text of all that the tokenizer, made as it is, decodes alike.

    That is its normalizer, and the blanks beside special tokens that strip them; also beside the given strings.
    """
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    normal = normalizer(tokenizer)
    blank = BLANK in json.dumps([backend["decoder"], backend["pre_tokenizer"]], ensure_ascii=False)
    tokens = [t["content"] for t in backend["added_tokens"] if t["special"] or t["lstrip"] or t["rstrip"]]
    strings = sorted({*tokens, *beside}, key=len, reverse=True)
    pattern = re.compile(rf"\s*({'|'.join(map(re.escape, strings))})\s*") if strings else None

    def canonical(text: str) -> str:
        text = normal(text.replace(BLANK, " ") if blank else text)
        return pattern.sub(r"\1", text) if pattern else text

    return canonical


def same_text(tokenizer: Any) -> Callable[[str, str], bool]:
    """Return whether a decoded text is the text that was encoded, but for what the tokenizer itself is made to change.

    That is what `canonical_text` evens out, and a blank that it puts before the text.
    """
    canonical = canonical_text(tokenizer)

    def same(decoded: str, text: str) -> bool:
        if decoded == text:
            return True
        found, wanted = canonical(decoded), canonical(text)
        return found in (wanted, f" {wanted}")

    return same


def steps_of(content: dict[str, Any] | None, key: str) -> list[dict[str, Any]]:
    """Return the steps of a normalizer or pre-tokenizer, which may be one or a sequence."""
    if not content:
        return []
    return list(content[key]) if content["type"] == "Sequence" else [content]
