"""Write tokenizer.model for a SentencePiece-style tokenizer.json; llama.cpp's converter reads scores from it.

Without that file the converter assigns every piece the same score, and llama.cpp merges in a different order from the
trained tokenizer. Format: https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

BYTE = re.compile(r"<0x[0-9A-F]{2}>")
BYTES = 256
BPE = 2  # TrainerSpec.ModelType
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE_PIECE = 1, 2, 3, 4, 6  # SentencePiece.Type


def is_spm(content: dict[str, Any]) -> bool:
    """Return whether a tokenizer.json is character-level BPE with byte fallback, as in SentencePiece.

    llama.cpp aborts on a byte without a token, so all 256 byte tokens are required.
    """
    model = content["model"]
    if model.get("type") != "BPE" or not model.get("byte_fallback"):
        return False
    return sum(bool(BYTE.fullmatch(token)) for token in model["vocab"]) == BYTES


def scores(content: dict[str, Any]) -> dict[str, float]:
    """Return each piece's score: higher scores merge earlier. Pieces that no merge produces get the lowest scores."""
    made: dict[str, float] = {}
    for rank, merge in enumerate(content["model"]["merges"]):
        made.setdefault("".join(merge if isinstance(merge, list) else merge.split(" ", 1)), -float(rank))
    last = -float(len(content["model"]["merges"]))
    return {piece: made.get(piece, last) for piece in content["model"]["vocab"]}


def write_spm(content: dict[str, Any], path: Path) -> bool:
    """Write a SentencePiece model from tokenizer.json's contents; for other types return False without writing."""
    if not is_spm(content):
        return False
    from sentencepiece import sentencepiece_model_pb2 as proto

    added = {token["id"]: token for token in content["added_tokens"]}
    ids = {i: piece for piece, i in content["model"]["vocab"].items()} | {i: t["content"] for i, t in added.items()}
    score, unknown = scores(content), content["model"].get("unk_token")
    made = proto.ModelProto()
    for i in range(max(ids) + 1):
        piece = ids.get(i, f"[PAD{i}]")
        made.pieces.add(piece=piece, score=score.get(piece, 0.0), type=_type(piece, added.get(i), unknown))
    made.trainer_spec.model_type, made.trainer_spec.byte_fallback = BPE, True
    made.trainer_spec.vocab_size = len(made.pieces)
    made.trainer_spec.unk_id = next((i for i, piece in ids.items() if piece == unknown), -1)
    made.normalizer_spec.name, made.normalizer_spec.remove_extra_whitespaces = "identity", False
    path.write_bytes(made.SerializeToString())
    return True


def _type(piece: str, added: dict[str, Any] | None, unknown: str | None) -> int:
    if piece == unknown:
        return UNKNOWN
    if added:
        return CONTROL if added["special"] else USER_DEFINED
    return BYTE_PIECE if BYTE.fullmatch(piece) else NORMAL
