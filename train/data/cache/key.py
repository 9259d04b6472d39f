"""The cache key of prepared rows: everything that affects their ids and findings."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from burnish.chat import ChatTemplate
from burnish.children import ROOT
from burnish.files import text_sha256

from ...settings import DataSection
from ..mask import Codec
from ..text import Text

# settings that choose among prepared rows, or say where they are, but don't change them
LATER = frozenset({
    "path", "eval_path", "eval_overlap", "eval_split", "eval_rows", "max_length", "over_length", "assistant_only_loss",
    "packing", "dedupe", "cache_gib",
})  # fmt: skip
CODE = ("burnish/data", "burnish/dialects", "burnish/rendering", "burnish/tokenizers", "burnish/chat.py", "train/data")
LIBRARIES = ("tokenizers", "transformers", "jinja2", "numpy", "pyarrow")
CLOCK = "strftime_now"


def rows_key(content: str, path: str, format: str, data: DataSection, text: Text, embeddings: int | None) -> str:
    """Return the key of a file's rows; `content` is the sha256 of the file, `embeddings` the base's number of them."""
    settings = {key: value for key, value in data.model_dump(mode="json").items() if key not in LATER}
    return digest(
        {
            "content": content,
            "suffixes": Path(path).suffixes,
            "format": format,
            "settings": settings,
            "template": _template(text.template),
            "tokenizer": _tokenizer(text.tokenizer, text.codec),
            "embeddings": [embeddings, text.dropped_tokens],
            "code": code_sha256(),
            "versions": [sys.version, *map(_version, LIBRARIES)],
        }
    )


def digest(parts: Mapping[str, Any]) -> str:
    """Return 32 hex digits for parts that JSON can represent."""
    return text_sha256(json.dumps(parts, sort_keys=True, default=repr))[:32]


@cache
def code_sha256() -> str:
    """Return one sha256 over the source code that prepares rows."""
    sha256 = hashlib.sha256()
    for name in CODE:
        place = ROOT / name
        for path in [place] if place.is_file() else sorted(place.rglob("*.py")):
            sha256.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return sha256.hexdigest()


def _template(template: ChatTemplate | None) -> Any:
    if template is None:
        return None
    date = template.date if CLOCK in template.source else ""
    variables = json.dumps(dict(template.variables), default=repr)  # in their order, which a template can see
    return [template.source, date, dict(template.special_tokens), variables, repr(template.shape)]


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return ""


def _tokenizer(tokenizer: Any, codec: Codec) -> list[Any]:
    found = codec.dialects
    return [
        type(tokenizer).__name__,
        text_sha256(tokenizer.backend_tokenizer.to_str()),
        sorted(codec.terminators),
        sorted(codec.end_ids),
        codec.bos,
        codec.eos,
        codec.reading,
        sorted(codec.vocabulary.specials.items()),
        [found.dialect.name if found.dialect else None, found.thoughts.name if found.thoughts else None, found.end],
    ]
