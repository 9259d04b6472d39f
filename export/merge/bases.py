"""Choose the merge bases, and write a complete merged checkpoint: weights, config, tokenizer, end tokens.

`dequantized` is the base as loaded for training; `original` is the 16-bit base.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Literal

from burnish.console import Tick
from burnish.errors import UserError
from burnish.files import first_line, read_json
from burnish.records import TrainRecord
from burnish.tokenizers import loader as tokenizers

from ..settings import MergeSection
from .adapter_config import MergeError
from .dequantize import dequantizer
from .weights import CODE, merge

MERGED = "merged"
# exact names, so that no other adapter files and no Python code are copied
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json",
    "chat_template.jinja", "vocab.json", "vocab.txt", "merges.txt", "spiece.model", "sentencepiece.bpe.model",
)  # fmt: skip

MergeBase = Literal["dequantized", "original"]


def merge_bases(setting: str, record: TrainRecord) -> tuple[list[MergeBase], str]:
    """Return the bases to merge onto, and the reason if there is only one."""
    if setting == "original":
        return ["original"], "set by merge.base"
    if record.quantization == "none":
        return ["original"], "the base was not quantized in training"
    if setting == "dequantized":
        return ["dequantized"], "set by merge.base"
    return ["dequantized", "original"], ""


def merge_onto(
    base: Path, adapter: Path, target: Path, record: TrainRecord, onto: MergeBase, settings: MergeSection, tick: Tick
) -> str:
    """Write the merged checkpoint into `target`, an empty directory; return the dtype of its weights.

    Raises MergeError if the adapter can't be merged onto this base.
    """
    as_trained = dequantizer(record) if onto == "dequantized" else None
    dtype = merge(base, adapter, target, as_trained, settings.dtype, settings.max_shard_bytes, tick)
    _copy_tokenizer(adapter, target, record)
    return dtype


def store_base(base: Path, adapter: Path, target: Path, record: TrainRecord, settings: MergeSection, tick: Tick) -> str:
    """Write the untuned base in 16 bits with the run's tokenizer and template; return the dtype of its weights.

    Raises MergeError if the run's tokenizer has tokens that the base lacks.
    """
    dtype = merge(base, adapter, target, None, settings.dtype, settings.max_shard_bytes, tick, tuned=False)
    _copy_tokenizer(adapter, target, record)
    return dtype


def without_code(path: Path) -> None:
    """Remove a configuration file's reference to the model's Python code, which is not copied."""
    content = read_json(path) if path.is_file() else {}
    if content.pop(CODE, None) is not None:
        path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _object(path: Path) -> dict[str, Any]:
    """Read a configuration; {} if it is missing."""
    content = read_json(path) if path.is_file() else {}
    if not isinstance(content, dict):
        raise MergeError(f"{path}: expected a JSON object, found {json.dumps(content)[:40]}")
    return content


def _copy_tokenizer(adapter: Path, target: Path, record: TrainRecord) -> None:
    """Copy the trained tokenizer and template, and configure the trained terminators as end tokens.

    An older version may have saved the tokenizer with a class that drops spaces, so it is saved again.
    """
    for name in TOKENIZER_FILES:
        if (adapter / name).is_file():
            shutil.copyfile(adapter / name, target / name)
    config = _object(adapter / tokenizers.CONFIG)
    without_code(target / tokenizers.CONFIG)
    try:
        tokenizer = tokenizers.load(target)
    except (UserError, ValueError, OSError) as error:
        raise MergeError(f"{adapter}: the adapter's tokenizer can't be loaded: {first_line(error)}") from None
    if config.get("tokenizer_class") != tokenizers.LABEL:
        tokenizers.save(tokenizer, target)
    path = target / "generation_config.json"
    content = read_json(path) if path.is_file() else {}
    eos = content.get("eos_token_id", tokenizer.eos_token_id)
    ends = [*(eos if isinstance(eos, list) else [eos]), *tokenizer.convert_tokens_to_ids(record.terminators)]
    content["eos_token_id"] = ends[0] if len(set(ends)) == 1 else list(dict.fromkeys(ends))
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
