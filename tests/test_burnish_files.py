"""Line-based files: only \\n ends a line, in all product code."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.chat import ChatTemplate
from burnish.exam.rows import Exam, Question, SampleAnswer
from burnish.exam.scores import TOP, TopLogprobs
from burnish.files import first_line, last_line, read_jsonl, read_lines, split_lines, text_sha256
from tests.support.commands import ROOT

# line ends for str.splitlines but not for JSON
SEPARATORS = "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e"
PRODUCT = ("burnish", "train", "export", "serve", "tools", "bench")


@given(st.lists(st.text(st.sampled_from("ab\r\t é" + SEPARATORS), max_size=8)))
def test_lines_round_trip(lines: list[str]) -> None:
    text = "".join(line + "\n" for line in lines)
    assert split_lines(text) == lines
    assert not lines or not lines[-1] or split_lines(text[:-1]) == lines


def test_carriage_returns_are_kept(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"a\rb\r\nc")
    assert read_lines(tmp_path / "x") == ["a\rb\r", "c"]


def test_partial_last_line_is_skipped_only_if_allowed(tmp_path: Path) -> None:
    values = [{"text": f"a{c}b"} for c in SEPARATORS]
    lines = [json.dumps(value, ensure_ascii=False) for value in values]
    (tmp_path / "x.jsonl").write_text("\n\n".join([*lines, '{"step": ']), encoding="utf-8")
    assert read_jsonl(tmp_path / "x.jsonl", partial=True) == values
    with pytest.raises(ValueError, match="Expecting value"):
        read_jsonl(tmp_path / "x.jsonl")


def test_error_names_the_correct_line() -> None:
    assert last_line("loading\nstep 1\rstep 2\rbad file 'a\u2028b'\n\n") == "bad file 'a\u2028b'"
    assert first_line(ValueError("bad file 'a\u2028b'\nmore")) == "bad file 'a\u2028b'"
    assert (last_line(" \n", "nothing"), first_line("", "nothing")) == ("nothing", "nothing")


def test_exam_with_line_separators_is_unchanged_after_loading(tmp_path: Path) -> None:
    """If the exam could not be loaded, the run could not be exported."""
    messages = [{"role": "user", "content": f"a{SEPARATORS}b\r\n"}, {"role": "assistant", "content": SEPARATORS}]
    questions = [Question("heldout", [1, 2, 3], [(1, 3)], messages, (1,)) for _ in range(3)]
    answers = TopLogprobs(np.zeros((6, TOP), np.int32), np.zeros((6, TOP), np.float32), np.zeros(6, np.float32))
    samples = (SampleAnswer(SEPARATORS, "\r\n", "a\r", SEPARATORS),)
    Exam(questions, answers, answers.true, 0.0, 1.0, samples).save(tmp_path)
    back = Exam.load(tmp_path)
    assert (back.questions, back.samples) == (questions, samples)


def test_template_with_crlf_is_stored_as_transformers_reads_it(tmp_path: Path) -> None:
    (tmp_path / "chat.jinja").write_bytes(b"{%- for m in messages %}\r\n{{ m.content }}\r\n{%- endfor %}\r\n|")
    # transformers opens it in text mode
    template = ChatTemplate((tmp_path / "chat.jinja").read_bytes().decode(), "2026-01-01")
    assert text_sha256(template.source) == text_sha256((tmp_path / "chat.jinja").read_text())
    assert template.render([{"content": "a"}, {"content": "b\r\n"}]) == "ab\r\n|"  # those in a message stay


@pytest.mark.parametrize("folder", PRODUCT)
def test_splitlines_is_never_used_to_read_files(folder: str) -> None:
    """str.splitlines splits at characters that occur in ordinary text; use burnish.files to read lines."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in ("splitlines", "iter_lines")
    ]
    assert found == []
