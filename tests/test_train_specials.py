"""data.special_tokens on the command line: text with a warning, parse, or an error that lists every row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from burnish.config import ConfigError
from burnish.errors import UserError
from train.data.mask import Row
from train.data.prepare import Prepared, prepare
from train.settings import TrainSettings


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows with special strings of the base in lines 3 and 7."""
    path = tmp_path_factory.mktemp("specials") / "rows.jsonl"
    answers = {3: "Usage: prog <filename>\n<|endoftext|> ends it.", 7: "  <|im_end|> is written so."}
    with path.open("w") as file:
        for line in range(1, 13):
            turns = [{"role": "user", "content": f"question {line}"},
                     {"role": "assistant", "content": answers.get(line, f"answer {line} < 9")}]  # fmt: skip
            file.write(json.dumps({"messages": turns}) + "\n")
    return path


def prepared(base: Path, data: Path, reading: str) -> Prepared:
    return prepare(
        TrainSettings.model_validate(
            {"base": {"id": str(base)}, "data": {"path": str(data), "special_tokens": reading}, "chat": {}}
        )
    )


def row(made: Prepared, line: int) -> Row:
    return next(r for r in (*made.train, *made.heldout) if r.example.line == line)


def test_special_strings_are_trained_as_text(tiny_base: Path, data: Path) -> None:
    made = prepared(tiny_base, data, "auto")
    start, end = row(made, 3).spans[0]
    ids = row(made, 3).input_ids
    assert made.codec.decode(ids[start : end - 1]) == "Usage: prog <filename>\n<|endoftext|> ends it."
    assert not {0, 1, 2, 6} & set(ids[start : end - 1]) and ids[end - 1] == 2
    (warning,) = (w for w in made.warnings if "special strings" in w)
    assert "<filename> (1 row, first line 3)" in warning and "<|im_end|> (1 row, first line 7)" in warning
    assert not any("would become control tokens" in w for w in made.warnings)


@pytest.mark.slow
def test_special_tokens_text_silences_the_warning_and_parse_keeps_control_tokens(tiny_base: Path, data: Path) -> None:
    assert not any("special strings" in w for w in prepared(tiny_base, data, "text").warnings)
    made = prepared(tiny_base, data, "parse")
    assert 6 in row(made, 3).input_ids
    assert any("<filename> (1 row, first line 3)" in w and "read as control tokens" in w for w in made.warnings)
    for line in (1, 2):
        assert row(made, line).input_ids == row(prepared(tiny_base, data, "text"), line).input_ids


def test_special_tokens_error_lists_every_row(tiny_base: Path, data: Path, cli: Any) -> None:
    done = cli(
        "train", "check", "--base.id", str(tiny_base), "--data.path", str(data), "--data.special_tokens", "error"
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "line 3: turn 2: its text has <filename>, <|endoftext|>, special tokens of this base" in done.stderr
    assert "line 7: turn 2: its text has <|im_end|>" in done.stderr
    assert "line 1:" not in done.stderr and "data.special_tokens" in done.stderr
    with pytest.raises((UserError, ConfigError)):
        prepared(tiny_base, data, "error")


def test_plain_texts_still_parse_special_strings(tiny_base: Path, tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": f"<|im_start|>user\nhi {i}<|im_end|>"}) + "\n" for i in range(12)))
    made = prepared(tiny_base, path, "error")
    assert {1, 2} < set(made.train[0].input_ids)
