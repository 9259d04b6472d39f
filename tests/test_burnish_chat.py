"""The one renderer: as transformers renders, sandboxed, with a frozen clock."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.chat import ChatError, ChatTemplate, load_template, named_templates

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": " hi "},
    {"role": "assistant", "content": "yes"},
]
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


def template(source: str, date: str = "2026-01-02") -> ChatTemplate:
    return ChatTemplate(source, date, TOKENS)


@pytest.mark.parametrize("name", named_templates())
def test_every_named_template_renders_as_transformers_does(name: str, base_directory: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base_directory)
    source = load_template(name)
    special = {"bos_token": tokenizer.bos_token, "eos_token": tokenizer.eos_token}
    ours = ChatTemplate(source, "2026-01-02", special)
    for prompt in (True, False):
        part = MESSAGES[:2] if prompt else MESSAGES
        theirs = tokenizer.apply_chat_template(part, chat_template=source, tokenize=False, add_generation_prompt=prompt)
        assert ours.render(part, add_generation_prompt=prompt) == theirs


@pytest.mark.parametrize("name", named_templates())
@given(turns=st.integers(1, 4), data=st.data())
def test_an_answered_prompt_begins_with_the_prompt(name: str, turns: int, data: st.DataObject) -> None:
    """What training relies on: the generation prompt is a prefix of the same conversation with the answer."""
    words = st.text("abc xyz\n", min_size=1).filter(str.strip)
    messages = []
    for _ in range(turns):
        messages += [{"role": "user", "content": data.draw(words)}, {"role": "assistant", "content": data.draw(words)}]
    t = template(load_template(name))
    assert t.render(messages).startswith(t.render(messages[:-1], add_generation_prompt=True))


def test_the_clock_is_frozen_to_the_recorded_date() -> None:
    assert template("{{ strftime_now('%d %b %Y') }}", "2025-12-31").render([]) == "31 Dec 2025"


def test_generation_marks_change_nothing() -> None:
    assert template("a{% generation %}b{% endgeneration %}c").render([]) == "abc"


@pytest.mark.parametrize(
    "source", ["{{ ''.__class__.__mro__ }}", "{{ messages.append(1) }}", "{{ cycler.__init__.__globals__ }}"]
)
def test_a_hostile_template_reaches_nothing(source: str) -> None:
    t = template(source)
    try:
        assert "object" not in t.render([])
    except ChatError:
        pass


def test_what_a_template_refuses_is_said_in_its_words() -> None:
    with pytest.raises(ChatError, match="roles must alternate"):
        template("{{ raise_exception('roles must alternate') }}").render([])
    with pytest.raises(ChatError, match="line 1"):
        template("{% if %}").render([])


def test_an_unknown_name_names_the_nearest() -> None:
    with pytest.raises(ChatError, match="did you mean 'llama-3.1'"):
        load_template("llama3.1")
