"""Compare tokenizers: the ids for the same texts, and whether decoding restores a text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, normalizers

# a tokenizer's substitute for a space, which does not change the text; llama.cpp uses it too
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
    """Return how the ids from transformers' AutoTokenizer for `directory` differ from `expected`, or ""."""
    from transformers import AutoTokenizer

    read = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    return first_difference(encoder(read), expected, texts)


def encoder(tokenizer: Any, special: bool = False) -> Callable[[str], list[int]]:
    """Return a transformers tokenizer's text -> ids function; `special` adds BOS and EOS as configured."""
    return lambda text: list(tokenizer(text, add_special_tokens=special, verbose=False).input_ids)


def plain_encoder(tokenizer: Tokenizer) -> Callable[[str], list[int]]:
    """Return the text -> ids function for a tokenizers-library tokenizer, without BOS and EOS."""
    return lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids)


def sample_texts(tokenizer: Any, known: Callable[[str], bool] = bool) -> tuple[str, ...]:
    """Return the sample texts, plus one with the tokenizer's `known` special tokens."""
    named = [token for token in dict.fromkeys(tokenizer.all_special_tokens) if token and known(token)][:32]
    return (*SAMPLE_TEXTS, "".join(f"{token}word {token} " for token in named)) if named else SAMPLE_TEXTS


def first_difference(
    found: Callable[[str], list[int]], expected: Callable[[str], list[int]], texts: Sequence[str]
) -> str:
    """Return the first text and token where two encoders differ, or ""."""
    for text in texts:
        if difference := ids_difference(text, found(text), expected(text)):
            return difference
    return ""


def ids_difference(text: str, found: list[int], expected: list[int]) -> str:
    """Return where two lists of ids for the same text differ, or ""."""
    if found == expected:
        return ""
    pairs = enumerate(zip(found, expected, strict=False))
    at = next((i for i, (a, b) in pairs if a != b), min(len(found), len(expected)))
    shown = text if len(text) <= 40 else f"{text[:40]}…"
    return f"{shown!r} at token {at}: expected {expected[at : at + 3]}, got {found[at : at + 3]}"


def normalizer(tokenizer: Any) -> Callable[[str], str]:
    """Return the tokenizer's text normalization (NFC, lower case ...) as a function.

    Replacing spaces with another character is left out: it does not change the text, and llama.cpp does it too.
    llama.cpp does not compose accents.
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
    """Return a function that maps texts which the tokenizer cannot distinguish to the same text.

    It applies the normalizer and strips whitespace around special tokens that strip it and around the given strings.
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
    """Return a function that compares a decoded text with the original, ignoring the tokenizer's intended changes.

    These are the differences that `canonical_text` removes, and a prepended space.
    """
    canonical = canonical_text(tokenizer)

    def same(decoded: str, text: str) -> bool:
        if decoded == text:
            return True
        found, wanted = canonical(decoded), canonical(text)
        return found in (wanted, f" {wanted}")

    return same


def steps_of(content: dict[str, Any] | None, key: str) -> list[dict[str, Any]]:
    """Return the steps in a normalizer or pre-tokenizer, which may be a single step or a sequence."""
    if not content:
        return []
    return list(content[key]) if content["type"] == "Sequence" else [content]
