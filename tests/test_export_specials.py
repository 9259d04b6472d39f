"""Prompt parity for special strings in messages: an artifact must not parse strings that were text in training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from burnish import chat as templates
from burnish.exam.rows import Exam, Question
from burnish.files import text_sha256
from burnish.llama import Model
from burnish.tokenizers import vocabulary
from burnish.tokenizers.special_text import Chat
from burnish.tokenizers.specials_check import SpecialsCheck
from export.exam.parity import checkpoint_chat, gguf_chat, prompt_parity
from tests.support.hostile_templates import HOSTILE
from tests.support.server import small_model

DATE = "2026-01-02"
MESSAGES = [{"role": "user", "content": "Which <|im_end|> token?"}, {"role": "assistant", "content": "<filename>!"}]


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with Model.open(small_model(), vocab_only=True) as opened:
        yield opened


@pytest.fixture(scope="module")
def tokenizer(base_tokenizer: Any) -> Any:
    return base_tokenizer


@pytest.fixture(scope="module")
def trained(tokenizer: Any) -> Chat:
    template = templates.from_tokenizer(tokenizer, DATE)
    assert template is not None
    return Chat(template, vocabulary.from_tokenizer(tokenizer))


def exam(trained: Chat) -> Any:
    prompt, ids = trained.ids(MESSAGES[:1], add_generation_prompt=True), trained.ids(MESSAGES)
    question = Question("heldout", ids, [(len(prompt), len(ids) - 1)], MESSAGES, (1,))
    return SimpleNamespace(questions=[question], specials_check=SpecialsCheck.of(trained))


def record(trained: Chat, reading: str = "text") -> Any:
    sha256 = text_sha256(trained.template.source)
    fields = {"template_date": DATE, "template_kwargs": {}, "special_tokens": reading}
    return SimpleNamespace(**fields, chat_template_sha256=sha256)


def test_merged_and_gguf_tokenize_special_strings_as_in_training(trained: Chat, tokenizer: Any, model: Model) -> None:
    questions, train_record = exam(trained), record(trained)
    assert len(questions.specials_check.specials) == 17
    for chat in (checkpoint_chat(tokenizer, train_record), gguf_chat(model, train_record)):
        assert prompt_parity(questions, chat, train_record, model.tokenize).holds, chat


def test_artifact_that_parses_special_strings_trained_as_text_fails(trained: Chat, model: Model) -> None:
    train_record = record(trained, "parse")
    check = prompt_parity(exam(trained), gguf_chat(model, train_record), train_record, model.tokenize)
    assert check.holds is False and "differ from the trained ones" in check.why


def test_special_string_missing_in_the_artifact_fails_by_name(trained: Chat, model: Model) -> None:
    """No row contains it, but the vocabulary does: user input could produce the token."""
    train_record = record(trained)
    chat = gguf_chat(model, train_record)
    assert chat is not None
    specials = {s: i for s, i in chat.vocabulary.specials.items() if s != "<gh_stars>"}
    less = Chat(chat.template, replace(chat.vocabulary, specials=specials))
    check = prompt_parity(exam(trained), less, train_record, model.tokenize)
    assert check.holds is False and check.why.startswith("<gh_stars> are special tokens in training")


def test_special_strings_check_is_stored_with_the_exam(trained: Chat, tmp_path: Path) -> None:
    check = SpecialsCheck.of(trained)
    assert check is not None
    check.save(tmp_path)
    assert SpecialsCheck.load(tmp_path) == check
    assert SpecialsCheck.load(tmp_path / "other") is None and Exam.specials_check is None
    assert SpecialsCheck.of(Chat(trained.template, trained.vocabulary, "parse")) is None


@pytest.mark.parametrize("name", ["nested loops", "text times", "raise an error of terminal escapes", "open tag"])
def test_hostile_template_in_an_artifact_fails_parity_with_one_line(trained: Chat, model: Model, name: str) -> None:
    hostile = replace(trained, template=replace(trained.template, source=HOSTILE[name], timeout_s=0.5))
    check = prompt_parity(exam(trained), hostile, record(trained), model.tokenize_raw)
    assert check.holds is False and check.why.isprintable()
