"""Check before the first step that the saved tokenizer produces the trained ids in transformers and llama.cpp.

A run whose prompts llama.cpp tokenizes differently can't pass the export's prompt parity, so it is refused here.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any
from unicodedata import normalize

from burnish.bases import embeddings
from burnish.bases.base import Base
from burnish.chat import ChatTemplate
from burnish.config import ConfigError
from burnish.console import say
from burnish.data.formats import Example
from burnish.files import cache_root, write_atomic
from burnish.tokenizers import comparison
from burnish.tokenizers import loader as tokenizers
from burnish.tokenizers.embedded import unembedded, without_unembedded
from burnish.tokenizers.llama_cpp import CONVERTER, Unconvertible, VocabularyError, for_converter, ids_by_llama_cpp
from burnish.tokenizers.loader import TokenizerError

from .mask import Codec, Row

MOST_TEXTS, MOST_CHARACTERS = 64, 200_000
MOST_NAMED = 3
MOST_KEPT = 1000  # unknown tokens that are kept to be named
WORDING = b"4"  # increment when warnings change, to invalidate cached ones
LIBRARIES = ("transformers", "tokenizers")


def check_vocabulary(
    tokenizer: Any, base: Base, examples: Sequence[Example], template: ChatTemplate | None, codec: Codec
) -> list[str]:
    """Save the tokenizer temporarily, load it as other programs do, and compare ids for first rows and sample texts.

    Raises ConfigError if rows differ, since no export could then pass. Returns warnings if only sample texts differ or
    llama.cpp's converter does not support the tokenizer. The result is cached.
    """
    texts = _texts(examples, template)
    rows, changed = [codec.normalise(text) for text in texts], _changed(texts, base, codec)
    prefix = tokenizers.space_prefix(tokenizer, _opens_special(rows, tokenizer))
    if prefix is not None:
        tokenizers.set_space_prefix(tokenizer, prefix)
    with tempfile.TemporaryDirectory() as name:
        saved = Path(name)
        tokenizers.save(tokenizer, saved)
        config = for_converter(embeddings.read_config(base.path))
        (saved / "config.json").write_text(json.dumps(config), encoding="utf-8")
        cached = cache_root() / "vocabularies" / f"{_digest(saved, rows)}.json"
        if cached.is_file():
            warnings: list[str] = json.loads(cached.read_text(encoding="utf-8"))
            return [*changed, *warnings]
        probes = [codec.normalise(text) for text in comparison.sample_texts(tokenizer)]
        if difference := comparison.reload_difference(saved, codec.encode, [*rows, *probes]):
            raise ConfigError(
                f"base.id {base.id}: its tokenizer, once saved, gives different ids in transformers and vLLM:"
                f" {difference}; the tuned model could not be served as it was trained"
            )
        if not CONVERTER.is_file():
            say("tokenizer: llama.cpp's converter is not installed: the export will compare llama.cpp's ids")
            return changed
        say("tokenizer: comparing llama.cpp's ids with training's (once for this base)")
        warnings = _llama_cpp(saved, base, rows, probes, codec)
    with suppress(OSError):  # without a writable cache, the next run repeats the comparison
        write_atomic(cached, json.dumps(warnings, ensure_ascii=False) + "\n")
    return [*changed, *warnings]


def _llama_cpp(saved: Path, base: Base, rows: list[str], probes: list[str], codec: Codec) -> list[str]:
    try:
        found = ids_by_llama_cpp(saved, [*rows, *probes])
    except OSError as error:
        return [f"llama.cpp's ids could not be compared with training's: {error}"]
    except Unconvertible as error:
        return [
            f"{error}: no GGUF can be made from a model trained on this base, and `make serve` needs one; training and"
            " the export's merged/ for transformers and vLLM are not affected"
        ]
    except VocabularyError as error:
        return [f"llama.cpp does not support this base's tokenizer, so its GGUF file could not be served: {error}"]
    texts = [*rows, *probes]
    differences = [comparison.ids_difference(t, i, codec.encode(t)) for t, i in zip(texts, found, strict=True)]
    if row := next(filter(None, differences[: len(rows)]), ""):
        raise ConfigError(
            f"base.id {base.id}: llama.cpp tokenizes rows of this data differently from the base's own tokenizer, so no"
            f" GGUF of this run could pass its exam: {row}"
        )
    if probe := next(filter(None, differences[len(rows) :]), ""):
        return [
            f"llama.cpp tokenizes some texts differently from the base's tokenizer (none of this data's first rows):"
            f" {probe}"
        ]
    return []


def _changed(texts: Sequence[str], base: Base, codec: Codec) -> list[str]:
    """Return a warning if the tokenizer rewrites texts (lower case, NFKC) other than by NFC; llama.cpp does not."""
    for text in texts:
        found, wanted = normalize("NFC", codec.normalise(text)), normalize("NFC", text)
        if found != wanted:
            at = next((i for i, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b), len(found))
            here = slice(max(0, at - 20), at + 20)
            return [
                f"base.id {base.id}: its tokenizer rewrites these texts ({wanted[here]!r} becomes {found[here]!r}), but"
                " llama.cpp does not: a GGUF reads prompts differently from training, unless clients send them"
                " rewritten"
            ]
    return []


def _texts(examples: Sequence[Example], template: ChatTemplate | None) -> list[str]:
    """Return the first rows as seen by the model (rendered chats, plain texts), limited in number and length."""
    texts: list[str] = []
    left = MOST_CHARACTERS
    for example in examples[:MOST_TEXTS]:
        if example.messages and template is not None:
            tools: dict[str, Any] = {"tools": list(example.tools)} if example.tools else {}
            text = template.render([m.to_dict() for m in example.messages], **tools)
        else:
            text = example.text or ""
        text = text[:left]
        texts.append(text)
        left -= len(text)
        if left <= 0:
            break
    return texts


def _opens_special(rows: Sequence[str], tokenizer: Any) -> bool:
    """Return whether the rows' text starts with a special token, as in rendered chats."""
    special = [token for token in tokenizer.get_added_vocab() if token.strip()]
    return any(row.startswith(tuple(special)) for row in rows[:1])


def _digest(saved: Path, rows: Sequence[str]) -> str:
    parts = [p.read_bytes() for p in sorted(saved.rglob("*")) if p.is_file()]  # several templates form a directory
    parts += [f"{name} {metadata.version(name)}".encode() for name in LIBRARIES]
    parts += [version.read_bytes() for version in (CONVERTER.parent / "VERSION",) if version.is_file()]
    parts += [WORDING]
    parts += [json.dumps(list(rows)).encode("utf-8", "surrogatepass")]
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:24]


def embedded(tokenizer: Any, base: Base) -> tuple[Any, list[str], list[str]]:
    """Return the tokenizer without added tokens that lack an embedding, the removed tokens, and a warning about them.

    Nothing is changed if neither config.json nor the weights give the number of embeddings.
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
        f"base.id {base.id}: its tokenizer has {len(lacking)} tokens without an embedding, beyond the base's {size:,}"
        f" ({shown}): rows that use one are refused, and"
        f" {'they are not saved' if whole else 'no GGUF can be made from such a base'}"
    )
    return kept, dropped, [warning]


class UnknownIds:
    """Tokens in rows, by id or by text, for which the base has no embedding. The findings of a file's parts add up.

    `size` is the number of embeddings (None: unknown, nothing is checked); `dropped` are the tokens that `embedded`
    removed from the tokenizer.
    """

    def __init__(self, size: int | None, dropped: Sequence[str] = ()) -> None:
        self.size, self.dropped = size, tuple(dropped)
        self.found: dict[int | str, str] = {}  # an id, or a text, with its first row
        parts = sorted(map(re.escape, self.dropped), key=len, reverse=True)
        self._pattern = re.compile("|".join(parts)) if parts else None

    def empty(self) -> UnknownIds:
        """Return a copy of the check without findings."""
        return UnknownIds(self.size, self.dropped)

    def add(self, row: Row) -> None:
        if self.size is None:
            return
        if max(row.input_ids) >= self.size:
            for i in row.input_ids:
                if i >= self.size:
                    self._note(i, row.example.where)
        if self._pattern:
            for _, text in row.example.texts():
                for found in self._pattern.findall(text):
                    self._note(found, row.example.where)

    def merge(self, other: UnknownIds) -> None:
        """Add the findings in the file's next rows."""
        for token, where in other.found.items():
            self._note(token, where)

    def raise_any(self, tokenizer: Any, base: Base, path: str) -> None:
        """Raise ConfigError with the tokens that were found."""
        faults = [
            f"{path}: {where}: the token {self._named(token, tokenizer)}, but base.id {base.id} has embeddings for"
            f" {self.size:,} tokens (vocab_size in config.json): remove it from the data, or use a base whose"
            " embeddings were resized to its tokenizer"
            for token, where in self.found.items()
        ]
        if faults:
            raise ConfigError(faults)

    @staticmethod
    def _named(token: int | str, tokenizer: Any) -> str:
        if isinstance(token, str):
            return f"{token!r} has no embedding"
        return f"{tokenizer.convert_ids_to_tokens(token)!r} has id {token}"

    def _note(self, token: int | str, where: str) -> None:
        if len(self.found) < MOST_KEPT:
            self.found.setdefault(token, where)
