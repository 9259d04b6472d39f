"""Rebuild a GGUF file's tokenizer from its metadata, and compare it with llama.cpp's tokenizer on sample texts.

transformers also converts it, but loses the pre-tokenizer (which splits digits or words before merging), marks the
model as byte-fallback, and may choose a different end-of-turn token from the one in the file. llama.cpp then aborts
on the file converted from such a checkpoint. Formats: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ..llama import Model
from ..tokenizers.comparison import SAMPLE_TEXTS, encoder, ids_difference
from ..tokenizers.loader import set_space_prefix

NORMAL, CONTROL, USER_DEFINED = 1, 3, 4  # gguf.TokenType
BLANK = "\u2581"  # SentencePiece's space marker
SPECIAL = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}
# how text is split before merging, by tokenizer.ggml.pre; the expressions come from the models' tokenizers
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
EXPRESSIONS = {"llama-bpe": WORDS % r"\p{N}{1,3}", "llama3": WORDS % r"\p{N}{1,3}", "qwen2": WORDS % r"\p{N}"}
DIGITS_ALONE = frozenset({"smollm", "starcoder", "refact", "command-r"})
GPT2 = frozenset({"gpt-2", "default"})


def fields_of(path: Path) -> dict[str, Any]:
    """Return the tokenizer metadata, by name without prefix, and the chat template."""
    prefix = "tokenizer.ggml."
    fields = gguf.GGUFReader(path).fields
    found = {name.removeprefix(prefix): f.contents() for name, f in fields.items() if name.startswith(prefix)}
    template = fields.get("tokenizer.chat_template")
    return {**found, "chat_template": template.contents() if template else None}


def load(path: Path) -> Any:
    """Return the tokenizer. Exits with a one-line message if its type is unknown or llama.cpp's ids differ."""
    fields = fields_of(path)
    tokens: list[str] = fields["tokens"]
    named = {ours: tokens[fields[theirs]] for ours, theirs in SPECIAL.items() if theirs in fields}
    if fields["model"] == "gpt2":
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=_byte_level(fields), **named)
    elif fields["model"] == "llama":
        prefix = bool(fields.get("add_space_prefix", True))
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=_sentencepiece(fields, prefix), **named)
        set_space_prefix(tokenizer, prefix)
    else:
        raise SystemExit(
            f"its tokenizer model '{fields['model']}' is not supported: use the original checkpoint instead"
        )
    kinds = list(zip(tokens, fields["token_type"], strict=True))
    special = [token for token, kind in kinds if kind == CONTROL]
    tokenizer.add_special_tokens({**named, "extra_special_tokens": special})
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token, kind in kinds if kind == USER_DEFINED])
    tokenizer.chat_template = fields["chat_template"]
    if len(tokenizer) != len(tokens):
        raise SystemExit(f"the rebuilt tokenizer has {len(tokenizer)} tokens, the file {len(tokens)}")
    compare(path, tokenizer)
    return tokenizer


def _byte_level(fields: dict[str, Any]) -> Tokenizer:
    """Return the file's byte-level BPE tokenizer (as in GPT-2)."""
    kind = fields.get("pre", "default")
    vocabulary = {token: i for i, token in enumerate(fields["tokens"])}
    merges = [tuple(merge.split(" ")) for merge in fields["merges"]]
    made = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=kind in ("llama-bpe", "llama3")))
    if kind in EXPRESSIONS:
        first: Any = pre_tokenizers.Split(Regex(EXPRESSIONS[kind]), behavior="isolated")
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    elif kind in DIGITS_ALONE:
        first = pre_tokenizers.Digits(individual_digits=True)
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    elif kind in GPT2:
        first, byte_level = None, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    else:
        raise SystemExit(f"its pre-tokenizer '{kind}' is not supported: use the original checkpoint instead")
    made.pre_tokenizer = pre_tokenizers.Sequence([first, byte_level]) if first else byte_level
    made.decoder = decoders.ByteLevel()
    return made


def _sentencepiece(fields: dict[str, Any], prefix: bool) -> Tokenizer:
    """Return the file's BPE tokenizer with byte fallback (as in SentencePiece); `prefix` prepends a space.

    SentencePiece and llama.cpp merge the pair that forms the highest-scoring piece. So every split of a piece into
    two is a merge, ranked by the piece's score.
    """
    tokens, scores, kinds = fields["tokens"], fields["scores"], fields["token_type"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    pieces = [i for i, kind in enumerate(kinds) if kind == NORMAL]
    merges = [
        (token[:at], token[at:])
        for token in (tokens[i] for i in sorted(pieces, key=lambda i: -scores[i]))
        for at in range(1, len(token))
        if token[:at] in vocabulary and token[at:] in vocabulary
    ]
    unknown = tokens[fields["unknown_token_id"]] if "unknown_token_id" in fields else None
    made = Tokenizer(models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    first = [normalizers.Prepend(BLANK)] if prefix else []
    made.normalizer = normalizers.Sequence([*first, normalizers.Replace(" ", BLANK)])
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    made.decoder = decoders.Sequence([decoders.Replace(BLANK, " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    return made


def compare(path: Path, tokenizer: Any) -> None:
    """Exit with a one-line message if the tokenizer and llama.cpp produce different ids for a sample text."""
    special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    with Model.open(path, vocab_only=True) as model:
        for text in (*SAMPLE_TEXTS, "a".join(special)):
            ids = model.tokenize(text, add_special=False, parse_special=True)
            if difference := ids_difference(text, encoder(tokenizer)(text), ids):
                raise SystemExit(f"the rebuilt tokenizer and llama.cpp's produce different ids for {difference}")
