"""How many tokens a checkpoint has embeddings for, by config.json and by the headers of its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .weights import examine

# what transformers' models call the matrix of input embeddings
NAMES = (
    "embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight", "tok_embeddings.weight",
    "backbone.embeddings.weight",
)  # fmt: skip
Shapes = dict[str, tuple[int, ...]]


def rows(directory: Path) -> int | None:
    """Return for how many tokens there are embeddings: the header's number, else config.json's; None: neither says."""
    stored = stored_rows(examine(directory).shapes)
    return stored[1] if stored else configured_rows(read_config(directory))


def read_config(directory: Path) -> dict[str, Any]:
    """Return config.json's object."""
    config: dict[str, Any] = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    return config


def configured_rows(config: dict[str, Any]) -> int | None:
    """Return config.json's vocab_size, the text model's where there are several."""
    inner = config.get("text_config")
    size = (inner if isinstance(inner, dict) else {}).get("vocab_size", config.get("vocab_size"))
    return size if isinstance(size, int) else None


def stored_rows(shapes: Shapes) -> tuple[str, int] | None:
    """Return the embeddings' tensor and its rows; None where it isn't known which tensor that is."""
    found = [(name, shape[0]) for name, shape in shapes.items() if name.endswith(NAMES) and len(shape) == 2]
    return found[0] if len(found) == 1 else None


def fault(directory: Path, config: dict[str, Any], shapes: Shapes) -> str:
    """Say where config.json and the weights disagree on the number of tokens; nothing where they don't."""
    stored, configured = stored_rows(shapes), configured_rows(config)
    # a model with code of its own may mean something else by vocab_size
    if stored is None or configured is None or stored[1] == configured or config.get("auto_map"):
        return ""
    return (
        f"{directory / 'config.json'}: vocab_size is {configured:,}, the weights' '{stored[0]}' has {stored[1]:,} rows:"
        " the two files are not of one model; restore the one that was changed"
    )
