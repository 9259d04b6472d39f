"""Prompt parity: an artifact's own template and tokenizer produce the ids used in training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from burnish import chat as templates
from burnish.chat import TIMEOUT_S, ChatError
from burnish.console import listed
from burnish.dialects.find import fitted
from burnish.exam.rows import Exam
from burnish.files import text_sha256
from burnish.llama import Model
from burnish.records import TrainRecord
from burnish.tokenizers import vocabulary
from burnish.tokenizers.special_text import Chat

NAMED = 5  # maximum number of strings listed in a message

Encode = Callable[[str], list[int]]


@dataclass(frozen=True)
class Check:
    """The result of a check: whether it holds (None: not applicable), and if not, why."""

    holds: bool | None
    why: str = ""


def prompt_parity(
    exam: Exam, chat: Chat | None, record: TrainRecord, encode: Encode, ends: frozenset[int] = frozenset()
) -> Check:
    """Check that the artifact's template and tokenizer produce the trained prompt ids for every turn.

    The template must also equal the trained one, since the exam rows may not exercise an edited part. If special
    strings in messages are text, the artifact must also tokenize the strings in the exam's `specials_check` as text.
    For plain-text rows all ids are compared: `encode` tokenizes a row with the artifact's start and end tokens, and
    `ends` are the end-of-generation ids.
    """
    turns = [
        (question, start, turn)
        for question in exam.questions
        if question.messages
        for (start, _), turn in zip(question.spans, question.turns, strict=True)
    ]
    if not turns:
        return text_parity(exam, encode, ends)
    if chat is None:
        return Check(False, "the file has no chat template")
    if any(question.tools for question in exam.questions):
        chat = replace(chat, template=fitted(chat.template)[0])
    try:
        for question, start, turn in turns:
            offered = chat.offering(question.tools or ())
            found = offered.ids((question.messages or [])[:turn], add_generation_prompt=True)
            if difference := _difference(found, question.input_ids[:start]):
                return Check(False, difference)
        if fault := _special_strings(exam, chat):
            return Check(False, fault)
    except ChatError as error:
        return Check(False, str(error))
    if text_sha256(chat.template.source) != record.chat_template_sha256:
        return Check(False, "its chat template differs from the trained one (sha256)")
    texts = text_parity(exam, encode, ends)
    return Check(texts.holds is not False, texts.why)


def text_parity(exam: Exam, encode: Encode, ends: frozenset[int]) -> Check:
    """Check that the artifact's tokenizer produces the trained ids for every plain-text row, including the start token.

    A truncated row is compared up to the truncation. The end token appended in training (one of `ends`) may be
    missing; the end-token check covers it.
    """
    plain = [(q.text, q.input_ids) for q in exam.questions if q.text is not None]
    for text, trained in plain:
        found = encode(text)
        if found[: len(trained)] == trained or (found == trained[:-1] and set(trained[-1:]) <= ends):
            continue
        return Check(False, _difference(found, trained) or f"its text rows end before the trained ones: {text[:40]!r}")
    return Check(True if plain else None)


def gguf_chat(model: Model, record: TrainRecord, timeout_s: float = TIMEOUT_S) -> Chat | None:
    """Return a GGUF file's template (with the run's frozen date) and tokenizer, as a server uses them."""
    date, variables = record.template_date, record.template_kwargs
    template = templates.from_gguf(model, date, variables) if date else None
    template = template and replace(template, timeout_s=timeout_s)
    return Chat(template, vocabulary.from_gguf(model), record.special_tokens) if template else None


def checkpoint_chat(tokenizer: Any, record: TrainRecord, timeout_s: float = TIMEOUT_S) -> Chat | None:
    """Return a checkpoint's template and tokenizer, as transformers loads them."""
    date, variables = record.template_date, record.template_kwargs
    template = templates.from_tokenizer(tokenizer, date, variables=variables) if date else None
    template = template and replace(template, timeout_s=timeout_s)
    return Chat(template, vocabulary.from_tokenizer(tokenizer), record.special_tokens) if template else None


def _special_strings(exam: Exam, chat: Chat) -> str:
    """Return how special strings in messages are tokenized differently from training, or "" if they aren't."""
    check = exam.specials_check
    if check is None or chat.reading == "parse":
        return ""
    if parsed := check.not_special_in(chat):
        named = listed(parsed, NAMED)
        return f"{named} are special tokens in training but not here, so text in messages would become tokens"
    difference = _difference(chat.ids(check.messages, add_generation_prompt=True), check.input_ids)
    return difference and f"special strings in messages are read differently from training: {difference}"


def _difference(found: list[int], trained: list[int]) -> str:
    """Return how two prompts' ids differ, or "" if they don't."""
    if found == trained:
        return ""
    if len(found) == len(trained) + 1 and found[1:] == trained and found[0] == trained[0]:
        return f"its prompts start with a double BOS (token {found[0]} twice)"
    pairs = enumerate(zip(found, trained, strict=False))
    at = next((i for i, (a, b) in pairs if a != b), min(len(found), len(trained)))
    return (
        f"its prompts differ from the trained ones at token {at}: {found[at : at + 3]}, trained {trained[at : at + 3]}"
    )
