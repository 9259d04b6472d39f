"""Rows longer than data.max_length: every command reports those dropped or truncated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from burnish.bases.base import Base
from burnish.chat import ChatTemplate
from burnish.data.files import DataError
from burnish.tokenizers.loader import load
from tests.support.tokenizers import byte_level
from train.data import template as templates
from train.data.cache.rows import Rows
from train.data.cache.shelf import Shelf
from train.data.cache.store import Store
from train.data.mask import MaskError
from train.data.sources import open_rows
from train.data.split.fit import fit
from train.data.stream.file import file_rows
from train.data.text import Text
from train.settings import DataSection


def text(tmp_path: Path, template: ChatTemplate | None = None) -> Text:
    tokenizer = load(byte_level(tmp_path / "base"))
    (tmp_path / "base" / "config.json").write_text("{}")
    base = Base("x", None, tmp_path / "base", "")
    return Text(base=base, tokenizer=tokenizer, codec=templates.codec(tokenizer), template=template)


def store(tmp_path: Path, values: list[Any], text: Text, data: DataSection) -> Store:
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    shelf = Shelf(1 << 30, tmp_path / "rows")
    return file_rows(open_rows(str(path), data), path.read_text(), text, data, shelf)


def made(tmp_path: Path, texts: list[str], **data: Any) -> Rows:
    section = DataSection(path="x.jsonl", max_length=16, **data)
    found = store(tmp_path, [{"text": text} for text in texts], text(tmp_path), section)
    fitting = fit(found, section, "x.jsonl")
    return fitting.rows(fitting.examples)


def test_dropped_rows_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(made(tmp_path, ["a"] * 9 + ["b" * 99], over_length="drop")) == 9
    output = capsys.readouterr().err
    assert output.endswith(
        "data: x.jsonl: 1 of 10 rows are longer than data.max_length 16: 1 dropped, 0 truncated"
        " (data.over_length drop)\n"
    )


def test_dropping_most_rows_causes_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(made(tmp_path, ["a", "b" * 99, "c" * 99], over_length="drop")) == 1
    assert "\nwarning: data: x.jsonl: 2 of 3 rows are longer" in capsys.readouterr().err


def test_truncated_rows_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(made(tmp_path, ["a", "b" * 99], over_length="truncate")) == 2
    assert ": 0 dropped, 1 truncated (data.over_length truncate)" in capsys.readouterr().err
    made(tmp_path, ["a"], over_length="drop")
    assert "longer than" not in capsys.readouterr().err
    with pytest.raises(DataError, match="every row is longer than data.max_length 16"):
        made(tmp_path, ["b" * 99], over_length="drop")


@pytest.mark.parametrize("good", [False, True])
def test_template_that_fits_no_row_is_reported_early(tmp_path: Path, good: bool) -> None:
    source = "{% for m in messages %}{{ m.content }}{% if m.content == 'good' %}</s>{% endif %}{% endfor %}"
    chats = [[{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}] for _ in range(399)]
    if good:
        chats[50][1]["content"] = "good"
    data, endless = DataSection(path="x.jsonl"), ChatTemplate(source, "2026-01-01")
    with pytest.raises(MaskError) as caught:
        store(tmp_path, [{"messages": chat} for chat in chats], text(tmp_path, endless), data)
    (fault,) = caught.value.faults
    looked = "none of the first 100 rows can be trained, so the others were not checked"
    assert (looked in fault, "the same in 398 rows" in fault) == (not good, good)
