"""The reader: the same rows in any file format give the same result, and every error has its line."""

from __future__ import annotations

import csv
import io
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from burnish.data.files import DataError, RawRow, data_sha256, iter_rows, read_rows
from burnish.data.json_scanner import MOST_FAULTS, scan_json

TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
VALUES = st.recursive(st.none() | st.booleans() | st.integers() | TEXT, lambda inner: st.lists(inner, max_size=3))
ROWS = st.lists(st.dictionaries(TEXT, VALUES, max_size=3), min_size=1, max_size=6)
CELLS = st.text("a\n\r,;\"'é", max_size=8)
FAST = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def filled(cells: tuple[str, ...]) -> bool:
    return any(map(str.strip, cells))


def read(path: Path, content: str | bytes) -> list[RawRow]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_rows(path)


def faults(path: Path, content: str | bytes) -> list[str]:
    with pytest.raises(DataError) as caught:
        read(path, content)
    return [fault.removeprefix(str(path)).lstrip(": ") for fault in caught.value.faults]


@FAST
@given(rows=ROWS, ascii=st.booleans(), indent=st.sampled_from([None, 1, 4]), end=st.sampled_from(["\n", "\r\n"]))
def test_every_json_layout_gives_the_same_rows(
    tmp_path: Path, rows: list[Any], ascii: bool, indent: int | None, end: str
) -> None:
    def dump(row: Any, indent: int | None = None) -> str:
        return json.dumps(row, ensure_ascii=ascii, indent=indent)

    texts = {
        "jsonl": end.join(dump(row) for row in rows),
        "array": dump(rows, indent),
        "pretty": end.join(dump(row, indent) for row in rows),
        "nothing between": "".join(dump(row, indent) for row in rows),
        "blank lines": "\n\n" + "\n \n".join(dump(row) for row in rows) + "\n\n",
    }
    for text in texts.values():
        for name in ("x.json", "x.jsonl", "x.data"):
            assert [row.value for row in read(tmp_path / name, text)] == rows


@FAST
@given(rows=ROWS, indent=st.sampled_from([None, 1]), size=st.integers(1, 40), cut=st.integers(0, 200))
def test_chunked_text_gives_the_same_rows_and_errors(rows: list[Any], indent: int | None, size: int, cut: int) -> None:
    for text in (json.dumps(rows, indent=indent), "\n".join(json.dumps(row, indent=indent) for row in rows)):
        broken = text[:cut] + text[cut + 1 :]
        whole: list[str] = []
        expected = list(scan_json(broken, whole))
        faults: list[str] = []
        pieces = (broken[start : start + size] for start in range(0, len(broken), size))
        assert list(scan_json(pieces, faults)) == expected and faults == whole


def test_rows_are_yielded_while_reading_and_errors_raised_last(tmp_path: Path) -> None:
    (path := tmp_path / "x.jsonl").write_text((json.dumps({"a": "x" * 2000}) + "\n") * 20_000 + 'oops\n{"a": 2}\n')
    rows = iter_rows(path)
    tracemalloc.start()
    assert [next(rows).line for _ in range(20_000)][-1] == 20_000
    assert tracemalloc.get_traced_memory()[1] < 12 << 20
    tracemalloc.stop()
    assert next(rows).value == {"a": 2}
    with pytest.raises(DataError, match="line 20001, column 1: malformed JSON"):
        next(rows)


@FAST
@given(rows=ROWS, gaps=st.lists(st.integers(0, 3), min_size=6, max_size=6), array=st.booleans())
def test_line_of_a_row_is_where_its_object_starts(
    tmp_path: Path, rows: list[Any], gaps: list[int], array: bool
) -> None:
    text, lines = "[" if array else "", []
    for number, (row, gap) in enumerate(zip(rows, gaps, strict=False)):
        text += ("," if array and number else "") + "\n" * gap
        lines.append(text.count("\n") + 1)
        text += json.dumps(row, indent=2 if number % 2 else None)
    assert [row.line for row in read(tmp_path / "x.json", text + ("]" if array else ""))] == lines


@FAST
@given(cells=st.lists(st.tuples(TEXT, CELLS).filter(filled), min_size=1), mark=st.booleans())
def test_csv_round_trips_with_line_numbers(tmp_path: Path, cells: list[tuple[str, str]], mark: bool) -> None:
    # csv treats a lone carriage return as a line end, so line numbers are checked on its output
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, quoting=csv.QUOTE_ALL)
    writer.writerow(("prompt", "completion"))
    writer.writerows(cells)
    content = (b"\xef\xbb\xbf" if mark else b"") + buffer.getvalue().encode()
    rows = read(tmp_path / "x.csv", content)
    assert [(row.value["prompt"], row.value["completion"]) for row in rows] == cells
    assert [row.line for row in rows] == sorted({row.line for row in rows})


def test_csv_line_numbers_cells_and_separators_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    rows = read(path, 'prompt,completion\na,"two\nlines"\n\nb,\n')
    assert rows == [
        RawRow(2, {"prompt": "a", "completion": "two\nlines"}, 1),
        RawRow(5, {"prompt": "b", "completion": ""}, 2),
    ]
    assert read(path, "prompt;completion\na, b;c") == [RawRow(2, {"prompt": "a, b", "completion": "c"}, 1)]
    assert read(tmp_path / "x.data", "prompt\tcompletion\na\tb") == [RawRow(2, {"prompt": "a", "completion": "b"}, 1)]
    assert len(read(path, "text\n" + "x" * 200_000)[0].value["text"]) == 200_000


def test_csv_errors_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    assert faults(path, 'a,b\n1,2,3\n1\n1,2\n3,"4') == [
        "line 2: expected 2 cells as in the header, got 3",
        "line 3: expected 2 cells as in the header, got 1",
        "line 5: malformed CSV in the record that starts here: the closing quote of cell 2 is missing",
    ]
    assert faults(path, "a,,a\n1,2,3") == [
        "line 1: the header has 'a' twice",
        "line 1: column 2 of the header has no name, and 1 row has text in it (first: line 2)",
    ]
    assert faults(path, "a,b\n") == ["the file has no rows"]


def test_parquet_rows_are_numbered_and_nested(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    values = [{"messages": turns, "id": 1}, {"messages": turns[:1], "id": None}]
    path = tmp_path / "x.parquet"
    pq.write_table(pa.Table.from_pylist(values), path)
    assert read_rows(path) == [RawRow(0, values[0], 1, "row"), RawRow(0, values[1], 2, "row")]
    assert [row.where for row in read_rows(path)] == ["row 1", "row 2"]
    assert read(tmp_path / "renamed.json", path.read_bytes()) == read_rows(path)
    assert faults(path, path.read_bytes()[:40])[0].startswith("malformed Parquet: ")


def test_malformed_json_reports_line_column_and_all_errors(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    found = faults(path, '{"a": 1}\n{"a": \'x\'}\n{"a": 2}\n{"a": "b\n{"a": 1, "a": 2}\n{"a": NaN}')
    assert [fault.split(":")[0] for fault in found] == ["line 2, column 7", "line 4, column 9", "line 5", "line 6"]
    assert found[1].startswith("line 4, column 9: malformed JSON: invalid control character at (write a line break")
    twice = "line 5: 'a' occurs twice in one object"
    assert found[2:] == [twice, "line 6: NaN is not valid JSON; write a number or null"]


def test_unclosed_row_does_not_affect_other_rows(tmp_path: Path) -> None:
    found = faults(tmp_path / "x.json", '[\n  {\n    "a": {"b": 1}\n  ,\n  {\n    "a": oops\n  }\n]')
    assert len(found) == 2
    assert found[0].startswith("line 5, column 3: malformed JSON, in the row that starts on line 2: ")
    assert found[1] == "line 6, column 10: malformed JSON, in the row that starts on line 5: expecting value"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[{"a": 1},]', "line 1, column 11: a comma before the ] that closes the array"),
        ('[{"a": 1}\n{"a": 2}]', "line 2, column 1: expected ',' or ']' after a row of the array"),
        ('[{"a": 1}', "line 1, column 10: the array that the file starts with is not closed by ]"),
        ("[", "line 1, column 2: the array that the file starts with is not closed by ]"),
        ('[{"a": 1}]\nx', "line 2, column 1: more text after the ] that closes the array"),
        (
            '{"a": 1},\n{"a": 2}',
            "line 1, column 9: a comma between rows outside an array: put the rows in [ ], or remove the commas",
        ),
        ("[" * 100_000, "line 1: the row that starts here can't be read: nested too deeply"),
        (r'{"a": "\ud83d"}', r"line 1: an unpaired surrogate escape (\ud800–\udfff)"),
        (" \n", "the file is empty"),
        ("[]", "the file has no rows"),
        ("[\n]", "the file has no rows"),
    ],
)
def test_json_errors_are_reported(tmp_path: Path, text: str, expected: str) -> None:
    assert faults(tmp_path / "x.json", text) == [expected]


@pytest.mark.parametrize("text", ['[{"a":1},{"a":2},{"a":3}]', '{"a":1}{"a":2}\n{"a":3}', '{"a":1}\n{"a":2} {"a":3}'])
def test_rows_on_one_line_are_identified_by_number(tmp_path: Path, text: str) -> None:
    rows = read(tmp_path / "x.json", text)
    lines = [text[: text.index(f'{{"a":{n}')].count("\n") + 1 for n in (1, 2, 3)]
    assert [row.where for row in rows] == [f"line {line}, row {n}" for n, line in enumerate(lines, start=1)]
    assert [row.where for row in read(tmp_path / "x.json", text.replace("{", "\n{"))][1].count("row") == 0


def test_errors_after_other_rows_on_a_line_have_a_column(tmp_path: Path) -> None:
    assert faults(tmp_path / "x.json", '[{"a":1,"a":2},{"a":NaN}]') == [
        "line 1: 'a' occurs twice in one object",
        "line 1, column 16: NaN is not valid JSON; write a number or null",
    ]


@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.csv", "x.parquet"])
def test_only_line_breaks_end_a_line(tmp_path: Path, name: str) -> None:
    """Characters at which str.splitlines splits are ordinary text in every file format."""
    cells = [f"a{c}b{c}" for c in "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e"]
    path = tmp_path / name
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist([{"text": cell} for cell in cells]), path)
    else:
        text = {
            ".jsonl": "\n".join(json.dumps({"text": cell}, ensure_ascii=False) for cell in cells),
            ".json": json.dumps([{"text": cell} for cell in cells], ensure_ascii=False),
            ".csv": "text,id\n" + "".join(f"{cell},\n" for cell in cells),
        }[path.suffix]
        path.write_text(text, encoding="utf-8")
    rows = read_rows(path)
    assert [row.value["text"] for row in rows] == cells
    assert [row.row for row in rows] == list(range(1, len(cells) + 1))


def test_csv_with_carriage_return_line_ends_is_read(tmp_path: Path) -> None:
    rows = read(tmp_path / "x.csv", "prompt;completion\ra, b;c\rd;e, f, g\r")
    assert [(row.line, row.value["completion"]) for row in rows] == [(2, "c"), (3, "e, f, g")]


def test_surrogate_pair_is_one_character(tmp_path: Path) -> None:
    assert read(tmp_path / "x.json", r'{"a": "\ud83d\ude00"}')[0].value == {"a": "😀"}


def test_reading_stops_after_many_errors(tmp_path: Path) -> None:
    found = faults(tmp_path / "x.jsonl", "{oops}\n" * (MOST_FAULTS + 50))
    assert len(found) == MOST_FAULTS + 1
    assert found[-1] == f"line {MOST_FAULTS + 1}: reading stopped here, after {MOST_FAULTS} errors"


def test_invalid_utf8_is_reported_with_its_line(tmp_path: Path) -> None:
    assert faults(tmp_path / "x.jsonl", b'{"text": "a\xe9"}\n{"text": "b"}\n\xff') == [
        "line 1: byte 0xe9 is not UTF-8; save the file as UTF-8",
        "line 3: byte 0xff is not UTF-8; save the file as UTF-8",
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"PK\x03\x04", "is a zip archive or a spreadsheet"),
        ('{"a": 1}'.encode("utf-16"), "is UTF-16 text: save it as UTF-8"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        (b"<!DOCTYPE html>", "is a web page or XML, not data"),
        (b"Once upon a time", "unknown kind of file (supported: JSON, JSONL, CSV, Parquet and Arrow,"),
    ],
)
def test_unsupported_file_types_are_named(tmp_path: Path, content: bytes, expected: str) -> None:
    assert faults(tmp_path / "x.data", content)[0].startswith(expected)


def test_path_that_is_not_a_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="can't be read: No such file"):
        read_rows(tmp_path / "none.json")
    with pytest.raises(DataError, match=r"no data files found \(empty\)"):
        read_rows(tmp_path)


def test_directory_hash_covers_the_files_that_are_read(tmp_path: Path) -> None:
    """A run directory or git files inside the data directory must not change its hash."""
    (tmp_path / "a.jsonl").write_text('{"text": "boat"}\n')
    before = data_sha256(tmp_path)
    for other in ("runs/x/train.json", ".git/HEAD", "README.md"):
        (tmp_path / other).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / other).write_text("1")
    assert data_sha256(tmp_path) == before
    (tmp_path / "b.jsonl").write_text('{"text": "pier"}\n')
    assert data_sha256(tmp_path) != before
