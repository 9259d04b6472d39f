"""Damaged or mismatched files of a base or of the data are reported in one line, without a traceback."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from burnish.bases import embeddings
from burnish.bases.base import Base, BaseError, resolve
from burnish.chat import ChatError, ChatTemplate, from_tokenizer, load_template
from burnish.config import ConfigError
from burnish.data.files import DataError
from burnish.data.formats import Example, Message
from burnish.errors import UserError
from burnish.tokenizers.loader import TokenizerError, load
from tests.support.tokenizers import byte_level, configure
from train.data import mask
from train.data import template as templates
from train.data.mask import Codec, Row, build
from train.data.prepare import prepare
from train.data.sources import read_sources
from train.data.vocabulary import UnknownIds, check_vocabulary, embedded
from train.settings import TrainSettings

CHATML = load_template("chatml")
CHATS = [
    {"messages": [{"role": "user", "content": f"q {i}"}, {"role": "assistant", "content": f"a {i}"}]} for i in "abc"
]
TEXTS = [{"text": f"some text {i}"} for i in "abc"]


def written(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def settings(data: str, base: str = "nowhere/base", **more: Any) -> TrainSettings:
    return TrainSettings.model_validate({"base": {"id": base}, "data": {"path": data, **more}})


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", ['{"a": ', "", "[]", "[" * 100_000])
def test_invalid_json_file_of_the_base_is_named(tmp_path: Path, name: str, content: str) -> None:
    save_file({"a": np.ones(1)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / name).write_text(content)
    with pytest.raises(BaseError) as caught:
        resolve(str(tmp_path))
    (fault,) = caught.value.faults
    assert str(tmp_path / name) in fault
    assert "\n" not in fault


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"\xff\xfe{}", b'{"model": {"type": "BPE"}}', b"version https://x"]
)
def test_damaged_tokenizer_json_is_a_one_line_error(tmp_path: Path, content: bytes) -> None:
    directory = byte_level(tmp_path / "base")
    (directory / "tokenizer.json").write_bytes(content)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: the tokenizer can't be read: \S+") as caught:
        load(directory)
    assert len(caught.value.faults) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"eos_token": 7},
        {"extra_special_tokens": [1]},
        {"added_tokens_decoder": {"x": 1}},
        {"chat_template": [{"nam": "x"}]},
        {"model_max_length": "x"},
    ],
)
def test_tokenizer_config_that_breaks_transformers_is_a_one_line_error(tmp_path: Path, change: Any) -> None:
    directory = byte_level(tmp_path / "base")
    path = directory / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises((TokenizerError, ValueError)) as caught:
        load(directory)
    assert isinstance(caught.value, TokenizerError)
    assert "tokenizer_config.json" in str(caught.value)


def test_base_without_tokenizer_files_gets_advice(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(TokenizerError, match=r"has no tokenizer\.json.*add the model's own"):
        load(tmp_path)


def test_base_with_several_chat_templates_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("train.data.vocabulary.CONVERTER", tmp_path / "none")
    directory = byte_level(tmp_path / "base")
    shutil.copyfile(directory / "tokenizer_config.json", directory / "config.json")
    path = directory / "tokenizer_config.json"
    several = [{"name": "default", "template": CHATML}, {"name": "tool_use", "template": "x"}]
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": several}))
    tokenizer = load(directory)
    base = Base("x", None, directory, "")
    assert check_vocabulary(tokenizer, base, [Example(1, None, "The boat")], None, templates.codec(tokenizer)) == []
    template = from_tokenizer(tokenizer, "2026-01-01")
    assert template is not None
    assert template.source == CHATML


def test_tokenizer_that_rewrites_text_causes_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tokenizers import normalizers

    monkeypatch.setattr("train.data.vocabulary.CONVERTER", tmp_path / "none")
    steps = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    directory = byte_level(tmp_path / "base", normalizer=steps)
    shutil.copyfile(directory / "tokenizer_config.json", directory / "config.json")
    tokenizer = load(directory)
    base, codec = Base("x", None, directory, ""), templates.codec(tokenizer)
    (warning,) = check_vocabulary(tokenizer, base, [Example(1, None, "the Boat")], None, codec)
    assert "'the Boat' becomes 'the boat'" in warning
    assert check_vocabulary(tokenizer, base, [Example(1, None, "cafe\u0301")], None, codec) == []


def test_malformed_template_is_a_one_line_error(tmp_path: Path) -> None:
    with pytest.raises(ChatError, match="chat_template: expected a string, got int"):
        from_tokenizer(SimpleNamespace(chat_template=7), "2026-01-01")
    base = settings(written(tmp_path / "x.jsonl", CHATS)).base
    with pytest.raises(ChatError, match="line 1: Expected an expression"):
        templates.require(ChatTemplate("{% for %}", "2026-01-01"), base)


def test_byte_order_mark_of_a_template_file_is_not_rendered(tmp_path: Path) -> None:
    (tmp_path / "t.jinja").write_bytes(b"\xef\xbb\xbf" + CHATML.encode())
    assert load_template(str(tmp_path / "t.jinja")) == CHATML


def check_ids(rows: list[Row], tokenizer: Any, base: Base, dropped: Sequence[str] = ()) -> None:
    unknown = UnknownIds(embeddings.rows(base.path), dropped)
    for row in rows:
        unknown.add(row)
    unknown.raise_any(tokenizer, base, "x.jsonl")


def test_token_id_beyond_the_embeddings_is_rejected_with_its_row(tmp_path: Path) -> None:
    directory = byte_level(tmp_path / "base")
    tokenizer = load(directory)
    size = len(tokenizer)
    tokenizer.add_tokens(["<extra>"])
    rows = build([Example(n, None, text) for n, text in ((1, "a"), (2, "b <extra>"))], None, templates.codec(tokenizer))
    base = Base("x", None, directory, "")
    for config, refused in (
        ({"vocab_size": size}, True),
        ({"text_config": {"vocab_size": size + 1}}, False),
        ({}, False),
    ):
        (directory / "config.json").write_text(json.dumps(config))
        if not refused:
            check_ids(rows, tokenizer, base)
            continue
        with pytest.raises(ConfigError, match=rf"x\.jsonl: line 2: the token '<extra>' has id {size}.*{size} tok"):
            check_ids(rows, tokenizer, base)


@pytest.mark.parametrize(("data", "heldout"), [(CHATS, TEXTS), (TEXTS, CHATS)])
def test_eval_file_of_a_different_kind_is_rejected(tmp_path: Path, data: list[Any], heldout: list[Any]) -> None:
    one, other = written(tmp_path / "x.jsonl", data), written(tmp_path / "eval.jsonl", heldout)
    with pytest.raises(DataError, match=r"eval\.jsonl: its rows are .*use rows of the same kind"):
        read_sources(settings(one, eval_path=other).data)


@pytest.mark.parametrize("key", ["path", "eval_path"])
def test_empty_directory_and_missing_file_are_distinguished(tmp_path: Path, key: str) -> None:
    data = written(tmp_path / "x.jsonl", CHATS)
    (empty := tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: no data files found \(empty\)"):
        read_sources((settings(**{"data": data, key: str(empty)}) if key != "path" else settings(str(empty))).data)
    with pytest.raises(DataError, match=rf"data\.{key} nowhere: no such file"):
        prepare(settings(data, **{key: "nowhere"}) if key != "path" else settings("nowhere"))


@pytest.mark.parametrize("base", ["./nothing", "lacks-weights", "other-architecture"])
def test_untrainable_base_is_rejected_before_rows_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: str
) -> None:
    monkeypatch.setattr("train.data.prepare.read_sources", lambda *_: pytest.fail("the rows were read"))
    for name in ("lacks-weights", "other-architecture"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text('{"model_type": "frobnicator"}')
    save_file({"a": np.ones(1)}, tmp_path / "other-architecture" / "model.safetensors")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"base\.id \S+: .*(no such file|not a model|does not know the architecture)"):
        prepare(settings(written(tmp_path / "x.jsonl", CHATS), base if base[0] == "." else str(tmp_path / base)))


def test_hub_base_is_checked_before_rows_are_read_and_weights_download_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[str] = []

    def download(repo: str, revision: str | None, patterns: Sequence[str], tries: int = 1) -> Path:
        fetched.extend(patterns)
        (tmp_path / "config.json").write_text('{"model_type": "llama"}')
        return tmp_path

    monkeypatch.setattr("burnish.hub.download", download)
    bad = written(tmp_path / "x.jsonl", [7])
    with pytest.raises(DataError):
        prepare(settings(bad, "them/base"))
    assert "*.json" in fetched and not any("safetensors" in pattern for pattern in fetched)


def test_special_strings_are_indexed_once_for_all_rows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    codec = templates.codec(load(byte_level(tmp_path / "base")))
    made: list[int] = []
    chat = Codec.chat
    monkeypatch.setattr(mask.Codec, "chat", lambda self, template: made.append(1) or chat(self, template))
    source = "{% for m in messages %}<s>{{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}<s>{% endif %}"
    messages = (Message("user", "q"), Message("assistant", "a"))
    build([Example(n, messages) for n in range(50)], ChatTemplate(source, "2026-01-01"), codec)
    assert len(made) == 1


def test_added_token_without_an_embedding_is_not_saved(tmp_path: Path) -> None:
    directory = byte_level(tmp_path / "base")
    size = len(load(directory))
    written_tokenizer = json.loads((directory / "tokenizer.json").read_text())
    more = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    written_tokenizer["added_tokens"].append({"id": size, "content": "<pad>", **more})
    (directory / "tokenizer.json").write_text(json.dumps(written_tokenizer))
    configure(directory, "LlamaTokenizerFast", pad_token="<pad>")
    (directory / "config.json").write_text(json.dumps({"vocab_size": size}))
    base, tokenizer = Base("x", None, directory, ""), load(directory)
    assert len(tokenizer) == size + 1
    kept, dropped, (warning,) = embedded(tokenizer, base)
    assert (len(kept), dropped, kept.pad_token) == (size, ["<pad>"], None)
    assert f"'<pad>' (id {size})" in warning and "not saved" in warning
    assert kept("the boat").input_ids == tokenizer("the boat").input_ids
    rows = build([Example(n, None, text) for n, text in ((1, "a"), (2, "b <pad>"))], None, templates.codec(kept))
    check_ids(rows[:1], kept, base, dropped)
    with pytest.raises(ConfigError, match=r"x\.jsonl: line 2: the token '<pad>' has no embedding"):
        check_ids(rows, kept, base, dropped)
    (directory / "config.json").write_text(json.dumps({"vocab_size": 2}))
    with pytest.raises(ConfigError, match="its eos_token '</s>' has id 2"):
        embedded(tokenizer, base)
