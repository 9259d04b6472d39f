"""The exam of rows with tools: prompts equal the trained ones, and the server's parser returns the calls."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from burnish.chat import ChatTemplate, load_template
from burnish.data.formats import Example, Message
from burnish.dialects.events import Call
from burnish.exam.rows import Exam, Question
from burnish.files import text_sha256
from burnish.records import TrainRecord
from burnish.tokenizers.special_text import Chat
from export.exam.parity import prompt_parity
from export.exam.tool_parity import decoded, tool_parity
from train.data import template as templates
from train.data.mask import build
from train.data.tools import fit
from train.exam import questions
from train.settings import ChatSection, ExamSection

CALLS = (Call("weather", '{"city": "Zürich"}'), Call("weather", '{"city": "</tool_call>"}'))
TOOL = {"type": "function", "function": {"name": "weather", "description": "Tells it.", "parameters": {}}}


def example() -> Example:
    ids = ("call00000", "call00001")
    results = [Message("tool", "grey", ids=(i,), name="weather") for i in ids]
    turns = [Message("user", "Rain?"), Message("assistant", "", calls=CALLS, ids=ids), *results]
    return Example(1, (*turns, Message("assistant", "No.")), tools=(TOOL,))


@pytest.fixture(scope="module")
def chat_and_exam(base_tokenizer: Any) -> tuple[Chat, Exam]:
    """Return the chat encoder of an artifact, and the exam written by training."""
    codec, own = templates.codec(base_tokenizer), templates.choose(ChatSection(), base_tokenizer)
    assert own
    template = ChatTemplate(load_template("chatml-tools"), own.date, own.special_tokens)
    fitted, found = fit(template, None)
    codec = replace(codec, dialects=found)
    exam_questions = questions(build([example()], fitted, codec), codec, ExamSection(general_rows=1))
    nothing = cast(Any, None)
    exam = Exam(exam_questions, nothing, np.zeros(0, dtype=np.float32), 0.0, 0.0)
    return Chat(template, codec.vocabulary), exam


def test_prompts_with_tools_and_calls_equal_the_trained_ones(chat_and_exam: tuple[Chat, Exam]) -> None:
    chat, exam = chat_and_exam
    record = cast(TrainRecord, SimpleNamespace(chat_template_sha256=text_sha256(chat.template.source)))
    assert prompt_parity(exam, chat, record, lambda text: []).why == ""
    without = replace(exam, questions=[replace(q, tools=None) for q in exam.questions])
    assert prompt_parity(without, chat, record, lambda text: []).holds is False


def test_tool_calls_of_rows_round_trip(chat_and_exam: tuple[Chat, Exam], base_tokenizer: Any) -> None:
    chat, exam = chat_and_exam
    assert tool_parity(exam, chat, None, lambda ids: decoded(base_tokenizer, ids)).holds is True
    changed = tool_parity(exam, chat, None, lambda ids: decoded(base_tokenizer, ids).replace("Zürich", "Zurich"))
    assert changed.holds is False and "2 are read, or with other arguments" in changed.why


def test_template_with_unreadable_calls_fails(chat_and_exam: tuple[Chat, Exam], base_tokenizer: Any) -> None:
    chat, exam = chat_and_exam
    plain = replace(chat, template=replace(chat.template, source=load_template("chatml")))
    check = tool_parity(exam, plain, None, lambda ids: decoded(base_tokenizer, ids))
    assert check.holds is False and "its tool calls can't be read" in check.why


def test_calls_are_parsed_with_the_recorded_dialect(chat_and_exam: tuple[Chat, Exam], base_tokenizer: Any) -> None:
    chat, exam = chat_and_exam
    for dialect, holds in (("hermes", True), ("mistral", False)):
        assert tool_parity(exam, chat, dialect, lambda ids: decoded(base_tokenizer, ids)).holds is holds


def test_tool_parity_does_not_apply_without_calls(chat_and_exam: tuple[Chat, Exam]) -> None:
    none = replace(chat_and_exam[1], questions=[Question("general", [1, 2], [(1, 2)])])
    assert tool_parity(none, None, None, lambda ids: "").holds is None
