"""Custom columns and dialogues in one text are converted to rows; errors name the setting and line."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import yaml

from burnish.data.columns import cells
from burnish.data.columns.cells import Condition
from burnish.data.columns.mapping import ColumnMap, parse_columns
from burnish.data.columns.reading import Reading, decide
from burnish.data.columns.transcript import STYLES, Transcript, parse_transcript
from burnish.data.files import DataError, RawRow
from burnish.data.formats import Converter, Example
from burnish.data.sources.dataset import Spec, open_dataset
from train.data.mask import Codec, MaskError, build, prove
from train.data.sources import open_rows
from train.data.stream.file import check_rows
from train.settings import DataSection

QUESTION = {
    "question": "Thủ đô?", "answer_a": "Hà Nội", "answer_b": "Huế", "answer_c": None, "correct_answer": "A",
    "context": "Hà Nội là thủ đô.", "Ghi chú": "dễ",
}  # fmt: skip
ASSISTANT = (
    "Câu hỏi: {{ question }}\n{% if answer_a %}A. {{ answer_a }}{% endif %}\nB. {{ answer_b }}\n"
    " {% if answer_c %}\nC. {{ answer_c }}\n{% endif %}\nĐáp án: {{ correct_answer }}."
)
TOLD = "Câu hỏi: Thủ đô?\nA. Hà Nội\nB. Huế\nĐáp án: A."


def rows(*values: Any) -> list[RawRow]:
    return [RawRow(line, value, line) for line, value in enumerate(values, start=2)]


def converted(reading: Reading, *values: Any) -> list[Example]:
    converter = pickle.loads(pickle.dumps(Converter(reading.format, "f.csv", reshape=reading.reshape)))
    examples = [example for row in rows(*values) if (example := converter.add(row))]
    converter.conversion()
    return examples


def mapped(columns: Any, *values: Any) -> list[Example]:
    return converted(decide(rows(*values), "f.csv", columns=parse_columns(columns)), *values)


def said(example: Example) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in example.messages or ()]


def faults(columns: Any, *values: Any) -> list[str]:
    with pytest.raises(DataError) as caught:
        mapped(columns, *values)
    return list(caught.value.faults)


def test_multiple_choice_columns_are_converted_to_turns() -> None:
    columns = {"user": "{{ context }}", "assistant": ASSISTANT, "system": "{{ row['Ghi chú'] }}"}
    turns = [("system", "dễ"), ("user", "Hà Nội là thủ đô."), ("assistant", TOLD)]
    assert said(*mapped(columns, QUESTION)) == turns
    assert said(mapped(columns, QUESTION, QUESTION | {"Ghi chú": " "})[1]) == turns[1:]


def test_multiple_choice_columns_become_a_text_with_only_the_response_trained(codec: Codec) -> None:
    columns = {"prompt": "### Ngữ cảnh\n{{ context }}\n\n### Phản hồi\n", "completion": ASSISTANT}
    examples = mapped(columns, QUESTION)
    (row,) = built = build(examples, None, codec)
    prove(built, None, codec)
    ((start, end),) = row.spans
    assert codec.decode(row.input_ids[start : end - 1]) == TOLD and row.input_ids[end - 1] == codec.eos
    assert row.input_ids[:start] == [*codec.bos, *codec.encode("### Ngữ cảnh\nHà Nội là thủ đô.\n\n### Phản hồi\n")]


def test_token_across_prompt_and_completion_is_rejected(codec: Codec) -> None:
    examples = mapped({"prompt": "{{ context }} An", "completion": "swer{{ question }}"}, QUESTION)
    with pytest.raises(MaskError, match="line 2: a token crosses from the prompt to the completion"):
        build(examples, None, codec)


def test_columns_may_list_conditional_and_untrained_turns() -> None:
    columns = [
        {"role": "user", "content": "{{ q1 }}"},
        {"role": "assistant", "content": "{{ a1 }}", "train": False},
        {"role": "user", "content": "{{ q2 }}", "if": "q2"},
        {"role": "assistant", "content": "{{ a2 }}", "if": "q2", "reasoning_content": "{{ why }}"},
    ]
    whole = {"q1": "a", "a1": "b", "q2": "c", "a2": "d", "why": "e"}
    (made,) = mapped(columns, whole)
    assert [(m.content, m.train, m.reasoning) for m in made.messages or ()] == [
        ("a", True, ""), ("b", False, ""), ("c", True, ""), ("d", True, "e"),
    ]  # fmt: skip
    trained = [{**turn, "train": True} if turn["role"] == "assistant" else turn for turn in columns]
    assert said(mapped(trained, whole, {"q1": "a", "a1": 7, "q2": " "})[1]) == [("user", "a"), ("assistant", "7")]


def test_non_text_values_are_rendered_as_json_and_lists_by_element() -> None:
    row = {"choices": ["Rom", "Bern"], "answer": 1, "yes": True, "none": None}
    columns = {"text": "{{ choices[answer] }} {{ 'AB'[answer] }} {{ yes }}{{ none }} {{ choices | tojson }}"}
    assert mapped(columns, row)[0].text == 'Bern B true ["Rom", "Bern"]'
    assert (
        "the value is a list: use one element of it, or all of it with | tojson"
        in faults({"text": "{{ choices }}"}, row)[0]
    )


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"text": "a\n{{ questoin }}"}, ".text, line 2: 'questoin' is not a column of f.csv; did you mean 'question'?"),
        ({"text": "{{ ghi_chú }}"}, "did you mean 'Ghi chú'? Write row[\"Ghi chú\"]"),
        ({"text": "{{ row['questions'] }}"}, "'questions' is not a column of f.csv; did you mean 'question'?"),
        ({"text": "{answer_a}{% set x = 1 %}{{ question }}"}, ""),
        (
            {"text": "{{ question * 10 ** 9 }}"},
            "f.csv: line 2: data.columns.text: the template exceeds a limit: more than",
        ),
        ({"text": "{{ question.__class__.__mro__ }}"}, "line 2: data.columns.text: access to attribute '__class__'"),
        ({"user": "{{ answer_c }}", "assistant": "{{ question }}"}, "line 2: data.columns.user is empty for this"),
        (
            {"user": "{{ question }}", "assistant": "{answer_a}"},
            "assistant: {answer_a} would be literal text: write {{ answer",
        ),
    ],
)
def test_template_errors_name_setting_and_line(columns: Any, expected: str) -> None:
    if expected:
        assert expected in faults(columns, QUESTION)[0]
    else:
        assert mapped(columns, QUESTION)[0].text == "{answer_a}Thủ đô?"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"user": "{{ a }}"}, "has user; expected {user, assistant} with or without {system}"),
        ({"asistant": "{{ a }}", "user": "b"}, "unknown key 'asistant'; did you mean 'assistant'?"),
        ({"text": "{{ a"}, "data.columns.text: line 1: unexpected end of template"),
        ({"text": "a"}, "no template uses a column"),
        ([{"role": "user", "content": "{{ a }}"}], "at least one user turn and one assistant turn are required"),
        ([{"role": "bot", "content": "{{ a }}"}], r"data.columns[0].role is 'bot'; expected system, user, assistant"),
        ({"text": 3}, "data.columns.text: expected a template"),
        ([], "at least one user turn and one assistant turn are required"),
    ],
)
def test_malformed_columns_are_rejected(value: Any, expected: str) -> None:
    with pytest.raises(ValueError, match=".") as caught:
        parse_columns(value)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("<human>", "<human>: Who?\n<bot>: Me.\n<human>: Why?\n<bot>: So.\nHuman: no mark"),
        ("human-bot", "Human: Who?\nBot: Me.\nUser: Why?\nBot: So.\nHe said: Bot: no"),
        ("user-assistant", "User: Who?\n\nAssistant: Me.\n\nUser: Why?\n\nAssistant: So."),
        ("###", "### Human: Who?\n### Assistant: Me.\n### Human: Why?\n### Assistant: So."),
        ("instruction", "Below is one.\n\n### Instruction:\nWho?\n\n### Input:\nhere\n\n### Response:\nMe."),
    ],
)
def test_dialogues_in_a_text_are_split_into_turns(name: str, text: str) -> None:
    values = [{"text": text, "meta": 1}] * 2 + [{"text": text.replace("Who?", "What?"), "meta": 1}]
    reading = decide(rows(*values), "f.jsonl")
    assert reading.reshape and reading.reshape.transcript == STYLES[name]
    turns = said(converted(reading, *values)[0])
    if name == "instruction":
        assert turns == [("system", "Below is one."), ("user", "Who?\nhere"), ("assistant", "Me.")]
    else:
        assert [content.split("\n")[0] for _, content in turns] == ["Who?", "Me.", "Why?", "So."]
        assert [role for role, _ in turns] == ["user", "assistant"] * 2
    assert decide(rows(*values), "f.jsonl", transcript="none") == Reading("text", "recognised")


def test_articles_containing_markers_stay_texts() -> None:
    article = "An interview with the cooper, in two parts.\nHuman: Why barrels?\nBot: Why not?"
    assert decide(rows({"text": article}, {"text": "Plain."}), "f.jsonl").format == "text"


def test_text_without_markers_is_reported_and_custom_markers_split() -> None:
    marks = parse_transcript({"user": "Khách:", "assistant": "Tư vấn:"})
    good, bad = {"text": "Khách: Giá?\nTư vấn: Rẻ."}, {"text": "Giá?"}
    reading = decide(rows(good, bad), "f.jsonl", transcript=marks)
    assert said(converted(reading, good)[0]) == [("user", "Giá?"), ("assistant", "Rẻ.")]
    with pytest.raises(
        DataError, match="f.csv: line 3: the text is not a dialogue: no line begins with a marker such as 'Khách:'"
    ):
        converted(reading, good, bad)


def test_columns_and_transcript_split_a_column_of_any_name() -> None:
    columns = parse_columns({"text": "{{ dialogue }}"})
    reading = decide(rows({"dialogue": "Q: a\nA: b"}), "f.csv", columns=columns, transcript=STYLES["question-answer"])
    assert said(*converted(reading, {"dialogue": "Q: a\nA: b"})) == [("user", "a"), ("assistant", "b")]


@pytest.mark.parametrize(
    "value", ["humanbot", {"user": "a:"}, {"user": "a:", "assistant": "a:"}, {"user": "a\n", "assistant": "b"}, 3]
)
def test_malformed_transcript_is_rejected(value: Any) -> None:
    with pytest.raises(ValueError, match=r"unknown transcript|expected|same mark"):
        parse_transcript(value)


def test_template_that_takes_too_long_is_tried_on_one_row(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cells, "TIMEOUT_S", 0.5)
    loop = "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}{{ question }}"
    found = faults({"text": loop}, *[QUESTION] * 1000)
    assert len(found) == 1 and "line 2: data.columns.text: the template exceeds a limit: " in found[0]
    assert "the other rows were not checked" in found[0]
    (tmp_path / "a.jsonl").write_text((json.dumps({"text": "a"}) + "\n") * 3000)
    path = str(tmp_path / "a.jsonl")
    data = DataSection(path=path, columns={"text": loop.replace("question", "text")})
    with pytest.raises(DataError, match=r"line 1: data\.columns\.text: .*not checked") as caught:
        check_rows(open_rows(path, data), data)
    assert len(caught.value.faults) == 1
    slow = " and ".join(["range(99999) | map('string') | map('center', 99) | map('upper') | list"] * 40)
    with pytest.raises(DataError, match=r"line 1: data\.where: the template exceeds a limit: .*not checked") as caught:
        list(open_dataset([Spec(path, where=Condition(slow, "data.where"))], 1).rows())
    assert len(caught.value.faults) == 1


def test_settings_are_picklable_for_worker_processes() -> None:
    columns = parse_columns({"text": "{{ a }}"})
    assert isinstance(pickle.loads(pickle.dumps(columns)), ColumnMap)
    assert isinstance(pickle.loads(pickle.dumps(STYLES["###"])), Transcript)


def documented() -> list[dict[str, Any]]:
    """Return the configs in the page's section."""
    page = (Path(__file__).parent.parent / "docs" / "prepare-data.md").read_text(encoding="utf-8")
    blocks = page.split("## Columns of your own")[1].split("\n## ")[0].split("```yaml\n")[1:]
    return [yaml.safe_load(block.split("```")[0])["data"] for block in blocks]


def test_documented_configs_read_questions() -> None:
    row = {"context": "Barrels.", "question": "Which?", "correct_answer": "A"}
    row |= {"answer_a": "oak", "answer_b": "ash", "answer_c": "elm, or none", "answer_d": "fir"}
    chat, text = (mapped(data["columns"], row)[0] for data in documented())
    exercise = "Question: Which?\nA. oak\nB. ash\nC. elm, or none\nD. fir\nAnswer: A."
    assert said(chat) == [("user", "Barrels."), ("assistant", exercise)]
    assert text.prompt == "### Context\nBarrels.\n\n### Response\n"
    assert text.text == text.prompt + "Question: Which?\nD. fir\nAnswer: A."


def test_documented_transcript_styles_exist() -> None:
    page = (Path(__file__).parent.parent / "docs" / "prepare-data.md").read_text(encoding="utf-8")
    table = page.split("| `data.transcript` |")[1].split("\n\n")[0]
    assert [line.split("`")[1] for line in table.splitlines()[2:-1]] == list(STYLES)
