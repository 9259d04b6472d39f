"""Splitting by content, overlap of two files, and near duplicates: held-out content is never trained."""

from __future__ import annotations

import json
import os
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from burnish.data.files import DataError
from burnish.data.formats import Example, Message
from burnish.files import file_sha256
from burnish.records import TrainRecord
from burnish.run import Run
from tests.support.commands import Cli
from train.data.contents.digests import Contents
from train.data.contents.keys import content_key, prefix_keys
from train.data.contents.near import near_duplicates
from train.data.mask import Row
from train.data.split.heldout import bounded, held_out

Split = tuple[list[Row], list[Row]]


def chat(*texts: str, line: int = 1, system: str = "") -> Example:
    turns = [Message(("user", "assistant")[n % 2], text) for n, text in enumerate(texts)]
    return Example(line, tuple([Message("system", system)] * bool(system) + turns))


def as_rows(examples: list[Example], each: int = 1) -> list[Row]:
    return [Row(example, [1, 2, 3], ((1, 3),)) for example in examples for _ in range(each)]


def split(rows: list[Row], share: float, seed: int, most: int | None = None) -> Split:
    """Return the training rows and the held-out rows."""
    examples = list({id(row.example): row.example for row in rows}.values())
    chosen = held_out(Contents.of(examples).keys, share, seed, most)
    held = {id(example) for example, chosen in zip(examples, chosen, strict=True) if chosen}
    return [row for row in rows if id(row.example) not in held], [row for row in rows if id(row.example) in held]


def evaluated(rows: list[Row], most: int) -> list[Row]:
    """Return the evaluated rows of an eval file."""
    chosen = bounded(Contents.of([row.example for row in rows]).keys, most, 0, "eval.jsonl")
    return [row for row, chosen in zip(rows, chosen, strict=True) if chosen]


def groups(examples: list[Example]) -> list[int]:
    found: list[int] = Contents.of(examples).keys.groups()[0].tolist()
    return found


def contents(rows: list[Row]) -> set[bytes]:
    return {content_key(row.example) for row in rows}


CONVERSATIONS = st.lists(
    st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map(lambda turns: [t for t in turns for _ in range(2)]),
    min_size=2,
    max_size=30,
)


@given(CONVERSATIONS, st.sampled_from([0.0, 0.1, 0.5]), st.integers(0, 5), st.integers(1, 2))
@settings(max_examples=200, deadline=None)
def test_content_is_never_in_both_training_and_held_out_rows(
    texts: list[list[str]], share: float, seed: int, each: int
) -> None:
    """All rows start on line 1, as in minified JSON; many repeat or continue each other."""
    examples = [chat(*turns) for turns in texts]
    if len({content_key(e) for e in examples}) == 1:
        with pytest.raises(DataError, match="all with the same content"):
            split(as_rows(examples), share, seed)
        return
    train, held = split(as_rows(examples, each), share, seed)
    assert len(train) + len(held) == len(examples) * each
    assert train and held
    assert not contents(train) & contents(held)
    keys = groups(examples)
    trained, heldout = ({keys[examples.index(row.example)] for row in side} for side in (train, held))
    assert not trained & heldout
    wanted = max(1, round(len(examples) * share) if share else len(examples) // 20)
    largest = max(keys.count(key) for key in keys)
    assert abs(len(held) / each - wanted) <= largest


@given(st.permutations(range(40)), st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_split_does_not_depend_on_row_order(order: list[int], seed: int) -> None:
    examples = [chat(f"q{n % 25}", f"a{n % 25}") for n in range(40)]
    held = contents(split(as_rows(examples), 0.2, seed)[1])
    assert contents(split(as_rows([examples[n] for n in order]), 0.2, seed)[1]) == held


def test_split_depends_on_the_seed_and_is_stable_when_rows_are_added() -> None:
    examples = [chat(f"q{n}", f"a{n}") for n in range(400)]
    held = contents(split(as_rows(examples), 0.1, 1)[1])
    assert len(held) == 40
    assert len(held & contents(split(as_rows(examples), 0.1, 2)[1])) < 15
    more = [*examples, *(chat(f"new {n}", f"a{n}") for n in range(40))]
    assert len(held & contents(split(as_rows(more), 0.1, 1)[1])) >= 32


def test_growing_prefixes_of_a_conversation_stay_in_one_split() -> None:
    """Later rows contain the answers of earlier ones, which would be both trained and examined."""
    talks = [[f"{who}{talk}.{n}" for n in range(3) for who in "qa"] for talk in range(10)]
    examples = [chat(*turns[: 2 * n]) for turns in talks for n in (1, 2, 3)]
    train, held = split(as_rows(examples), 0.3, 0)
    assert len(held) == 9
    prefixes = {key for row in train for key in prefix_keys(row.example)}
    assert not prefixes & {key for row in held for key in prefix_keys(row.example)}


def test_common_first_turn_does_not_group_conversations() -> None:
    examples = [chat("Hi.", "Hello!"), *(chat("Hi.", "Hello!", f"q{n}", f"a{n}") for n in range(40))]
    assert len(set(groups(examples))) == 41


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (chat("a b", "c\r\nd"), True),
        (chat(" a  b\u2028", "c d\n"), True),
        (Example(1, (Message("system", " "), Message("user", "a b"), Message("assistant", "c d", train=False))), True),
        (chat("a b", "c D"), False),
        (chat("a b c", "d"), False),
        (chat("a b", "c d", system="s"), False),
        (Example(1, text="a b c d"), False),
    ],
)
def test_same_content_ignores_whitespace_and_format(other: Example, same: bool) -> None:
    assert (content_key(chat("a b", "c d")) == content_key(other)) is same


def test_composed_and_decomposed_accents_are_the_same_content() -> None:
    assert content_key(chat("é", "ü")) == content_key(chat("e\u0301", "u\u0308"))


def words(seed: int, count: int) -> list[str]:
    return random.Random(seed).choices([f"w{n}" for n in range(5000)], k=count)


@pytest.mark.parametrize("count", [25, 60, 400])
def test_row_that_differs_in_a_few_words_is_a_near_duplicate(count: int) -> None:
    trained = [chat("Tell it.", " ".join(words(seed, count)), line=seed) for seed in range(30)]
    changed = words(7, count)
    changed[count // 2] = "other"
    moved = ["Before", "that:", *words(9, count)]
    held = [chat(f"Please, number {n}?", text, line=n) for n, text in enumerate((" ".join(changed), " ".join(moved)))]
    fresh = [chat("Tell it.", " ".join(words(seed, count)), line=seed) for seed in range(100, 110)]
    found = near_duplicates(trained, [*fresh, *held])
    assert [(h.line, t.line) for h, t in found.pairs] == [(0, 7), (1, 9)]
    assert (found.compared, found.whole) == (12, True)


def test_same_prompt_or_different_case_is_a_near_duplicate() -> None:
    trained = [chat("What is it?", "A barrel.", line=1), chat("Who?", "Ann", line=2), chat("🛶", "a boat", line=3)]
    held = [chat("what is it", "A cask."), chat("WHO?", "ann!"), chat("🛶🛶", "two boats"), chat("Where?", "Ann")]
    assert [t.line for _, t in near_duplicates(trained, held).pairs] == [1, 2]


def test_boilerplate_shared_by_all_rows_is_not_a_near_duplicate() -> None:
    task = " ".join(words(0, 200))
    rows = [chat(f"{task} {' '.join(words(n, 8))}", f"answer {n}", system=task) for n in range(1, 60)]
    assert near_duplicates(rows[:50], rows[50:]).pairs == []
    same_prompt = [chat("Write a poem.", " ".join(words(n, 30))) for n in range(60)]
    assert near_duplicates(same_prompt[:50], same_prompt[50:]).pairs == []


def test_scripts_without_spaces_are_compared_by_characters() -> None:
    trained = [chat("写一首诗", "月落乌啼霜满天江枫渔火对愁眠姑苏城外寒山寺夜半钟声到客船")]
    assert len(near_duplicates(trained, [chat("再写", "月落乌啼霜满天江枫渔火对愁眠姑苏城外寒山寺")]).pairs) == 1


def dumped(path: Path, rows: list[dict[str, Any]], minified: bool = False) -> Path:
    text = json.dumps(rows, separators=(",", ":")) if minified else "".join(json.dumps(row) + "\n" for row in rows)
    path.write_text(text)
    return path


def numbered_rows(numbers: range) -> list[dict[str, Any]]:
    return [{"prompt": f"When does boat {n} leave?", "completion": f"At {n} o'clock."} for n in numbers]


def check(cli: Cli, base: Path, data: Path, *more: str) -> tuple[int, str]:
    done = cli("train", "check", "--base.id", str(base), "--data.path", str(data), *more)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr + done.stdout


@pytest.mark.slow
def test_minified_json_is_read_completely(tiny_base: Path, tmp_path: Path, cli: Cli) -> None:
    code, output = check(cli, tiny_base, dumped(tmp_path / "x.json", numbered_rows(range(20)), minified=True))
    assert code == 0, output
    assert "18 for training, 2 held out" in output
    rows = [*numbered_rows(range(20)), *numbered_rows(range(3, 5))]
    code, output = check(cli, tiny_base, dumped(tmp_path / "x.json", rows, minified=True), "--data.max_length", "8")
    assert code == 2
    assert "x.json: 22 of 22 rows are longer than data.max_length 8 (line 1, row 1: " in output
    code, output = check(cli, tiny_base, tmp_path / "x.json")
    assert "2 rows repeat an earlier one (first: row 21 repeats row 4)" in output
    assert "duplicates      2 repeat an earlier row" in output


@pytest.mark.slow
def test_data_without_two_different_rows_is_an_error(tiny_base: Path, tmp_path: Path, cli: Cli) -> None:
    code, output = check(cli, tiny_base, dumped(tmp_path / "x.jsonl", numbered_rows(range(1)) * 5))
    assert (code, "the data has 5 rows, all with the same content: at least 2 different ones" in output) == (2, True)
    code, output = check(cli, tiny_base, dumped(tmp_path / "x.jsonl", numbered_rows(range(1))))
    assert (code, "the data has 1 row: at least 2 are needed" in output) == (2, True)
    long = ("--data.max_length", "8", "--data.over_length", "drop")
    code, output = check(cli, tiny_base, dumped(tmp_path / "x.jsonl", numbered_rows(range(5))), *long)
    assert (code, "x.jsonl: every row is longer than data.max_length 8, so none is left" in output) == (2, True)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["copy", "link", "itself"])
def test_eval_file_equal_to_the_training_file_is_rejected(tiny_base: Path, tmp_path: Path, cli: Cli, how: str) -> None:
    data, other = dumped(tmp_path / "x.jsonl", numbered_rows(range(12))), tmp_path / "eval.jsonl"
    {"copy": shutil.copy, "link": os.symlink, "itself": lambda *_: None}[how](data, other)
    evaluated = data if how == "itself" else other
    code, output = check(cli, tiny_base, data, "--data.eval_path", str(evaluated))
    assert code == 2
    assert (
        f"data.eval_path {evaluated}: 12 of its 12 rows are also in data.path {data} (line 1 is line 1 there;" in output
    )
    assert "set data.eval_overlap to drop (don't train them) or allow" in output
    code, output = check(cli, tiny_base, data, "--data.eval_path", str(evaluated), "--data.eval_overlap", "drop")
    assert (code, "with data.eval_overlap drop, no row would be left to train on" in output) == (2, True)
    code, output = check(cli, tiny_base, data, "--data.eval_path", str(evaluated), "--data.eval_overlap", "allow")
    assert code == 0
    assert "12 of its 12 rows are also in data.path" in output
    assert "12 for training, 12 held out" in output


@pytest.mark.slow
def test_eval_overlap_drop_works_across_formats(tiny_base: Path, tmp_path: Path, cli: Cli) -> None:
    data = dumped(tmp_path / "x.json", [*numbered_rows(range(20)), *numbered_rows(range(1))], minified=True)
    turns = [{"role": "user", "content": "When does boat 0 leave? "}, {"role": "assistant", "content": "At 0 o'clock."}]
    other = dumped(tmp_path / "eval.jsonl", [{"messages": turns, "id": 1}])
    code, output = check(cli, tiny_base, data, "--data.eval_path", str(other))
    assert (code, "1 of its 1 rows are also in data.path" in output) == (2, True)
    code, output = check(cli, tiny_base, data, "--data.eval_path", str(other), "--data.eval_overlap", "drop")
    assert code == 0
    assert "2 training rows are dropped (data.eval_overlap drop)" in output
    assert "19 for training, 1 held out" in output


@pytest.mark.slow
def test_overlap_is_recorded_and_a_different_eval_file_starts_a_new_run(
    tiny_base: Path, tmp_path: Path, cli: Cli
) -> None:
    data = dumped(tmp_path / "x.json", [*numbered_rows(range(20)), *numbered_rows(range(2))], minified=True)
    near = [{"prompt": "When does boat 7 leave?", "completion": "Never."}]
    other = dumped(tmp_path / "eval.jsonl", [*numbered_rows(range(1)), *near])
    command = ["train", "run", "--base.id", str(tiny_base), "--data.path", str(data), "--data.eval_path", str(other),
               "--data.eval_overlap", "drop", "--run.root", str(tmp_path), "--run.name", "r", "--train.max_steps", "1",
               "--exam.answers", "0"]  # fmt: skip
    done = cli(*command)
    assert done.returncode == 0, done.stderr
    recorded = Run(tmp_path / "r").read(TrainRecord).data
    assert (recorded.rows, recorded.eval_rows, recorded.duplicates, recorded.near_duplicates) == (20, 2, 2, 1)
    assert (recorded.eval_overlap, recorded.eval_overlap_dropped) == (1, 2)
    assert recorded.eval_sha256 == file_sha256(other)
    dumped(other, [*numbered_rows(range(1, 2)), *near])
    done = cli(*command)
    assert done.returncode == 2
    assert "eval: its content has changed since the run started" in done.stderr


def test_eval_rows_limits_held_out_and_evaluated_rows(capsys: pytest.CaptureFixture[str]) -> None:
    rows = as_rows([chat(f"question {n}", f"answer {n}", line=n + 1) for n in range(100)])
    train, held = split(rows, 0.5, 0, 10)
    assert (len(train), len(held)) == (90, 10)
    assert "10 of 100 rows are held out, not 50: data.eval_rows" in capsys.readouterr().err
    assert len(split(rows, 0.05, 0, 10)[1]) == 5
    chosen = evaluated(rows, 10)
    assert len(chosen) == 10
    assert [row.example.number for row in chosen] == sorted(row.example.number for row in chosen)
    assert contents(evaluated(rows[::-1], 10)) == contents(chosen)
    assert evaluated(rows, 100) == rows


def test_tool_definitions_are_part_of_the_content() -> None:
    plain, one, other = (replace(chat("Rain?", "No."), tools=tools) for tools in ((), *(({"name": n},) for n in "ab")))
    assert len({content_key(example) for example in (plain, one, other)}) == 3
    assert content_key(one) == content_key(replace(one, line=2))
