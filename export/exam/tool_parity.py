"""Tool parity: trained ids, decoded with the artifact's tokenizer and parsed as in the server, yield a row's calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from burnish.chat import ChatError
from burnish.dialects.comparison import same_call
from burnish.dialects.definitions import parameters
from burnish.dialects.events import Call
from burnish.dialects.find import Found, find
from burnish.dialects.reader import parse
from burnish.exam.rows import Exam, Question
from burnish.tokenizers.special_text import Chat

from .parity import Check

Decode = Callable[[Sequence[int]], str]
# number of trailing prompt ids that show whether the prompt opens the reasoning
IDS_BEFORE = 16


def tool_parity(exam: Exam, chat: Chat | None, dialect: str | None, decode: Decode) -> Check:
    """Check every tool-call turn in the exam, read with the recorded dialect, if there is one, as the server does.

    `decode` converts ids to text, including special tokens.
    """
    turns = list(_turns(exam))
    if not turns:
        return Check(None)
    if chat is None:
        return Check(False, "the file has no chat template")
    try:
        found = find(chat.template, dialect)
    except ChatError as error:
        return Check(False, str(error))
    if found.dialect is None:
        return Check(False, f"its tool calls can't be read: {found.why}")
    for question, start, end, calls in turns:
        if fault := _fault(question, start, end, calls, found, decode):
            return Check(False, fault)
    return Check(True)


def decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    """Decode ids with a transformers tokenizer, including special tokens."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _turns(exam: Exam) -> Iterator[tuple[Question, int, int, list[Call]]]:
    for question in exam.questions:
        for (start, end), turn in zip(question.spans, question.turns, strict=False):
            entries = (question.messages or [])[turn].get("tool_calls") or ()
            calls = [Call(entry["function"]["name"], entry["function"]["arguments"]) for entry in entries]
            if calls:
                yield question, start, end, calls


def _fault(question: Question, start: int, end: int, calls: list[Call], found: Found, decode: Decode) -> str:
    ids = question.input_ids
    before, text = decode(ids[max(0, start - IDS_BEFORE) : start]), decode(ids[start : end - 1])
    tools = parameters(question.tools or ())
    opened = found.thoughts is not None and found.thoughts.open_in(before)
    read = parse(text, found.dialect, found.thoughts, opened, tools).calls
    if len(read) == len(calls) and all(map(same_call, calls, read)):
        return ""
    return (
        f"of {calls[0].name} and {len(calls) - 1} more calls in a turn, {len(read)} are read, or with other arguments"
    )
