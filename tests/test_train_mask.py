"""Token ids equal the server's, and exactly the responses with their end tokens are trained."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from burnish.chat import ChatTemplate, load_template
from burnish.data.formats import Example, Message
from train.data import template as templates
from train.data.mask import IGNORED, Codec, MaskError, Row, build, prove

END = "<|im_end|>"


@pytest.fixture(scope="module")
def tokenizer(base_tokenizer: Any) -> Any:
    return base_tokenizer


def chat(*contents: str, line: int = 1, untrained: int | None = None) -> Example:
    roles = ("user", "assistant")
    turns = [Message(roles[i % 2], text, i != untrained) for i, text in enumerate(contents)]
    return Example(line, tuple(turns), None)


def learned(row: Row, codec: Codec) -> list[str]:
    return [codec.decode(row.input_ids[start:end]) for start, end in row.spans]


def test_only_responses_and_their_end_tokens_are_trained(codec: Codec, own: ChatTemplate) -> None:
    rows = build([chat("hi", "Hello!", "and?", "That is all.")], own, codec)
    assert [learned(row, codec) for row in rows] == [[f"Hello!{END}", f"That is all.{END}"]]
    labels = rows[0].labels()
    assert [i for i, label in enumerate(labels) if label != IGNORED] == [
        i for start, end in rows[0].spans for i in range(start, end)
    ]
    prove(rows, own, codec)


def test_response_with_weight_zero_is_not_trained(codec: Codec, own: ChatTemplate) -> None:
    rows = build([chat("hi", "skip me", "and?", "learn me", untrained=1)], own, codec)
    assert [learned(row, codec) for row in rows] == [[f"learn me{END}"]]
    assert "skip me" in codec.decode(rows[0].input_ids)


words = st.text(st.sampled_from("abz 019,.!?\"'<|>{}éüß你好こ→🙂-"), min_size=1, max_size=40)
lines = st.lists(words, min_size=1, max_size=3).map("\n".join)


@given(contents=st.lists(st.tuples(lines, lines.filter(str.strip)), min_size=1, max_size=3))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("name", [None, "chatml", "gemma", "deepseek-chat", "deepseek-r1", "mistral"])
def test_random_conversations_are_masked_and_proven_with_every_template(
    name: str | None, contents: list[tuple[str, str]], codec: Codec, own: ChatTemplate
) -> None:
    """For any text, prompt ids equal the server's, and each response is trained once."""
    special = dict(own.special_tokens)
    template = own if name is None else ChatTemplate(load_template(name), own.date, special)
    if name == "gemma":  # its markers are plain text to this tokenizer, so that nothing ends a turn
        with pytest.raises(MaskError, match="does not end it with an end token"):
            build([chat(*[part for pair in contents for part in pair])], template, codec)
        return
    rows = build([chat(*[part for pair in contents for part in pair])], template, codec)
    prove(rows, template, codec)
    trained = [text.removesuffix(END).strip() for row in rows for text in learned(row, codec)]
    assert trained == [answer.strip() for _, answer in contents]


def test_template_that_rewrites_history_gives_one_row_per_assistant_turn(codec: Codec) -> None:
    """As in templates of reasoning models, only the newest answer keeps its reasoning."""
    source = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{{ m.content if loop.last or m.role == 'user' else m.content.split('</think>')[-1] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    template = ChatTemplate(source, "2026-01-01")
    rows = build([chat("1+1?", "<think>easy</think>2", "2+2?", "<think>hm</think>4")], template, codec)
    assert [learned(row, codec) for row in rows] == [[f"<think>easy</think>2{END}"], [f"<think>hm</think>4{END}"]]
    assert "easy" not in codec.decode(rows[1].input_ids)
    prove(rows, template, codec)


def test_generation_prompt_that_opens_reasoning_gets_advice(codec: Codec) -> None:
    source = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
    )
    with pytest.raises(MaskError, match=r"line 7: .*opens reasoning.*add reasoning to the data.*template file"):
        build([chat("a", "b", line=7)], ChatTemplate(source, "2026-01-01"), codec)


def test_same_error_in_many_rows_is_reported_once(codec: Codec) -> None:
    broken = ChatTemplate("{% for m in messages %}{{ m.content }}{% endfor %}", "2026-01-01")
    with pytest.raises(MaskError) as caught:
        build([chat("a", "b", line=line) for line in (3, 9, 12, 20, 31)], broken, codec)
    (fault,) = caught.value.faults
    assert fault.startswith("line 3: assistant turn 1: the template does not end it with an end token")
    assert fault.endswith("(the same in 5 rows, also line 9, line 12, line 20, ...)")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: Row(r.example, r.input_ids, ((r.spans[0][0], r.spans[0][1] - 1),), r.turns), "not an end token"),
        (lambda r: Row(r.example, r.input_ids, ((r.spans[0][0] + 1, r.spans[0][1]),), r.turns), "changes the response"),
        (
            lambda r: Row(r.example, [0, *r.input_ids], tuple((a + 1, b + 1) for a, b in r.spans), r.turns),
            "not the prompt",
        ),
    ],
)
def test_proof_detects_a_wrong_mask(codec: Codec, own: ChatTemplate, change: Any, message: str) -> None:
    """The proof does not share code with the builder: it detects missing end tokens, shifted starts and double BOS."""
    (row,) = build([chat("hi", "Hello there, friend!")], own, codec)
    with pytest.raises(MaskError, match=message):
        prove([change(row)], own, codec)


def test_plain_text_is_trained_up_to_the_end_token(codec: Codec) -> None:
    (row,) = build([Example(1, None, "Once upon a time.")], None, codec)
    assert learned(row, codec) == [f"Once upon a time.{END}"]


def test_foreign_markers_and_terminators_cause_warnings(tokenizer: Any, own: ChatTemplate) -> None:
    llama = ChatTemplate(load_template("llama-3.1"), "2026-01-01", own.special_tokens)
    found = templates.warnings(llama, tokenizer, [0], {tokenizer.eos_token_id})
    assert "<|eot_id|>" in found[0]
    assert "not single tokens" in found[0]
    assert "ends a turn with <|endoftext|>" in found[1]
    assert templates.warnings(own, tokenizer, [tokenizer.eos_token_id], {tokenizer.eos_token_id}) == []
