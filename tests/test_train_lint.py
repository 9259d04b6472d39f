"""The lint: each warning appears for its cause, with its lines, and not otherwise."""

from __future__ import annotations

import runpy
from dataclasses import replace
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
    """Return the only warning caused by these rows among clean ones."""
    (warning,) = lint([*clean(), *examples], unit)
    return warning


def test_clean_rows_give_no_warning() -> None:
    assert lint(clean()) == []


def test_placeholders_are_named_with_rows_and_lines() -> None:
    rows = [chat(12, "who?", "I am {{name}} of {{author}}"), chat(15, "what?", "{{ name }}, {{name}}")]
    assert only(*rows) == LintWarning(
        "placeholder",
        "placeholders {{name}} (2 rows, first line 12) and {{author}} (1 row, first line 12) are in the rows:"
        " fill them in, or the model learns to write them",
        (12, 15),
    )
    many = only(chat(1, "q", " ".join("{{" + c + "}}" for c in "abcdefg") + "."))
    assert "and 2 more are in the rows" in many.text


def test_braces_in_code_are_not_placeholders() -> None:
    assert lint([*clean(), chat(1, "q", "f'{{{x}}}' {x} {{}} {{1}}")]) == []


@pytest.mark.parametrize(
    "marker", ["<|im_start|>", "<|eot_id|>", "</s>", "[INST]", "<end_of_turn>", "<｜end▁of▁sentence｜>", "<<SYS>>"]
)
def test_template_markers_cause_a_warning(marker: str) -> None:
    warning = only(chat(7, f"a {marker} b", "c"))
    assert (warning.kind, warning.lines) == ("marker", (7,))
    assert warning.text.startswith(f"chat-template markers {marker} (1 row, first line 7) are in the rows: ")


def test_only_a_trailing_end_token_of_a_plain_text_is_accepted() -> None:
    texts = [f"{word} x <|eot_id|> \n" for word in "abcdefghijk"]
    plain = [Example(line, None, text) for line, text in enumerate(texts, 1)]
    assert lint(plain, ends={"<|eot_id|>"}) == []
    twice = Example(12, None, "b<|eot_id|>c<|eot_id|>")
    for found in (lint([*plain, twice], ends={"<|eot_id|>"}), lint([*plain[:-1], chat(12, "q", "a <|eot_id|>")])):
        assert [warning.kind for warning in found][:1] == ["marker"]
    assert lint([*plain, twice], ends={"<|eot_id|>"})[0].lines == (12,)
    assert lint(plain, ends={"</s>"})[0].kind == "marker"  # from a different base


def test_reasoning_tags_and_comparisons_are_not_markers() -> None:
    assert lint([*clean(), chat(7, "a < b | c > d", "<think>no</think> <b>x</b> a <| f |> b")]) == []


@pytest.mark.parametrize(
    ("text", "kind"),
    [("a\ufffdb", "replacement"), ("cafÃ©", "mojibake"), ("itâ€™s", "mojibake"), ("a\x1b[0m", "control")],
)
def test_garbled_text_causes_a_warning(text: str, kind: str) -> None:
    warning = only(chat(3, text, "c"), Example(4, text=text))
    assert (warning.kind, warning.lines) == (kind, (3, 4))
    assert warning.text.endswith(": 2 rows, lines 3 and 4")


def test_non_latin_letters_are_not_reported_as_garbled() -> None:
    assert lint([*clean(), chat(3, "São Ângela ÃO à côté\tétait\n", "Größe 你好 😀")]) == []


def test_few_rows_cause_a_warning() -> None:
    (warning,) = lint(clean()[:9])
    assert warning.text == "only 9 rows: with fewer than 10 a model learns little"


def test_duplicate_rows_cause_a_warning() -> None:
    warning = only(chat(3, "question 101", "answer 101"), chat(4, "question 102", "answer 102"))
    assert warning.text == "2 rows repeat an earlier one (first: line 3 repeats line 101)"
    assert warning.lines == (3, 4)
    assert only(Example(1, text="a"), Example(2, text="a"), unit="row").text == (
        "1 row repeats an earlier one (first: row 2 repeats row 1)"
    )


def test_conflicting_answers_cause_a_warning() -> None:
    warning = only(chat(200, "question 101", "another"))
    assert (warning.kind, warning.lines) == ("conflict", (101, 200))
    assert warning.text == (
        "1 prompt has several different answers (lines 101 and 200); fix them unless this is intended"
    )


def test_same_response_in_most_rows_causes_a_warning() -> None:
    (warning,) = lint([chat(n, f"q {n}", "no" if n > 4 else f"a {n}") for n in range(1, 13)])
    assert (warning.kind, warning.lines) == ("same-response", tuple(range(5, 13)))
    assert warning.text == "8 of 12 rows have the same response 'no': the model may give it to every prompt"


def test_whitespace_around_responses_causes_a_warning() -> None:
    rows = [chat(n, f"q{n}", f" a{n}") for n in range(1, 6)]
    assert only(*rows).text == (
        "responses start or end with spaces or line breaks, which the model will also learn: 5 rows,"
        " lines 1, 2, 3 and 2 more"
    )
    context = Example(
        1, (Message("user", "q"), Message("assistant", "a ", False), Message("user", "r"), Message("assistant", "b"))
    )
    assert lint([*clean(), context]) == []


def test_quickstart_examples_are_clean_and_reproducible() -> None:
    path = EXAMPLES / "quickstart.json"
    made = runpy.run_path(str(EXAMPLES / "make_quickstart.py"))
    assert path.read_text(encoding="utf-8") == made["text"]()
    rows = read_rows(path)
    conversion = convert(rows, recognise(rows, path), path)
    assert (conversion.format, len(conversion.examples), conversion.unused_columns) == ("sharegpt", 104, {})
    assert lint(conversion.examples) == []


def test_quickstart_answers_use_only_values_of_their_question() -> None:
    made = runpy.run_path(str(EXAMPLES / "make_quickstart.py"))
    for number in range(made["QUERIES"]):
        question, answer = made["query"](number)
        words = answer.removeprefix("query: ").replace("{", " ").replace("}", " ").replace(",", " ").split()
        values = [word.split("=")[-1].strip('"') for word in words if word != "@"]
        assert all(value in question for value in values), (question, answer)


# ---- texts that look right -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", ["nan", "NaN", " None\n", "null", "<NA>", "N/A", "#N/A", r"\N", "NaT", "undefined"])
def test_placeholders_of_empty_cells_cause_a_warning(cell: str) -> None:
    rows = [chat(3, f"question\n{cell.strip()}", "c"), chat(4, "q", cell.strip()), Example(5, text=cell)]
    found = lint([*clean(), *rows])
    warning = next(w for w in found if w.kind == "empty-cell")
    assert warning.lines == (3, 4, 5)
    assert warning.text.startswith(f"texts that are only '{cell.strip()}' (3 rows, first line 3) were probably written")


def test_null_words_in_sentences_are_not_reported() -> None:
    assert (
        lint([*clean(), chat(3, "What is NaN?", "None of them."), chat(4, "Is null\nfine?", "NaN is not a number")])
        == []
    )


@pytest.mark.parametrize(
    "text",
    [r"Day 0:\n- out 6:00\n- back 9:30", r"one\n\ntwo", r"a\r\nb", r"first\nsecond line", r"It's one.\nIt's two."],
)
def test_double_escaped_line_breaks_cause_a_warning(text: str) -> None:
    warning = only(chat(7, "q", text))
    assert (warning.kind, warning.lines) == ("escape", (7,))
    assert warning.text.startswith(r"escapes \n (1 row, first line 7) are in texts as literal characters")
    assert only(chat(7, "q", r"caf\u00e9")).text.startswith(r"escapes \uXXXX (1 row, first line 7)")


@pytest.mark.parametrize(
    "text",
    [
        r"Use `\n` for a line break.", r'print("a\nb")', r"s.split('\n')",
        r"$\nabla f \neq \nu$, \not\in, \rho, \theta",
        r"C:\new\notes.txt", r"\\server\names", "```\nprintf(\"a\\n\")\n```", "a\nb \\n c", r"\\n",
        r"\u{1f600} and \usepackage",
    ],
)  # fmt: skip
def test_backslashes_in_code_paths_and_latex_are_not_reported(text: str) -> None:
    assert [w for w in lint([*clean(), chat(7, "q", text)]) if w.kind == "escape"] == []


def test_carriage_returns_cause_a_warning() -> None:
    warning = only(chat(3, "q", "a\r\nb\r\nc"), chat(4, "q\rr", "d"), chat(5, "s", "e\nf"))
    assert (warning.kind, warning.lines) == ("line-end", (3, 4))
    assert warning.text == (
        "line ends CR LF (1 row, first line 3) and CR (1 row, first line 4) are in texts and are trained;"
        " data.newlines: lf converts them to LF"
    )


@pytest.mark.parametrize(
    "code", [0x200B, 0xAD, 0x2060, 0x202E, 0x202A, 0x2066, 0x200E, 0x200D, 0xFEFF, 0x180E, 0xE0041]
)
def test_invisible_characters_cause_a_warning(code: int) -> None:
    warning = only(chat(3, f"a{chr(code)}b", "c"), Example(4, text=f"x {chr(code)} y"))
    assert (warning.kind, warning.lines) == ("invisible", (3, 4))
    assert warning.text.startswith(f"invisible characters U+{code:04X} ")


@pytest.mark.parametrize(
    "text",
    ["👩‍💻 and 👨🏽‍🚀 and ❤️‍🔥", "می‌خواهم", "क्‍ष", "שלום\u200f! (abc)",
        "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f", "l’été\u00a0: 10\u202f%"],
)  # fmt: skip
def test_joiners_in_scripts_and_emoji_are_not_reported(text: str) -> None:
    assert lint([*clean(), chat(3, text, "c")]) == []


def test_quoted_responses_cause_a_warning() -> None:
    rows = [chat(n, f"q{n}", f'"a {n}"') for n in range(1, 30)]
    warning = only(*rows)
    assert (warning.kind, len(warning.lines)) == ("quoted", 29)
    assert lint([*clean(), chat(1, "q", '"a"'), chat(2, "r", 'He said "a" and "b"')]) == []


def test_held_out_rows_get_only_text_checks() -> None:
    rows = [chat(1, "q", "a\r\nb"), chat(2, "q", "{{name}}"), chat(3, "q", "nan"), chat(4, "q", "\u200bx")]
    assert {w.kind for w in lint(rows, heldout=True)} == {"placeholder", "empty-cell", "line-end", "invisible"}
    assert lint([], heldout=True) == []


def test_reasoning_is_checked_like_all_trained_text() -> None:
    thought = Example(3, (Message("user", "q"), Message("assistant", "a", True, "{{name}} lost \ufffd")))
    assert [warning.kind for warning in lint([*clean(), thought])] == ["placeholder", "replacement"]


def test_same_question_with_different_tools_is_a_different_prompt() -> None:
    rows = [replace(chat(n, "Rain?", f"a{n}"), tools=({"name": str(n)},)) for n in (1, 2)]
    assert lint([*clean(), *rows]) == []
    assert only(rows[0], replace(rows[1], tools=rows[0].tools)).kind == "conflict"


@pytest.mark.parametrize("result", ["null", "a\r\nb", "a\\nb"])
def test_tool_results_are_not_linted_as_trained_text(result: str) -> None:
    example = chat(1, "q", "a")
    messages = example.messages or ()
    assert lint([*clean(), replace(example, messages=(messages[0], Message("tool", result), *messages[1:]))]) == []
