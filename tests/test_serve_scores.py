"""The scores of evaluate: edge cases and properties."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from burnish.data.columns.mapping import parse_columns
from burnish.data.files import locate
from burnish.data.formats import Message
from burnish.dialects.events import Call
from burnish.errors import UserError
from burnish.evaluations.suite import suite_path
from burnish.evaluations.thresholds import parse_threshold
from burnish.process import ignore_path
from serve.artifact import Chosen
from serve.batch.answering import completing
from serve.batch.prompts import Prompt, read_prompts
from serve.batch.results import Answer, Result, working_seconds
from serve.evaluate import custom, measuring, text_scores
from serve.evaluate.choice import options_of
from serve.evaluate.comparison import bootstrap, compare
from serve.evaluate.scorers import TEXTS, Against, make_score
from serve.evaluate.settings import EvaluateSettings
from tests.support.commands import ROOT
from train.settings import TrainSettings

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def row(expected: str | None = None, calls: tuple[Call, ...] = (), **columns: Any) -> Prompt:
    turn = None if expected is None else Message("assistant", expected, calls=calls)
    return Prompt(0, "line 1", columns, [{"role": "user", "content": "?"}], [], turn)


def score(name: str, said: str, expected: str | None = None, **more: Any) -> float:
    prompt = row(expected, **more.pop("columns", {}))
    return make_score(name, Against(**more), [prompt])(Answer(said, "stop"), prompt)


@given(st.text(), st.text())
def test_every_text_score_is_between_0_and_1(said: str, expected: str) -> None:
    for compare_texts in TEXTS.values():
        assert 0.0 <= compare_texts(said, expected) <= 1.0


@given(st.text(min_size=1).filter(str.strip))
def test_expected_text_scores_1(text: str) -> None:
    assert text_scores.exact(text, text) == text_scores.contains(text, text) == text_scores.f1(text, text) == 1.0


@given(st.text(), st.text())
def test_f1_is_symmetric_and_1_only_for_the_same_words(one: str, other: str) -> None:
    value = text_scores.f1(one, other)
    assert value == text_scores.f1(other, one)
    assert (value == 1.0) == (sorted(text_scores.words(one)) == sorted(text_scores.words(other)))


def test_f1_counts_shared_words() -> None:
    assert text_scores.f1("The cat sat!", "a cat sat down") == pytest.approx(2 * 2 / (2 + 3))
    assert text_scores.f1("dog dog dog", "dog") == pytest.approx(0.5)
    assert text_scores.f1("", "word") == 0.0


@given(json_values)
@example({"```": "```"})
def test_json_score_ignores_formatting(value: Any) -> None:
    compact, wide = json.dumps(value), json.dumps(value, indent=3, ensure_ascii=False)
    assert (
        text_scores.json_equal(wide, compact)
        == text_scores.json_equal(f"Here:\n```json\n{wide}\n```\n", compact)
        == 1.0
    )


@pytest.mark.parametrize(
    ("said", "right"),
    [('{"b": 1.0, "a": [2]}', 1), ('{"a": [2], "b": 1}', 1), ('{"a": [2], "b": true}', 0), ('{"a": [2]}', 0),
     ("[" * 100_000, 0), ('{"a": NaN}', 0), ("", 0), ('{"a": [2], "b": 1} ok?', 0)],
)  # fmt: skip
def test_json_score_compares_values(said: str, right: int) -> None:
    assert score("json", said, '{"a": [2], "b": 1}') == right


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**12), max_value=10**12, places=3))
def test_numeric_score_finds_a_number_at_the_end_of_a_sentence(value: Decimal) -> None:
    assert text_scores.numeric(f"First 17, so the answer is {value:,}.", str(value)) == 1.0
    assert text_scores.numeric(f"It is {value + 1}", str(value)) == 0.0 or abs(value) > 10**5


@pytest.mark.parametrize(
    ("text", "number"),
    [("costs $1,234.50!", "1234.5"), ("-3", "-3"), ("x=−3", "-3"), ("1e3", "1000"), (".5", "0.5"), ("10%", "10"),
     ("GPT4 says no", None), ("v2", None), ("3-4", "4"), ("no", None), ("1,2", "2"), ("12 or 13?", "13"),
     ("5kg", "5"), ("12ms", "12"), ("1.5e3m", "1500"),
     ("9 m²", "9"), ("-4°C", "-4"), ("0x1F", None), ("3a4", None), ("5.", "5")],
)  # fmt: skip
def test_numeric_score_uses_the_last_number(text: str, number: str | None) -> None:
    assert text_scores.last_number(text) == (None if number is None else Decimal(number))


@given(st.text(alphabet="0123456789,.eE-+ a"))
def test_numeric_score_accepts_any_text_with_digits(text: str) -> None:
    assert text_scores.numeric(text, text) in (0.0, 1.0)
    assert text_scores.numeric(text, "1") in (0.0, 1.0)


def test_long_runs_of_digits_are_scored_quickly() -> None:
    for text in ("1" * 200_000 + "a", "1," * 100_000, "." * 200_000, "1e" * 100_000, "-" * 200_000):
        assert text_scores.numeric(text, "1") in (0.0, 1.0)


def test_regex_score_searches_and_accepts_row_patterns() -> None:
    assert score("regex", "the answer: B", pattern=r"answer: [AB]$") == 1.0
    assert score("regex", "b", "^B$") == 0.0
    with pytest.raises(UserError, match=r"line 1: the pattern can't be compiled: .*unterminated"):
        score("regex", "x", "[a")


def test_regex_with_unbounded_time_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.evaluate.scorers.LIMIT_S", 0.2)
    with pytest.raises(UserError, match="line 1: the pattern: no result within"):
        score("regex", "a" * 40 + "!", pattern=r"(a+)+$")


SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


@pytest.mark.parametrize(("said", "right"), [('{"n": 1}', 1), ('{"n": "1"}', 0), ("{}", 0), ("n: 1", 0)])
def test_json_schema_score_uses_a_file_or_a_column(said: str, right: int) -> None:
    assert score("json_schema", said, schema=SCHEMA) == right
    assert score("json_schema", said, columns={"schema": json.dumps(SCHEMA)}) == right
    assert score("json_schema", said, column="s", columns={"s": SCHEMA}) == right


@pytest.mark.parametrize(
    ("columns", "fault"),
    [({}, "no JSON Schema in the column 'schema'"), ({"schema": "{"}, "the schema is not JSON"),
     ({"schema": {"type": "strin"}}, "the schema is not valid: 'strin'")],
)  # fmt: skip
def test_invalid_schema_is_reported_before_any_request(columns: dict[str, Any], fault: str) -> None:
    with pytest.raises(UserError, match=fault):
        score("json_schema", "{}", columns=columns)


def test_tool_calls_score_compares_exactly_in_any_order() -> None:
    wanted = (Call("a", '{"x": 1}'), Call("b", "{}"))
    prompt = row("", wanted)
    compare_calls = make_score("tool_calls", Against(), [prompt])

    def calls(*pairs: tuple[str, str]) -> float:
        made = tuple({"function": {"name": name, "arguments": text}} for name, text in pairs)
        return compare_calls(Answer("", "tool_calls", made), prompt)

    assert calls(("b", "{}"), ("a", '{"x": 1.0}')) == 1.0
    assert calls(("a", '{"x": 1}')) == calls(("b", "{}"), ("a", '{"x": 2}')) == calls() == 0.0
    assert calls(("b", "{}"), ("a", '{"x": 1}'), ("b", "{}")) == calls(("b", "{"), ("a", '{"x": 1}')) == 0.0


def test_custom_score_function_receives_the_row(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "def half(answer, row): return 0.5 if row['expected'] == 'x' and row['n'] == 3 else 0\n"
        "def yes(answer, row): return answer == 'yes'\n"
        "def much(answer, row): return 2\n"
        "def broken(answer, row): return row['missing']\n"
    )
    assert score(f"python:{file}:half", "", "x", columns={"n": 3}) == 0.5
    assert score(f"python:{file}:yes", "yes") == 1.0
    faults = {"much": "must return true, false or a number from 0 to 1, got 2", "broken": "raised KeyError",
              "hal": "no function 'hal'; did you mean 'half'", "no-name": "expected python:file.py"}  # fmt: skip
    for name, fault in faults.items():
        with pytest.raises(UserError, match=fault):
            score(f"python:{file}:{name}", "")


@pytest.mark.parametrize(
    ("value", "number"),
    [(np.bool_(True), 1.0), (np.float32(0.5), 0.5), (np.int64(1), 1.0), (Fraction(1, 4), 0.25), (np.array([0.5]), 0.5),
     (np.float64("nan"), None), (math.inf, None), (10**400, None), (np.zeros(2), None), ("1", None), (None, None)],
)  # fmt: skip
def test_custom_score_may_be_any_real_number_from_0_to_1(value: Any, number: float | None) -> None:
    assert text_scores.clamp(value) == number


@pytest.mark.parametrize(
    ("code", "fault"),
    [("import sys\ndef f(a, r): sys.exit(0)", "mine.py:f raised SystemExit: 0"),
     ("import sys\nsys.exit(0)", "mine.py raised SystemExit: 0"),
     ("def f(a, r):\n  while True: pass", "mine.py:f: no result within 0.2 s"),
     ("while True: pass", "mine.py: no result within 0.2 s"),
     ("def f(a, r): return f(a, r)", "mine.py:f raised RecursionError")],
)  # fmt: skip
def test_custom_score_that_exits_or_never_ends_is_an_error(
    code: str, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(custom, "LIMIT_S", 0.2)
    (tmp_path / "mine.py").write_text(code)
    with pytest.raises(UserError, match=fault):
        score(f"python:{tmp_path}/mine.py:f", "")


@pytest.mark.parametrize(
    ("name", "more", "fault"),
    [("exakt", {}, "unknown 'exakt'; did you mean 'exact'"), ("exact", {}, "line 1: no assistant turn"),
     ("f1", {"column": "gold"}, "line 1: the column 'gold' is empty or missing"),
     ("json", {"expected": "{a:1}"}, "line 1: the expected answer is not JSON: '{a:1}'"),
     ("numeric", {"expected": "five"}, "line 1: the expected answer has no number in digits: 'five'"),
     ("tool_calls", {}, "line 1: no assistant turn")],
)  # fmt: skip
def test_rows_missing_required_values_are_reported(name: str, more: dict[str, Any], fault: str) -> None:
    with pytest.raises(UserError, match=fault):
        score(name, "x", **more)


def options(*prompts: Prompt, templates: list[str] | None = None, column: str | None = None) -> list[list[str]]:
    return options_of(prompts, templates, Against(column))


def test_choice_options_come_from_templates_or_a_column() -> None:
    prompt = row("B", a="one", b="two", options=["A", "B"], gold="two")
    assert options(prompt) == options(prompt, templates=["A", "B"]) == [["A", "B"]]
    assert options(prompt, templates=["{{ a }}", "{{ b }}"], column="gold") == [["one", "two"]]
    assert options(row("B", options='["A", "B"]')) == [["A", "B"]]


@pytest.mark.parametrize(
    ("prompt", "templates", "fault"),
    [(row("C", options=["A", "B"]), None, "the correct answer 'C' is not one of the options: A, B"),
     (row("A", options=["A", "A "]), None, "two options are the same"),
     (row("A", options=["A"]), None, "expected 2 to 26 options, got 1"),
     (row("A"), None, "no list of texts in the column 'options': set --options"),
     (row("A", b="x"), ["{{ a }}"], "'a' is not a column")],
)  # fmt: skip
def test_invalid_choice_options_are_reported(prompt: Prompt, templates: list[str] | None, fault: str) -> None:
    with pytest.raises(UserError, match=fault):
        options(prompt, templates=templates)


scores = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=60)


@given(scores)
def test_comparison_is_symmetric_and_counts_every_row_once(pairs: list[tuple[float, float]]) -> None:
    base, tuned = zip(*pairs, strict=True)
    one, other = compare(base, tuned), compare(tuned, base)
    assert one.wins + one.ties + one.losses == len(pairs)
    assert (one.wins, one.losses) == (other.losses, other.wins)
    assert one.difference == pytest.approx(one.tuned - one.base, abs=1e-12) == pytest.approx(-other.difference)
    assert compare(base, tuned) == one, "the seed is fixed"
    if len(pairs) == 1:
        assert one.difference_ci is None
    else:
        assert one.difference_ci is not None and one.difference_ci[0] <= one.difference_ci[1]


@pytest.mark.parametrize(("base", "tuned"), [([], []), ([1.0], [1.0, 0.0])])
def test_comparison_without_the_same_rows_is_an_error(base: list[float], tuned: list[float]) -> None:
    with pytest.raises(ValueError, match="at least one"):
        compare(base, tuned)


def test_bootstrap_interval_matches_the_normal_approximation() -> None:
    draw = np.random.default_rng(3)
    values = draw.normal(0.2, 1.0, 400)
    (interval,) = bootstrap(values[None])
    half = 1.96 * values.std(ddof=1) / math.sqrt(len(values))
    assert interval is not None
    assert interval == pytest.approx((values.mean() - half, values.mean() + half), abs=0.015)


def test_paired_interval_is_narrower_than_unpaired_intervals() -> None:
    hard = np.random.default_rng(1).random(200) > 0.5
    base = hard.astype(float)
    tuned = np.where(np.arange(200) % 20 == 0, 1.0, base)
    found = compare(base.tolist(), tuned.tolist())
    assert found.difference_ci and found.tuned_ci
    assert found.difference_ci[1] - found.difference_ci[0] < (found.tuned_ci[1] - found.tuned_ci[0]) / 2
    assert found.losses == 0 and found.difference_ci[0] >= 0


@pytest.mark.parametrize(
    ("text", "score_", "holds"),
    [(">= 0.8", 0.8, True), (">=0.8", 0.7999, False), ("> 0.8", 0.8, False), ("< 10%", 0.05, True),
     ("<= .5", 0.5000000000001, True)],
)  # fmt: skip
def test_threshold_is_parsed_as_a_comparison(text: str, score_: float, holds: bool) -> None:
    assert parse_threshold(text).holds(score_) == holds
    assert parse_threshold(str(parse_threshold(text))) == parse_threshold(text)


@pytest.mark.parametrize("text", ["0.8", ">= 80", "== 1", "", ">= 0.8 and more", ">= nan"])
def test_invalid_thresholds_are_rejected(text: str) -> None:
    with pytest.raises(ValueError, match="such as '>= 0.8'"):
        parse_threshold(text)


def suite() -> list[dict[str, Any]]:
    return [json.loads(line) for line in suite_path("general").read_text().splitlines()]


def test_general_suite_accepts_only_correct_answers() -> None:
    rows = suite()
    prompts = [Prompt(n, f"line {n + 1}", one, [], []) for n, one in enumerate(rows)]
    compare_rows = make_score("rows", Against("expected"), prompts)
    assert 150 < len(rows) == len({one["prompt"] for one in rows})
    for one, prompt in zip(rows, prompts, strict=True):
        assert compare_rows(Answer(one["example"], "stop"), prompt) == 1.0, one
        for wrong in ("", "Hello there", "42424242", "42424242 " * 200):
            assert compare_rows(Answer(wrong, "stop"), prompt) == 0.0, (one, wrong)


def test_a_row_that_names_no_score_is_an_error() -> None:
    with pytest.raises(UserError, match="line 1: the column 'score': expected the name of a score, got 'choice'"):
        score("rows", "x", columns={"score": "choice"})


def test_the_docs_example_trains_asks_and_scores_the_same_rows() -> None:
    page = (ROOT / "docs" / "generate-and-evaluate.md").read_text()
    config = yaml.safe_load(page.split("`quiz.yaml`, trains on it:")[1].split("```yaml\n")[1].split("```")[0])
    settings = TrainSettings.model_validate(config)
    rows = read_prompts(locate(str(ROOT / config["data"]["path"])), columns=parse_columns(settings.data.columns))
    assert rows[0].messages[-1]["content"].endswith("\nD. Aluminium") and rows[0].expected
    letters = page.split("--options ")[1].split('"')[0].split(",")
    assert options(*rows, templates=letters) == [letters] * len(rows)
    assert set(settings.evaluation) == {"quiz"} and "NAME=quiz" in page


@pytest.mark.parametrize(
    ("settings", "error"),
    [({"data": "d"}, "set data and score, or suite"), ({"suite": "general", "score": "exact"}, "leave out score"),
     ({"data": "d", "score": "exact", "pattern": "x"}, "pattern has no effect on the score exact, only on regex"),
     ({"data": "d", "score": "f1", "threshold": "0.8"}, "such as '>= 0.8'")],
)  # fmt: skip
def test_settings_that_contradict_the_score_are_rejected(settings: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        EvaluateSettings.model_validate(settings)


@pytest.mark.parametrize("reference", ["http://127.0.0.1:9/schema.json", "#/$defs/missing", "file:///etc/passwd"])
def test_a_reference_out_of_the_schema_is_not_fetched(reference: str) -> None:
    with pytest.raises(UserError, match="line 1: the schema refers to '.*', which is not in it"):
        score("json_schema", "{}", schema={"$ref": reference})


spans = st.lists(st.tuples(st.integers(0, 50), st.integers(1, 100)), max_size=12)


@given(spans)
def test_time_of_rows_answered_together_counts_once(pairs: list[tuple[int, int]]) -> None:
    results = [Result(seconds=seconds, finished=seconds + start) for start, seconds in pairs]
    covered = {second for start, seconds in pairs for second in range(start, start + seconds)}
    assert working_seconds([*results, Result(error="failed")]) == len(covered)


def test_failed_row_is_asked_again_by_the_next_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replies = iter([Result(error="timed out"), Result((Answer("2", "stop"),))])
    monkeypatch.setattr(measuring, "_answer", lambda *given: given[-1].add(0, next(replies)))
    prompt = row("2")
    work = measuring.Work([prompt], completing({}), {}, tmp_path, make_score("exact", Against(), [prompt]))
    chosen = Chosen(tmp_path / "m.gguf", "m", record={"artifact": {"sha256": "0" * 64}})
    settings = EvaluateSettings(data="d", score="exact")
    found = [measuring.measure(work, chosen, settings, "m", ignore_path).scores for _ in range(3)]
    assert found == [[0.0], [1.0], [1.0]]


@pytest.mark.parametrize(
    ("changes", "setting"),
    [({"template_kwargs": {"thinking": False}}, "auto"), ({"template_date": "2026-02-02"}, "auto"), ({}, "parse")],
)
def test_answers_to_prompts_rendered_otherwise_are_not_reused(
    changes: dict[str, Any], setting: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def answer_one(*given: Any) -> None:
        asked.append(given[3])
        given[-1].add(0, Result((Answer("2", "stop"),)))

    monkeypatch.setattr(measuring, "_answer", answer_one)
    prompt = row("2")
    work = measuring.Work([prompt], completing({}), {}, tmp_path, make_score("exact", Against(), [prompt]))
    first = Chosen(tmp_path / "m.gguf", "m", recorded=True, record={"artifact": {"sha256": "0" * 64}})
    auto = EvaluateSettings(data="d", score="exact")
    measuring.measure(work, first, auto, "first", ignore_path)
    other = auto.model_copy(update={"special_tokens": setting})
    measuring.measure(work, replace(first, **changes), other, "second", ignore_path)
    measuring.measure(work, first, auto, "third", ignore_path)
    assert asked == ["first", "second"]
