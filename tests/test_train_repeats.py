"""Repeated rows: counted always, left out when asked; near ones found with MinHash over all rows."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from burnish.data.formats import Example, Message
from train.data.contents.minhash import PART_ROWS, near_repeats
from train.data.prepare import Prepared, prepare
from train.settings import TrainSettings


def words(seed: int, count: int = 40) -> list[str]:
    return random.Random(seed).choices([f"w{n}" for n in range(5000)], k=count)


def chat(text: str, line: int = 1) -> Example:
    return Example(line, (Message("user", "Tell it."), Message("assistant", text)))


def test_near_repeats_are_found_among_all_rows() -> None:
    count = PART_ROWS + 500
    examples = [chat(" ".join(words(n)), n) for n in range(count)]
    examples[-1] = chat(" ".join(words(3)).upper() + ".", count)  # the same but for case and punctuation
    examples[PART_ROWS] = chat(" ".join([*words(5), "more"]), PART_ROWS)
    examples[1] = chat(" ".join([*words(7)[:20], *words(8)[:20]]), 1)  # half of it, which is not near enough
    assert near_repeats(examples).tolist() == [PART_ROWS, count - 1]


def test_short_answers_are_not_near_repeats() -> None:
    assert near_repeats([chat(text) for text in ("yes", "no", "Yes!", "🙂", "🙂🙂", "no way")]).tolist() == []


def prepared(base: Path, path: Path, **data: Any) -> Prepared:
    found = {"base": {"id": str(base)}, "data": {"path": str(path), **data}, "chat": {"date": "2026-01-01"}}
    return prepare(TrainSettings.model_validate(found))


@pytest.mark.parametrize(("dedupe", "left"), [("none", 40), ("exact", 38), ("near", 36)])
def test_repeated_rows_are_counted_and_left_out_if_asked(
    tiny_base: Path, tmp_path: Path, dedupe: str, left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path / "cache"))
    answers = [" ".join(words(n)) for n in range(36)]
    answers += [answers[4], f"{answers[5]} "]  # repeats, but for blanks
    answers += [f"{answers[6].upper()} indeed", f"{answers[7]}!"]
    asked = [("user", "Tell it."), ("assistant", "")]
    rows = [{"messages": [{"role": r, "content": text or answer} for r, text in asked]} for answer in answers]
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = prepared(tiny_base, path, dedupe=dedupe)
    assert len(made.train) + len(made.heldout) == left
    assert (made.duplicates, made.deduplicated) == (2, 40 - left)
