"""Tokens without an embedding, which were added to a base's tokenizer without resizing its embeddings.

If saved, they would make the merged model unconvertible and prevent a server from starting.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from . import loader

FILES = (loader.CONFIG, "special_tokens_map.json")


def unembedded(tokenizer: Any, rows: int) -> dict[str, int]:
    """Return the tokens whose ids are beyond the embeddings, by text."""
    return {text: i for text, i in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]) if i >= rows}


def without_unembedded(tokenizer: Any, rows: int) -> Any:
    """Return the tokenizer without added tokens that lack an embedding; tokens in the tokenizer's model stay.

    Raises TokenizerError if the BOS or EOS token lacks an embedding.
    """
    dropped = {token.content for i, token in tokenizer.added_tokens_decoder.items() if i >= rows}
    if not dropped:
        return tokenizer
    for name in ("bos_token", "eos_token"):
        if (text := getattr(tokenizer, name)) in dropped:
            raise loader.TokenizerError(
                f"its {name} {text!r} has id {tokenizer.convert_tokens_to_ids(text)}, but there are embeddings for only"
                f" {rows:,} tokens: set another token in {loader.CONFIG}, or resize the embeddings"
            )
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        loader.save(tokenizer, directory)
        path = directory / loader.TOKENIZER
        content = json.loads(path.read_text(encoding="utf-8"))
        content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] not in dropped]
        path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        for path in (directory / name for name in FILES if (directory / name).is_file()):
            content = json.loads(path.read_text(encoding="utf-8"))
            path.write_text(json.dumps(_without(content, dropped), ensure_ascii=False), encoding="utf-8")
        return loader.load(directory)


def _without(content: dict[str, Any], dropped: set[str]) -> dict[str, Any]:
    """Return the configuration with the dropped tokens removed from the special tokens."""
    kept: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, list):
            kept[key] = [item for item in value if _text(item) not in dropped]
        elif isinstance(value, dict) and "content" not in value:
            kept[key] = {name: item for name, item in value.items() if _text(item) not in dropped}
        elif key.endswith("_token") and _text(value) in dropped:
            continue
        else:
            kept[key] = value
    return kept


def _text(token: Any) -> str | None:
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) else None
