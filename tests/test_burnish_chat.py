"""The renderer: same output as transformers, sandboxed, with a frozen clock."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.chat import ChatError, ChatTemplate, from_gguf, from_tokenizer, load_template, named_templates
from burnish.llama import Model
from tests.support.server import small_model

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": " hi "},
    {"role": "assistant", "content": "yes"},
]
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


def template(source: str, date: str = "2026-01-02") -> ChatTemplate:
    return ChatTemplate(source, date, TOKENS)


@pytest.mark.parametrize("name", named_templates())
def test_named_templates_render_like_transformers(name: str, base_directory: Path) -> None:
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
def test_prompt_is_a_prefix_of_the_full_conversation(name: str, turns: int, data: st.DataObject) -> None:
    """Training relies on this: the generation prompt is a prefix of the same conversation with the answer."""
    words = st.text("abc xyz\n", min_size=1).filter(str.strip)
    messages = []
    for _ in range(turns):
        messages += [{"role": "user", "content": data.draw(words)}, {"role": "assistant", "content": data.draw(words)}]
    t = template(load_template(name))
    assert t.render(messages).startswith(t.render(messages[:-1], add_generation_prompt=True))


def test_strftime_now_uses_the_recorded_date() -> None:
    assert template("{{ strftime_now('%d %b %Y') }}", "2025-12-31").render([]) == "31 Dec 2025"


def test_generation_blocks_do_not_change_the_output() -> None:
    assert template("a{% generation %}b{% endgeneration %}c").render([]) == "abc"


@pytest.mark.parametrize(
    "source", ["{{ ''.__class__.__mro__ }}", "{{ messages.append(1) }}", "{{ cycler.__init__.__globals__ }}"]
)
def test_hostile_template_cannot_reach_python_objects(source: str) -> None:
    t = template(source)
    try:
        assert "object" not in t.render([])
    except ChatError:
        pass


def test_raise_exception_message_is_reported() -> None:
    with pytest.raises(ChatError, match="roles must alternate"):
        template("{{ raise_exception('roles must alternate') }}").render([])
    with pytest.raises(ChatError, match="line 1"):
        template("{% if %}").render([])


def test_unknown_template_name_suggests_the_nearest_match() -> None:
    with pytest.raises(ChatError, match="did you mean 'llama-3.1'"):
        load_template("llama3.1")


NAMING = (
    "{{ bos_token }}|{{ eos_token }}|{{ unk_token }}|{{ pad_token }}|{{ sep_token }}|{{ cls_token }}|{{ mask_token }}"
    "{% for m in messages %}{{ m.content }}{% endfor %}{{ strftime_now('%Y') }}"
)


def test_templates_from_tokenizer_and_gguf_render_the_same_text(base_directory: Path) -> None:
    """A template that uses every special token, and the template of the base."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base_directory)
    with Model.open(small_model(), vocab_only=True) as model:
        one, other = from_tokenizer(tokenizer, "2026-01-02"), from_gguf(model, "2026-01-02")
        assert one is not None and other is not None and one == other
        assert one.render(MESSAGES) == tokenizer.apply_chat_template(MESSAGES, tokenize=False)
        named = from_tokenizer(tokenizer, "2026-01-02", NAMING)
        assert named is not None
        theirs = tokenizer.apply_chat_template(MESSAGES, chat_template=NAMING.replace("strftime_now('%Y')", "'2026'"),
                                               tokenize=False)  # fmt: skip
        assert named.render(MESSAGES) == theirs
        assert ChatTemplate(NAMING, "2026-01-02", other.special_tokens).render(MESSAGES) == theirs


class Gguf:
    """The metadata of a byte-level vocabulary without a BOS token, for which llama.cpp returns id 11."""

    n_vocab, bos_id, chat_template = 20, 11, NAMING

    def metadata(self) -> dict[str, str]:
        return {"tokenizer.ggml.eos_token_id": "2", "tokenizer.ggml.padding_token_id": "99"}

    def token_text(self, token: int) -> str:
        return f"<{token}>"


class Broken(Gguf):
    """A template that can't be parsed, and an invalid token id."""

    chat_template = "{{ bos_token }} {% if"

    def metadata(self) -> dict[str, str]:
        return {"tokenizer.ggml.cls_token_id": "<s>", "tokenizer.ggml.bos_token_id": "1"}


def test_invalid_templates_and_token_ids_are_one_line_errors() -> None:
    made = from_gguf(Broken(), "2026-01-02")
    assert made is not None and made.special_tokens == {"bos_token": "<1>"}
    for read in (lambda t: t.missing_tokens, lambda t: t.literals, lambda t: t.render([])):
        with pytest.raises(ChatError, match="chat template line 1: "):
            read(made)


def test_special_token_missing_in_the_gguf_is_not_defined() -> None:
    made = from_gguf(Gguf(), "2026-01-02")
    assert made is not None and made.special_tokens == {"eos_token": "<2>"}
    assert made.missing_tokens == ("bos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
    assert made.render([]) == "|<2>|||||2026"


def test_only_free_variables_of_the_template_are_listed() -> None:
    source = "{% for message in messages %}{{ message.role }}{% endfor %}{% if think %}for{% endif %}"
    template = ChatTemplate(source, "2026-01-01")
    assert template.names("think") and not any(map(template.names, ("message", "role", "for", "if")))
