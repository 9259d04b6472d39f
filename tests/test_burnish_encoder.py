"""The fast encoder gives exactly the tokenizer's ids for texts with any control tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from burnish.tokenizers.comparison import encoder
from burnish.tokenizers.encoder import Decoder, Encoder
from burnish.tokenizers.loader import load
from tests.support.tokenizers import byte_level, sentencepiece

PARTS = ["<|im_start|>", "<|im_end|>", "<s>", "</s>", "<", "|im_", "user\n", " ", "\n\n", "boats ", "é", "e\u0301", "9"]
TEXTS = st.lists(st.sampled_from(PARTS), max_size=12).map("".join)


def added(tokenizer: Any) -> Any:
    tokens = [AddedToken("<|im_start|>", special=True, normalized=False), AddedToken("<|im", normalized=False)]
    tokenizer.add_tokens([*tokens, AddedToken("<|im_end|>", special=True, normalized=False, rstrip=True)])
    return tokenizer


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory, base_tokenizer: Any) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("tokenizers")
    made = {"bytes": byte_level(root / "bytes"), "pieces": sentencepiece(root / "pieces")}
    return {name: added(load(path)) for name, path in made.items()} | {"own": base_tokenizer}


@pytest.mark.parametrize("name", ["own", "bytes", "pieces"])
@given(texts=st.lists(TEXTS, min_size=1, max_size=4))
@settings(max_examples=60)
def test_encoder_and_decoder_match_the_tokenizer(tokenizers: dict[str, Any], name: str, texts: list[str]) -> None:
    encode, whole = Encoder(tokenizers[name]), encoder(tokenizers[name])
    decode = Decoder(tokenizers[name])
    for text in (*texts, *texts):  # the second time from memory
        assert encode(text) == whole(text)
        own = tokenizers[name].decode(whole(text), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        assert decode(encode(text)) == own


def test_returned_ids_are_not_shared_with_the_cache(base_tokenizer: Any) -> None:
    encode = Encoder(base_tokenizer)
    encode("The boat").append(7)
    assert encode("The boat") == encoder(base_tokenizer)("The boat")


def test_encoder_memory_is_bounded(base_tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("burnish.tokenizers.encoder.MAX_REMEMBERED", 100)
    encode = Encoder(base_tokenizer)
    for number in range(200):
        encode(f"The boat {number} leaves at noon.")
    assert len(encode._ids) < 20


def test_text_is_not_cut_at_markers_that_overlap_others(tmp_path: Path) -> None:
    tokenizer = load(byte_level(tmp_path))
    tokenizer.add_tokens([AddedToken("x</s", normalized=False), AddedToken("</s>y", normalized=False)])
    encode, whole = Encoder(tokenizer), encoder(tokenizer)
    for text in ("x</s>", "x</s>y", "a</s>y</s>", "</s>x</s>"):
        assert encode(text) == whole(text)
