"""A checkpoint's number of embeddings, from config.json and from the weight headers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .weights import examine

# names of the input embedding matrix in transformers models
NAMES = (
    "embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight", "tok_embeddings.weight",
    "backbone.embeddings.weight",
)  # fmt: skip
Shapes = dict[str, tuple[int, ...]]


def rows(directory: Path) -> int | None:
    """Return the number of embeddings from the header, else from config.json; None if neither contains it."""
    stored = stored_rows(examine(directory).shapes)
    return stored[1] if stored else configured_rows(read_config(directory))


def read_config(directory: Path) -> dict[str, Any]:
    """Return the contents of config.json."""
    config: dict[str, Any] = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    return config


def configured_rows(config: dict[str, Any]) -> int | None:
    """Return vocab_size from config.json; the text model's if there are several."""
    inner = config.get("text_config")
    size = (inner if isinstance(inner, dict) else {}).get("vocab_size", config.get("vocab_size"))
    return size if isinstance(size, int) else None


def stored_rows(shapes: Shapes) -> tuple[str, int] | None:
    """Return the embedding tensor's name and number of rows; None if it can't be identified."""
    found = [(name, shape[0]) for name, shape in shapes.items() if name.endswith(NAMES) and len(shape) == 2]
    return found[0] if len(found) == 1 else None


def fault(directory: Path, config: dict[str, Any], shapes: Shapes) -> str:
    """Return the error if config.json and the weights disagree on the number of tokens, else ""."""
    stored, configured = stored_rows(shapes), configured_rows(config)
    # custom model code may use vocab_size differently
    if stored is None or configured is None or stored[1] == configured or config.get("auto_map"):
        return ""
    return (
        f"{directory / 'config.json'}: vocab_size is {configured:,}, the weights' '{stored[0]}' has {stored[1]:,} rows:"
        " the files belong to different models; restore the one that was changed"
    )
