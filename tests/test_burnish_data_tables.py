"""Rows in other layouts: DataFrames, rows by id, turns and rows as JSON text, Parquet, Arrow, directories."""

from __future__ import annotations

import csv
import io
import json
import random
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from burnish.data import arrow, compression
from burnish.data.faults import Undecoded
from burnish.data.files import DataError, read_rows
from burnish.data.formats import Conversion, convert, recognise

FAST = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
TURNS = st.lists(st.fixed_dictionaries({"role": TEXT, "content": TEXT}), min_size=1, max_size=3)
ROW = st.one_of(
    st.fixed_dictionaries({"instruction": TEXT, "output": TEXT, "input": TEXT | st.none()}),
    st.fixed_dictionaries({"messages": TURNS, "id": st.integers(0, 99)}),
    st.fixed_dictionaries({"prompt": TEXT, "completion": TEXT}),
    st.fixed_dictionaries({"prompt": TURNS, "completion": TURNS}),
    st.fixed_dictionaries({"text": TEXT}),
)
LABELS = st.lists(TEXT, min_size=1, max_size=5, unique=True)
CHAT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": 'it\'s "a"\nb'}]
ALPACA = [{"instruction": f"q{n}", "output": f"a{n}"} for n in range(3)]


def read(path: Path, value: Any) -> list[Any]:
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return [row.value for row in read_rows(path)]


def converted(path: Path) -> Conversion:
    rows = read_rows(path)
    return convert(rows, recognise(rows, path), path)


def refused(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        converted(path)
    return str(caught.value)


@FAST
@given(row=ROW, data=st.data(), labels=LABELS, indent=st.sampled_from([None, 2]))
def test_every_dataframe_orient_is_read_as_the_same_rows(
    tmp_path: Path, row: dict[str, Any], data: st.DataObject, labels: list[str], indent: int | None
) -> None:
    labels = [f"row {label}" for label in labels]
    same = st.fixed_dictionaries({key: st.just(cell) | st.just(cell) for key, cell in row.items()})
    rows = [data.draw(same) for _ in labels]
    names = list(row)
    orients: dict[str, Any] = {
        "records": rows,
        "columns": {name: {label: r[name] for label, r in zip(labels, rows, strict=True)} for name in names},
        "index": dict(zip(labels, rows, strict=True)),
        "split": {"columns": names, "index": labels, "data": [[r[name] for name in names] for r in rows]},
        "table": {"schema": {"fields": [{"name": name} for name in names], "pandas_version": "1.4.0"}, "data": rows},
        "list": {name: [r[name] for r in rows] for name in names},
    }
    for orient, value in orients.items():
        text = json.dumps(value, indent=indent)
        for name in ("x.json", "x.jsonl"):
            found = read(tmp_path / name, text)
            # one object with lists of turns is one row, so this orient is ambiguous for such rows
            if orient != "list" or not isinstance(row.get("prompt"), list):
                assert found == rows, orient


def test_dataframe_is_reported_and_its_rows_are_numbered(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"instruction": {"0": "q", "1": "r"}, "output": {"0": "a", "1": 5}}))
    notes: list[str] = []
    read_rows(path, notes)
    assert notes == ["one JSON object with an object of cells per column (the default of pandas): read as 2 rows"]
    assert refused(path) == f"{path}: line 1, row 2: 'output': expected text, got a number"


@pytest.mark.parametrize(
    "row",
    [{"messages": CHAT}, {"prompt": CHAT[:1], "completion": CHAT[1:]}, {"text": "a"}, {"conversations": []}, ALPACA[0]],
)
def test_single_object_is_read_as_one_row(tmp_path: Path, row: Any) -> None:
    assert read(tmp_path / "x.json", row) == [row]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([["q", "a"], ["r", "b"]], "the rows are lists of cells without names: save them as objects"),
        ({"Frage": {"0": "q"}, "Antwort": {"0": "a"}}, "it looks like a DataFrame that pandas wrote by columns: use"),
        ({"data": ALPACA}, "the rows seem to be under 'data': save only that list"),
    ],
)
def test_table_without_known_columns_is_rejected_with_a_suggestion(tmp_path: Path, value: Any, expected: str) -> None:
    read(tmp_path / "x.json", value)
    assert expected in refused(tmp_path / "x.json")


@pytest.mark.parametrize("write", [json.dumps, repr])
@pytest.mark.parametrize("kind", ["json", "csv", "parquet"])
def test_turns_stored_as_json_text_are_parsed(tmp_path: Path, write: Any, kind: str) -> None:
    rows = [{"messages": write(CHAT)}] * 2
    path = tmp_path / f"x.{kind}"
    if kind == "json":
        path.write_text(json.dumps(rows))
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        buffer = io.StringIO(newline="")
        csv.writer(buffer).writerows([["messages"], *([row["messages"]] for row in rows)])
        path.write_text(buffer.getvalue())
    for example in converted(path).examples:
        assert example.messages is not None
        assert [m.to_dict() for m in example.messages] == CHAT


def test_list_of_json_encoded_turns_is_parsed_as_one_row(tmp_path: Path) -> None:
    read(tmp_path / "x.json", [{"messages": [json.dumps(turn) for turn in CHAT]}])
    (example,) = converted(tmp_path / "x.json").examples
    assert [m.to_dict() for m in example.messages or ()] == CHAT


def test_dataframe_rows_with_empty_cells_are_kept(tmp_path: Path) -> None:
    read(tmp_path / "x.json", {"text": {"0": "a", "1": None, "2": None}})
    assert "most rows fit no format (text fits 1 of 3 rows)" in refused(tmp_path / "x.json")


def test_json_encoded_prompts_histories_and_rows_are_parsed(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    read(path, [{"prompt": json.dumps(CHAT[:1]), "completion": json.dumps(CHAT[1:])}])
    assert [m.content for m in converted(path).examples[0].messages or ()] == ["q", CHAT[1]["content"]]
    read(path, [{**ALPACA[0], "history": '[["h", "i"]]'}])
    assert [m.content for m in converted(path).examples[0].messages or ()] == ["h", "i", "q0", "a0"]
    assert read(path, "".join(json.dumps(json.dumps(row)) + "\n" for row in ALPACA)) == ALPACA
    assert read(path, [{"prompt": "[1] is a list", "completion": "[]"}])[0]["prompt"] == "[1] is a list"
    assert converted(path).examples[0].messages[1].content == "[]"  # type: ignore[index]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[{"role": "user", "content": "q"', "'messages': expected a list of turns as JSON, got text: line 1, column"),
        ('[{"role": "user", "role": "x", "content": "q"}]', "turns as JSON, got text: line 1: 'role' occurs twice"),
        (r'[{"role": "user", "content": "\ud83d"}]', "an unpaired surrogate escape"),
        ("[{'role': open('x')}]", "'messages': expected a list of turns as JSON, got text"),
        ("no turns", "'messages': expected a list of turns (as JSON where cells hold only text), got text"),
    ],
)  # fmt: skip
def test_json_encoded_turns_are_validated_like_a_file(tmp_path: Path, text: str, expected: str) -> None:
    read(tmp_path / "x.json", [{"messages": text}])
    assert expected in refused(tmp_path / "x.json")


# ---- Parquet and Arrow -----------------------------------------------------------------------------------------------

CELLS = st.recursive(
    st.sampled_from(["text", "number"]),
    lambda inner: st.tuples(st.just("list"), inner) | st.tuples(st.just("struct"), inner, inner),
    max_leaves=4,
)


def value_of(kind: Any) -> st.SearchStrategy[Any]:
    """Values of a nested type; nulls at every level."""
    if kind == "text":
        return TEXT | st.none()
    if kind == "number":
        return st.integers(-9, 9) | st.none()
    if kind[0] == "list":
        return st.lists(value_of(kind[1]), max_size=3) | st.none()
    return st.fixed_dictionaries({"a": value_of(kind[1]), "b": value_of(kind[2]), "null": st.none()}) | st.none()


@FAST
@given(kind=CELLS, data=st.data(), start=st.integers(0, 3))
def test_nested_parquet_values_match_pyarrow(kind: Any, data: st.DataObject, start: int) -> None:
    values = data.draw(st.lists(value_of(kind), max_size=6))
    array = pa.array(values)[start:]
    assert arrow._cells(pa, array) == values[start:] == array.to_pylist()


def parquet(path: Path, **columns: Any) -> list[dict[str, Any]]:
    pq.write_table(pa.table(columns), path)
    return [row.value for row in read_rows(path)]


FAR = pa.array([2**31 - 10, 2**31 - 9], pa.int32()).cast(pa.date32())
UNDECODABLE = {
    "date": FAR,
    "time zone": pa.array([1, 2], pa.timestamp("ms", tz="Atlantis/Harbour")),
    "duration": pa.array([2**62, None], pa.duration("s")),
    "nested": pa.StructArray.from_arrays([FAR, FAR], ["a", "b"]),
    "list": pa.array([[1], []], pa.list_(pa.timestamp("ns", tz="Nowhere/Else"))),
    "bytes": pa.array([b"\xff\xd8", None], pa.binary()),
    "decimal": pa.array([1, None], pa.decimal128(38, 2)),
}


@pytest.mark.parametrize("name", UNDECODABLE)
def test_unused_columns_with_unrepresentable_values_are_skipped(tmp_path: Path, name: str) -> None:
    column = UNDECODABLE[name]
    rows = parquet(tmp_path / "x.parquet", prompt=["q", "r"], extra=column, completion=["a", "b"])
    assert [(row["prompt"], row["completion"]) for row in rows] == [("q", "a"), ("r", "b")]
    conversion = converted(tmp_path / "x.parquet")
    assert len(conversion.examples) == 2
    assert set(conversion.unused_columns) == {"extra"}


def test_used_column_with_unrepresentable_values_is_an_error(tmp_path: Path) -> None:
    parquet(tmp_path / "x.parquet", prompt=["q", "r"], completion=FAR)
    assert "row 1: 'completion': expected text, got a value of type date32[day]" in refused(tmp_path / "x.parquet")


def test_timestamps_inside_turns_are_ignored(tmp_path: Path) -> None:
    turn = pa.struct(
        [("role", pa.string()), ("content", pa.binary()), ("at", pa.timestamp("us", tz="Atlantis/Harbour"))]
    )
    turns = pa.array(
        [[{"role": "user", "content": b"q", "at": None}, {"role": "assistant", "content": "ä".encode(), "at": None}]],
        pa.list_(turn),
    )
    rows = parquet(tmp_path / "x.parquet", messages=turns)
    assert [turn["content"] for turn in rows[0]["messages"]] == ["q", "ä"]
    at = pa.array([[{"role": "user", "content": b"q", "at": datetime(2024, 1, 1)}]], pa.list_(turn))
    assert parquet(tmp_path / "x.parquet", messages=at)[0]["messages"][0]["at"] == Undecoded(
        "timestamp[us, tz=Atlantis/Harbour]"
    )


def test_parquet_maps_structs_and_lists_are_read(tmp_path: Path) -> None:
    maps = pa.array([[list(turn.items()) for turn in CHAT]] * 2, pa.list_(pa.map_(pa.string(), pa.string())))
    parquet(tmp_path / "x.parquet", messages=maps)
    assert [m.to_dict() for m in converted(tmp_path / "x.parquet").examples[1].messages or ()] == CHAT
    # a Sequence of a dict in datasets is an object of lists
    columns = {"from": ["human", "gpt"], "value": ["q", "a"]}
    parquet(tmp_path / "x.parquet", conversations=[columns], label=pa.array(["x"]).dictionary_encode())
    assert [m.content for m in converted(tmp_path / "x.parquet").examples[0].messages or ()] == ["q", "a"]


@pytest.mark.parametrize("stream", [True, False])
def test_arrow_files_are_read(tmp_path: Path, stream: bool) -> None:
    table = pa.Table.from_pylist(ALPACA)
    write = pa.ipc.new_stream if stream else pa.ipc.new_file
    with write(str(tmp_path / "x.arrow"), table.schema) as writer:
        writer.write_table(table)
    assert [row.value for row in read_rows(tmp_path / "x.arrow")] == ALPACA
    (tmp_path / "y.arrow").write_bytes((tmp_path / "x.arrow").read_bytes()[:60])
    with pytest.raises(DataError, match="malformed Arrow"):
        read_rows(tmp_path / "y.arrow")


def test_parquet_decompression_bomb_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "MAX_UNPACKED_BYTES", 1 << 20)
    monkeypatch.setattr(compression, "MAX_RATIO", 2)
    pq.write_table(pa.table({"text": ["x" * 1000] * 20_000}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="the Parquet file unpacks to more than 1 MiB"):
        read_rows(tmp_path / "x.parquet")


# ---- a directory of parts --------------------------------------------------------------------------------------------


def jsonl(rows: list[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_directory_is_read_as_one_dataset_in_name_order(tmp_path: Path) -> None:
    names = [f"part-{n:05}.jsonl" for n in range(5)]
    rows = [{"text": f"{name} {n}"} for name in names for n in range(3)]
    for name in random.Random(0).sample(names, 5):
        (tmp_path / name).write_text(jsonl([row for row in rows if row["text"].startswith(name)]))
    for name in ("README.md", ".hidden.jsonl", "_SUCCESS", "dataset_info.json"):
        (tmp_path / name).write_text("{}")
    notes: list[str] = []
    found = read_rows(tmp_path, notes)
    assert [row.value for row in found] == rows
    assert [row.row for row in found] == list(range(1, 16))
    assert found[4].where == "part-00001.jsonl line 2, row 5"
    assert notes[0].startswith(
        "a directory, read as one dataset: part-00000.jsonl (rows 1 to 3), part-00001.jsonl (rows"
    )
    assert notes[1] == "not read: README.md, dataset_info.json"


def test_directory_may_mix_formats_compression_and_missing_extensions(tmp_path: Path) -> None:
    import gzip

    (tmp_path / "part-00000").write_text(jsonl(ALPACA[:1]))
    (tmp_path / "part-00001.csv").write_text("instruction,output\nq1,a1\n")
    (tmp_path / "part-00002.json.gz").write_bytes(gzip.compress(json.dumps(ALPACA[2:]).encode()))
    assert [row.value for row in read_rows(tmp_path)] == ALPACA


def test_errors_in_all_parts_are_reported_with_their_file(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\noops\n')
    (tmp_path / "b.jsonl").write_text("oops\n")
    with pytest.raises(DataError) as caught:
        read_rows(tmp_path)
    assert [fault.split(": ")[:2] for fault in caught.value.faults] == [
        [str(tmp_path / "a.jsonl"), "line 2, column 1"],
        [str(tmp_path / "b.jsonl"), "line 1, column 1"],
    ]
    (tmp_path / "a.jsonl").write_text(jsonl(ALPACA))
    (tmp_path / "b.jsonl").write_text(jsonl([{"instruction": "q", "output": 1}]))
    assert refused(tmp_path) == f"{tmp_path}: b.jsonl line 1, row 4: 'output': expected text, got a number"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["train.jsonl", "test.jsonl"], "by name, test.jsonl is for evaluation: set data.path to the training file"),
        (["train-0.parquet", "validation-0.parquet"], "by name, validation-0.parquet is for evaluation"),
        (["rows.csv", "rows.jsonl"], "rows.csv and rows.jsonl look like the same table twice: pass one of them"),
        (["rows.jsonl", "rows.jsonl.gz"], "rows.jsonl and rows.jsonl.gz look like the same table twice"),
        (["notes.md", "data/"], "no data files found (found: data/, notes.md)"),
        ([], "no data files found (empty)"),
    ],
)  # fmt: skip
def test_ambiguous_directory_is_rejected(tmp_path: Path, names: list[str], expected: str) -> None:
    for name in names:
        (tmp_path / name).mkdir() if name.endswith("/") else (tmp_path / name).write_text("{}")
    with pytest.raises(DataError) as caught:
        read_rows(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}: {expected}")
