"""Cached rows: equal to rows prepared in memory, shared by commands, atomic, and bounded in size."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from array import array
from dataclasses import dataclass, replace
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
from burnish.errors import UserError
from tests.support.commands import Cli
from tests.support.thorough import some
from train.data.cache import shelf as shelves
from train.data.cache.encoded import decoded, encoded
from train.data.cache.key import rows_key
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
        opened = open_rows(str(path), section)
        return file_rows(opened, opened.dataset.sha256(), self.text, section, shelf)

    def entries(self) -> list[Path]:
        return sorted(path for path in self.root.glob("[!l]*")) + sorted(self.root.glob(".*"))


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


def test_cache_key_depends_on_template_variables_their_order_and_the_embeddings(machinery: Machinery) -> None:
    text = machinery.text
    assert text.template is not None

    def key(embeddings: int = 10, dropped: tuple[str, ...] = (), **variables: Any) -> str:
        template = replace(text.template, variables=variables)
        changed = replace(text, template=template, dropped_tokens=list(dropped))
        return rows_key("sha256", "x.jsonl", "messages", DataSection(path="x.jsonl"), changed, embeddings)

    nested, other = {"a": 1, "b": 2}, {"b": 2, "a": 1}
    keys = [key(), key(11), key(dropped=("<x>",)), key(v=1), key(v=2), key(v=nested), key(v=other)]
    assert len(set(keys)) == len(keys) and key() == keys[0]


def test_file_that_changes_while_it_is_read_is_rejected(
    machinery: Machinery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, run = written(tmp_path / "x.jsonl", chats(30)), fill.Filling.run

    def grows(self: Any) -> Any:
        path.write_text(path.read_text() + json.dumps(chats(1)[0]) + "\n")
        return run(self)

    monkeypatch.setattr(fill.Filling, "run", grows)
    with pytest.raises(DataError, match=r"x\.jsonl: changed while it was read"):
        machinery.store(path)
    assert machinery.entries() == []


def test_incomplete_or_damaged_cache_entry_is_rebuilt(machinery: Machinery, tmp_path: Path) -> None:
    path = written(tmp_path / "x.jsonl", chats(20))
    rows = list(machinery.store(path))
    (entry,) = machinery.entries()

    def flipped() -> None:
        data = bytearray((entry / "ids").read_bytes())
        data[40] ^= 1
        (entry / "ids").write_bytes(data)

    for damage in (lambda: (entry / META).write_text("{"), lambda: (entry / "line").unlink(), flipped):
        damage()
        assert list(machinery.store(path)) == rows


def test_commands_that_prepare_the_same_rows_wait_for_the_first(
    machinery: Machinery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path / "x.jsonl", chats(30))
    run, runs, found = fill.Filling.run, list[int](), list[Store]()
    second = threading.Thread(target=lambda: found.append(machinery.store(path)))

    def counted(self: Any) -> Any:
        runs.append(1)
        second.start()
        output = ""
        while "waiting for it" not in output:
            output += capsys.readouterr().err
            time.sleep(0.01)
        return run(self)

    monkeypatch.setattr(fill.Filling, "run", counted)
    found.append(machinery.store(path))
    second.join()
    assert len(runs) == 1 and len(machinery.entries()) == 1
    assert list(found[0]) == list(found[1])


def test_two_writers_of_one_key_leave_one_whole_entry(machinery: Machinery, tmp_path: Path) -> None:
    shelf = Shelf(1 << 30, machinery.root)
    with shelf.writing("key") as one:
        with shelf.writing("key") as two:
            shelf.tidy(keep="")  # removes nothing that is being written
            for directory in (one, two):
                (directory / META).write_text(directory.name)
        assert (machinery.root / "key" / META).read_text() == two.name
    assert [path.name for path in machinery.entries()] == ["key"]


def test_without_locks_nothing_recent_is_removed(
    machinery: Machinery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    shelf = Shelf(0, machinery.root)
    with shelf.writing("key") as directory:
        (directory / META).write_text("{}")
        shelf.tidy(keep="")
        assert directory.is_dir()
    shelf.tidy(keep="")
    assert [path.name for path in machinery.entries()] == ["key"]
    os.utime(machinery.root / "key" / META, (0, 0))
    shelf.tidy(keep="")
    assert machinery.entries() == []


def test_entries_that_vanish_while_the_cache_is_tidied_are_skipped(
    machinery: Machinery, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = Shelf(0, machinery.root)
    for name in ("a", "b"):
        with shelf.writing(name) as directory:
            (directory / META).write_text("{}")

    def vanishing(path: Path) -> int:
        shutil.rmtree(path)
        raise FileNotFoundError(path)

    monkeypatch.setattr(shelves, "_size", vanishing)
    shelf.tidy(keep="")
    assert machinery.entries() == []


def test_unwritable_cache_is_one_error_with_the_remedy(machinery: Machinery, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"can't be written .* set BURNISH_CACHE to a different directory"):
        Machinery(machinery.text, tmp_path / "file" / "rows").store(written(tmp_path / "x.jsonl", chats(3)))


def test_deeply_nested_row_is_prepared_in_the_main_process(
    machinery: Machinery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fill, "cpu_count", lambda: 2)
    rows = chats(MANY)
    path = written(tmp_path / "x.jsonl", rows)
    nested = json.dumps(rows[-1])[:-1] + ', "note": ' + "[" * 600 + "]" * 600 + "}\n"
    path.write_text("".join([*path.read_text().splitlines(keepends=True)[:-1], nested]))
    assert len(machinery.store(path)) == MANY


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


PATCHED = """
import sys, time
import train.data.cache.{module} as patched
from train.__main__ import main

def waits(*_):
    print("there", flush=True)
    time.sleep(600)

patched.{name} = waits
main(sys.argv[1:])
"""
# before the first rows are on disk, before the entry is renamed, and while it is
MOMENTS = (("columns", "ColumnWriter.append"), ("shelf", "_sync"), ("shelf", "os.replace"))


@pytest.mark.parametrize(("module", "name"), some(MOMENTS, [0, 2]))
def test_killed_command_leaves_no_incomplete_cache_entry(
    tiny_base: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, name: str
) -> None:
    path, rows = written(tmp_path / "x.jsonl", chats(FIRST_ROWS + 100)), tmp_path / "cache" / "rows"
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path / "cache"))
    words = ["check", "--base.id", str(tiny_base), "--data.path", str(path), "--data.max_length", "2048"]
    program = [sys.executable, "-P", "-c", PATCHED.format(module=module, name=name), *words]
    environment = {**os.environ, **search_path(os.environ)}
    with subprocess.Popen(program, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "there\n"
        process.kill()
    assert [entry.suffix for entry in rows.iterdir() if entry.name != "locks"] == [".partial"]
    done = cli("train", *words)
    assert done.returncode == 0, done.stderr
    assert f"{FIRST_ROWS + 100:,} rows, format messages" in done.stderr
    assert [entry.suffix for entry in rows.iterdir() if entry.name != "locks"] == [""]
    again = cli("train", *words)
    assert again.stdout == done.stdout
    assert "prepared rows are cached" in done.stderr and "prepared rows are cached" not in again.stderr
