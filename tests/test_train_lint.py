"""The lint: each warning is given where its cause stands, with the lines, and not where it does not."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from burnish.data.files import read_rows
from burnish.data.formats import Example, Message, convert, recognise
from train.data.lint import LintWarning, lint

EXAMPLES = Path(__file__).parent.parent / "examples"


def chat(line: int, user: str, answer: str) -> Example:
    return Example(line, (Message("user", user), Message("assistant", answer)))


def clean() -> list[Example]:
    return [chat(n, f"question {n}", f"answer {n}") for n in range(101, 113)]


def only(*examples: Example, unit: str = "line") -> LintWarning:
    """The one warning that these rows add to clean ones."""
    (warning,) = lint([*clean(), *examples], unit)
    return warning


def test_clean_rows_give_no_warning() -> None:
    assert lint(clean()) == []


def test_placeholders_are_named_with_rows_and_lines() -> None:
    rows = [chat(12, "who?", "I am {{name}} of {{author}}"), chat(15, "what?", "{{ name }}, {{name}}")]
    assert only(*rows) == LintWarning(
        "placeholder",
        "placeholders {{name}} (2 rows, first line 12) and {{author}} (1 row, first line 12) stand in the rows:"
        " fill them in, or the model learns to say them",
        (12, 15),
    )
    many = only(chat(1, "q", " ".join("{{" + c + "}}" for c in "abcdefg") + "."))
    assert "and 2 more stand in the rows" in many.text


def test_braces_of_code_are_no_placeholders() -> None:
    assert lint([*clean(), chat(1, "q", "f'{{{x}}}' {x} {{}} {{1}}")]) == []


@pytest.mark.parametrize(
    "marker", ["<|im_start|>", "<|eot_id|>", "</s>", "[INST]", "<end_of_turn>", "<｜end▁of▁sentence｜>", "<<SYS>>"]
)
def test_template_markers(marker: str) -> None:
    warning = only(chat(7, f"a {marker} b", "c"))
    assert (warning.kind, warning.lines) == ("marker", (7,))
    assert warning.text.startswith(f"chat-template markers {marker} (1 row, first line 7) stand in the rows: ")


def test_thoughts_and_comparisons_are_no_markers() -> None:
    assert lint([*clean(), chat(7, "a < b | c > d", "<think>no</think> <b>x</b> a <| f |> b")]) == []


@pytest.mark.parametrize(
    ("text", "kind"),
    [("a\ufffdb", "replacement"), ("cafÃ©", "mojibake"), ("itâ€™s", "mojibake"), ("a\x1b[0m", "control")],
)
def test_garbled_text(text: str, kind: str) -> None:
    warning = only(chat(3, text, "c"), Example(4, text=text))
    assert (warning.kind, warning.lines) == (kind, (3, 4))
    assert warning.text.endswith(": lines 3 and 4")


def test_letters_of_other_languages_are_not_garbled() -> None:
    assert lint([*clean(), chat(3, "São Ângela ÃO à côté\tétait\r\n", "Größe 你好 😀")]) == []


def test_few_rows() -> None:
    (warning,) = lint(clean()[:9])
    assert warning.text == "only 9 rows: a model learns little from fewer than 10, and repeats them"


def test_duplicates() -> None:
    warning = only(chat(3, "question 101", "answer 101"), chat(4, "question 102", "answer 102"))
    assert warning.text == "2 rows repeat an earlier one (first: line 3 repeats line 101)"
    assert warning.lines == (3, 4)
    assert only(Example(1, text="a"), Example(2, text="a"), unit="row").text == (
        "1 row repeats an earlier one (first: row 2 repeats row 1)"
    )


def test_conflicting_answers() -> None:
    warning = only(chat(200, "question 101", "another"))
    assert (warning.kind, warning.lines) == ("conflict", (101, 200))
    assert warning.text == (
        "1 prompt has several different answers (lines 101 and 200); mend them, unless variety is meant"
    )


def test_one_response_for_most_rows() -> None:
    (warning,) = lint([chat(n, f"q {n}", "no" if n > 4 else f"a {n}") for n in range(1, 13)])
    assert (warning.kind, warning.lines) == ("same-response", tuple(range(5, 13)))
    assert warning.text == "8 of 12 rows have the same response 'no': it may become the answer to all"


def test_blanks_around_responses_that_are_learned() -> None:
    rows = [chat(n, f"q{n}", f" a{n}") for n in range(1, 6)]
    assert only(*rows).text == (
        "responses begin or end with blanks or line breaks, which the model learns too: lines 1, 2, 3 and 2 more"
    )
    context = Example(
        1, (Message("user", "q"), Message("assistant", "a ", False), Message("user", "r"), Message("assistant", "b"))
    )
    assert lint([*clean(), context]) == []


def test_the_quickstart_examples_are_clean_and_made_by_their_script() -> None:
    path = EXAMPLES / "quickstart.json"
    made = runpy.run_path(str(EXAMPLES / "make_quickstart.py"))
    assert path.read_text(encoding="utf-8") == made["text"]()
    rows = read_rows(path)
    conversion = convert(rows, recognise(rows, path), path)
    assert (conversion.format, len(conversion.examples), conversion.unused_columns) == ("sharegpt", 104, {})
    assert lint(conversion.examples) == []


def test_every_answer_of_a_quickstart_query_is_in_its_question() -> None:
    made = runpy.run_path(str(EXAMPLES / "make_quickstart.py"))
    for number in range(made["QUERIES"]):
        question, answer = made["query"](number)
        words = answer.removeprefix("query: ").replace("{", " ").replace("}", " ").replace(",", " ").split()
        values = [word.split("=")[-1].strip('"') for word in words if word != "@"]
        assert all(value in question for value in values), (question, answer)
