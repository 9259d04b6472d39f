"""Cached rows: equal to rows prepared in memory, shared by commands, atomic, and bounded in size."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from burnish.bases.base import Base
from burnish.children import ROOT, search_path
from burnish.data.files import DataError, read_rows
from burnish.data.formats import Example, Message, convert
from burnish.dialects.events import Call
from tests.support.commands import Cli
from train.data.cache.encoded import decoded, encoded
from train.data.cache.shelf import Shelf
from train.data.cache.store import META, Store
from train.data.mask import Codec, build, prove
from train.data.sources import FIRST_ROWS, open_rows
from train.data.split.fit import fit
from train.data.stream import fill
from train.data.stream.file import file_rows
from train.data.text import Text
from train.settings import DataSection

MANY = FIRST_ROWS + 300  # more than are read ahead, so that several processes prepare them


def chats(count: int) -> list[Any]:
    """Conversations of one to twelve exchanges, with and without system turns, reasoning and untrained turns."""
    rng = random.Random(count)
    rows = []
    for number in range(count):
        turns = [{"role": "system", "content": f"Be brief, {number % 7}."}] if number % 3 else []
        for turn in range(12 if number % 100 == 0 else rng.choice((1, 1, 1, 2, 3))):
            turns.append(
                {"role": "user", "content": f"question {number}.{turn} <|im_end|> é\u0301 {'x' * (number % 5)}"}
            )
            turns.append({"role": "assistant", "content": f"answer {number % 50} {turn}", "train": bool(turn % 4 != 1)})
        rows.append({"messages": turns})
    return rows


def written(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


@dataclass(frozen=True)
class Machinery:
    """The inputs for preparing a file's rows, and its cache."""

    text: Text
    root: Path

    def store(self, path: Path, **data: Any) -> Store:
        section = DataSection(path=str(path), **data)
        shelf = Shelf(1 << 30, self.root)
        return file_rows(open_rows(str(path), section), path.read_text(), self.text, section, shelf)

    def entries(self) -> list[Path]:
        return sorted(self.root.iterdir()) if self.root.is_dir() else []


@pytest.fixture
def machinery(base_tokenizer: Any, base_directory: Path, own: Any, codec: Codec, tmp_path: Path) -> Machinery:
    base = Base("x", None, base_directory, "")
    return Machinery(Text(base=base, tokenizer=base_tokenizer, codec=codec, template=own), tmp_path / "rows")


@pytest.mark.parametrize(("processes", "limit"), [(1, 60), (2, 4096)])
def test_stored_rows_equal_rows_prepared_in_memory(
    machinery: Machinery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int, limit: int
) -> None:
    monkeypatch.setattr(fill, "cpu_count", lambda: processes)
    path = written(tmp_path / "x.jsonl", chats(MANY))
    examples = convert(read_rows(path), "messages", path).examples
    expected = build(examples, machinery.text.template, machinery.text.codec)
    prove(expected, machinery.text.template, machinery.text.codec)
    store = machinery.store(path)
    assert list(store) == list(examples)
    fitting = fit(store, DataSection(path="x", max_length=limit, over_length="truncate"), "x")
    found = fitting.rows(fitting.examples)
    kept = [row for row in expected if len(row.input_ids) <= limit or row.spans[0][0] < limit]
    assert len(found) == len(kept) and fitting.lengths.tolist() == [len(row.input_ids) for row in expected]
    for mine, other in zip(found, kept, strict=True):
        assert (mine.example, mine.input_ids) == (other.example, other.input_ids[:limit])
        spans = [(start, min(end, limit)) for start, end in other.spans if start < limit]
        assert (list(mine.spans), mine.turns) == (spans, other.turns[: len(spans)])
        assert mine.cut == (other.spans[len(spans) - 1][1] > limit)
    flat = [[len(r.input_ids), *r.input_ids, *(place for span in r.spans for place in span)] for r in found]
    assert found.sha256() == hashlib.sha256(b"".join(array("q", row).tobytes() for row in flat)).hexdigest()
    assert found.terminators == list(dict.fromkeys(r.input_ids[end - 1] for r in found for _, end in r.whole))
    assert found.trained_tokens(False) == sum(end - start for row in found for start, end in row.spans)


TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
MESSAGES = st.builds(
    Message, st.sampled_from(["user", "assistant", "tool"]), TEXT, st.booleans(), TEXT,
    st.lists(st.builds(Call, TEXT, TEXT), max_size=2).map(tuple), st.lists(TEXT, max_size=2).map(tuple), TEXT,
)  # fmt: skip
CONTENT = st.one_of(
    st.builds(Example, st.just(1), st.lists(MESSAGES, min_size=1, max_size=3).map(tuple), tools=st.just(({"a": 1},))),
    st.builds(Example, st.just(1), st.none(), TEXT, prompt=TEXT),
)


@given(CONTENT)
@settings(max_examples=100)
def test_examples_round_trip(example: Example) -> None:
    found = decoded(encoded(example), {"line": 1, "row": 0, "unit": "line", "file": ""})
    assert (found, found.tools) == (example, example.tools)


def test_cached_rows_are_reused_unless_file_or_settings_change(
    machinery: Machinery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "x.jsonl", chats(30))
    first = machinery.store(path)
    (entry,) = machinery.entries()
    monkeypatch.setattr(fill.Filling, "run", lambda self: pytest.fail("the rows were prepared again"))
    assert list(machinery.store(path, max_length=50, over_length="drop", eval_split=0.3)) == list(first)
    monkeypatch.undo()
    machinery.store(path, special_tokens="text")
    assert len(machinery.entries()) == 2
    written(path, chats(29))
    assert len(machinery.store(path)) == 29
    monkeypatch.setattr("train.data.cache.key.code_sha256", lambda: "another version of the code")
    machinery.store(path)
    assert len(machinery.entries()) == 4 and entry in machinery.entries()


def test_incomplete_or_damaged_cache_entry_is_rebuilt(machinery: Machinery, tmp_path: Path) -> None:
    path = written(tmp_path / "x.jsonl", chats(20))
    rows = list(machinery.store(path))
    (entry,) = machinery.entries()
    for damage in (lambda: (entry / META).write_text("{"), lambda: (entry / "line").unlink()):
        damage()
        assert list(machinery.store(path)) == rows


def test_least_recently_used_entry_is_evicted_unless_in_use(machinery: Machinery, tmp_path: Path) -> None:
    stores = [machinery.store(written(tmp_path / f"{n}.jsonl", chats(20 + n))) for n in range(3)]
    for age, store in enumerate(stores):
        os.utime(store.directory / META, (time.time() - 100 + age,) * 2)
    names = [store.directory for store in stores]
    del stores[1:], store  # the first is still being read
    Shelf(0, machinery.root).tidy(keep=names[2].name)
    assert machinery.entries() == sorted([names[0], names[2]])
    assert len(list(stores[0])) == 20


def test_errors_of_reader_and_rows_are_reported_together_without_a_cache_entry(
    machinery: Machinery, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path / "x.jsonl", chats(MANY))
    lines = path.read_text().splitlines(keepends=True)
    for at in range(5, MANY, 20):
        lines[at] = [lines[at].replace('"role": "user"', '"role": "usr"'), lines[at][:40] + "\n"][at // 20 % 2]
    path.write_text("".join(lines))
    with pytest.raises(DataError) as caught:
        machinery.store(path)
    faults = caught.value.faults
    assert len({fault.split(": ")[1].split(",")[0] for fault in faults}) == len(range(5, MANY, 20))
    report = caught.value.report().splitlines()
    assert len(report) <= 21 and "line 6" in caught.value.report()
    assert machinery.entries() == []


def test_killed_worker_process_is_reported(
    machinery: Machinery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fill, "cpu_count", lambda: 2)
    parent = os.getpid()

    def dies(self: Any, example: Any, found: Any) -> None:
        if os.getpid() != parent and example.line > FIRST_ROWS:
            os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr("train.data.stream.work.Work._inspect", dies)
    with pytest.raises(Exception, match="a child process was lost: ended by SIGKILL"):
        machinery.store(written(tmp_path / "x.jsonl", chats(MANY)))
    assert machinery.entries() == []


@pytest.fixture
def command(tiny_base: Path, tmp_path: Path) -> Iterator[tuple[list[str], dict[str, str]]]:
    path = written(tmp_path / "x.jsonl", chats(MANY))
    words = ["train", "check", "--base.id", str(tiny_base), "--data.path", str(path), "--data.max_length", "2048"]
    yield words, {"BURNISH_CACHE": str(tmp_path / "cache")}


def test_killed_command_leaves_no_incomplete_cache_entry(
    command: tuple[list[str], dict[str, str]], cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words, variables = command
    environment = {**os.environ, **search_path(os.environ), **variables}
    for number in range(3):
        with subprocess.Popen(
            [sys.executable, "-P", "-m", *words], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True,
        ) as process:  # fmt: skip
            rows, started = tmp_path / "cache" / "rows", time.monotonic()
            while process.poll() is None and not list(rows.glob(".*")) and time.monotonic() - started < 120:
                time.sleep(0.02)
            time.sleep(0.3 * number)
            os.killpg(process.pid, signal.SIGKILL)
    monkeypatch.setenv("BURNISH_CACHE", variables["BURNISH_CACHE"])
    done = cli(*words)
    assert done.returncode == 0, done.stderr
    assert f"{MANY:,} rows, format messages" in done.stderr
    assert [path.name[0] for path in rows.iterdir()].count(".") == 0
    again = cli(*words)
    assert again.stdout == done.stdout
    assert "prepared rows are cached" in done.stderr and "prepared rows are kept" not in again.stderr
