"""Rows longer than data.max_length: every command reports those dropped or truncated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from burnish.chat import ChatTemplate
from burnish.data.files import DataError
from burnish.data.formats import Example, Message
from burnish.tokenizers.loader import load
from tests.support.tokenizers import byte_level
from train.data import template as templates
from train.data.mask import MaskError, Row
from train.data.rows import RowMaker
from train.settings import DataSection


def made(tmp_path: Path, texts: list[str], **data: Any) -> list[Row]:
    codec = templates.codec(load(byte_level(tmp_path / "base")))
    examples = [Example(line, None, text) for line, text in enumerate(texts, start=1)]
    return RowMaker(None, codec, DataSection(path="x.jsonl", max_length=16, **data)).rows(examples, "x.jsonl")


def test_dropped_rows_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(made(tmp_path, ["a"] * 9 + ["b" * 99], over_length="drop")) == 9
    output = capsys.readouterr().err
    assert output == (
        "data: x.jsonl: 1 of 10 rows are longer than data.max_length 16: 1 dropped, 0 truncated"
        " (data.over_length drop)\n"
    )


def test_dropping_most_rows_causes_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(made(tmp_path, ["a", "b" * 99, "c" * 99], over_length="drop")) == 1
    assert capsys.readouterr().err.startswith("warning: data: x.jsonl: 2 of 3 rows are longer")


def test_truncated_rows_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(made(tmp_path, ["a", "b" * 99], over_length="truncate")) == 2
    assert ": 0 dropped, 1 truncated (data.over_length truncate)" in capsys.readouterr().err
    made(tmp_path, ["a"], over_length="drop")
    assert capsys.readouterr().err == ""
    with pytest.raises(DataError, match="every row is longer than data.max_length 16"):
        made(tmp_path, ["b" * 99], over_length="drop")


@pytest.mark.parametrize("good", [False, True])
def test_template_that_fits_no_row_is_reported_early(tmp_path: Path, good: bool) -> None:
    codec = templates.codec(load(byte_level(tmp_path / "base")))
    endless = ChatTemplate("{% for m in messages %}{{ m.content }}{% endfor %}", "2026-01-01")
    chat = (Message("user", "q"), Message("assistant", "a"))
    examples = [Example(line, chat) for line in range(1, 400)]
    if good:
        examples[50] = Example(51, None, "a text")
    with pytest.raises(MaskError) as caught:
        RowMaker(endless, codec, DataSection(path="x.jsonl")).rows(examples, "x.jsonl")
    (fault,) = caught.value.faults
    looked = "none of the first 100 rows can be trained, so the other 299 were not checked"
    assert (looked in fault, "the same in 398 rows" in fault) == (not good, good)
