"""CSV as written by programs: every dialect gives the same cells; extra columns and rows are skipped and reported."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from burnish.data.files import DataError, read_rows

CELL = st.text(st.sampled_from("ab é,;|\t\"'\n"), max_size=8)
ROWS = st.lists(st.tuples(CELL, CELL).filter(lambda cells: any(map(str.strip, cells))), min_size=1, max_size=6)
FAST = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
BODY = [("When does boat 1 leave?", "At 6:05, daily."), ('Which is "fast"?', "Boat 2;\nthe red one.")]


def written(
    rows: list[tuple[str, ...]], end: str = "\n", separator: str = ",", quoting: int = csv.QUOTE_MINIMAL
) -> str:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, delimiter=separator, lineterminator=end, quoting=quoting).writerows(rows)  # type: ignore[arg-type]
    return buffer.getvalue()


def read(path: Path, text: str) -> tuple[list[tuple[str, str]], list[str]]:
    """Return the prompts and completions of a CSV file, and the notes about it."""
    path.write_bytes(text.encode())
    notes: list[str] = []
    return [(row.value["prompt"], row.value["completion"]) for row in read_rows(path, notes)], notes


def fault(path: Path, text: str) -> str:
    with pytest.raises(DataError) as caught:
        read(path, text)
    (found,) = caught.value.faults
    return found.removeprefix(str(path)).lstrip(": ")


@FAST
@given(
    rows=ROWS,
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    separator=st.sampled_from(",;\t|"),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    declared=st.booleans(),
)
def test_every_csv_dialect_round_trips(
    tmp_path: Path, rows: list[tuple[str, str]], end: str, separator: str, quoting: int, declared: bool
) -> None:
    if end == "\r":  # csv would leave a cell with \n unquoted
        quoting = csv.QUOTE_ALL
    text = written([("prompt", "completion"), *rows], end, separator, quoting)
    found, notes = read(tmp_path / "x.csv", ("\ufeff" + f"sep={separator}{end}") * declared + text)
    assert (found, notes) == (rows, [])


@FAST
@given(rows=ROWS, before=st.sampled_from([" ", "  ", "\u00a0"]), after=st.sampled_from(["", " "]))
def test_whitespace_around_quoted_cells_is_skipped(
    tmp_path: Path, rows: list[tuple[str, str]], before: str, after: str
) -> None:
    def quoted(cell: str) -> str:
        return '"' + cell.replace('"', '""') + '"'

    lines = [f"{quoted(one)}{after},{before}{quoted(other)}" for one, other in rows]
    found, notes = read(tmp_path / "x.csv", "\n".join(["prompt, completion", *lines]))
    assert found == rows
    assert notes == [f"spaces around quoted cells skipped in {len(rows)} row{'s' * (len(rows) > 1)} (first: line 2)"]


def test_whitespace_in_unquoted_cells_is_kept_and_half_quoted_cells_are_rejected(tmp_path: Path) -> None:
    assert read(tmp_path / "x.csv", 'prompt,completion\n a , b "c" \n') == ([(" a ", ' b "c" ')], [])
    for cell in ('"yes" he said', ' "yes" he said', '"a\\"b"'):
        found = fault(tmp_path / "x.csv", f"prompt,completion\nq,a\nq,{cell}\n")
        assert found.startswith("line 3: malformed CSV in the record that starts here: text follows the closing quote")
    assert 'within a cell twice: "" instead of \\"' in found


@pytest.mark.parametrize(
    "index",
    [[str(n) for n in range(2)], ["17", "3"], ["0", "0"], ["0.0", "1.0"], ["a1", "b2"], ["2024-01-01", "2024-02-01"]],
)
def test_unnamed_index_column_is_skipped_and_reported(tmp_path: Path, index: list[str]) -> None:
    path = tmp_path / "x.csv"
    body = [(name, *cells) for name, cells in zip(index, BODY, strict=True)]
    found, notes = read(path, written([("", "prompt", "completion"), *body]))
    assert (found, notes) == (
        BODY,
        [f"column 1 has no name and looks like a row index ({', '.join(index)} ...): not used"],
    )
    if len(set(index)) == 2:  # as written by R and by pandas with index_label=False: the header lacks a cell
        assert read(path, written([("prompt", "completion"), *body])) == (found, notes)
    assert read(tmp_path / "x.data", written([("", "prompt", "completion"), *body]))[0] == BODY


def test_unnamed_column_with_text_is_rejected(tmp_path: Path) -> None:
    texts = [("some text that is meant", *cells) for cells in BODY]
    wanted = "line 1: column 1 of the header has no name, and 2 rows have text in it (first: line 2)"
    assert fault(tmp_path / "x.csv", written([("", "prompt", "completion"), *texts])) == wanted


@pytest.mark.parametrize("wide", ["header", "rows", "both"])
@pytest.mark.parametrize("separator", [",", ";"])
def test_trailing_empty_columns_are_skipped_and_reported(tmp_path: Path, wide: str, separator: str) -> None:
    header = [("prompt", "completion", *["", ""] * (wide != "rows"))]
    body = [(*cells, *["", " "] * (wide != "header")) for cells in BODY]
    found, notes = read(tmp_path / "x.csv", written([*header, *body], "\r\n", separator))
    assert found == BODY
    output = "empty cells at the end of 2 rows skipped" if wide == "rows" else "2 unnamed columns without text skipped"
    assert [note.split(" (")[0] for note in notes] == [output]


def test_empty_rows_are_skipped_and_reported_at_any_position(tmp_path: Path) -> None:
    text = ",,\r\n" + written([("prompt", "completion"), ("", ""), *BODY, (" ", "\t")], "\r\n") + ",\r\n,,,\r\n\r\n"
    found, notes = read(tmp_path / "x.csv", text)
    assert (found, notes) == (BODY, ["5 rows without text skipped (first: line 1)"])


def test_row_with_missing_or_extra_cells_is_an_error(tmp_path: Path) -> None:
    assert fault(tmp_path / "x.csv", "prompt,completion,\na\n") == "line 2: expected 3 cells as in the header, got 1"
    assert (
        fault(tmp_path / "x.csv", "prompt,completion,\na,b,,c\n") == "line 2: expected 3 cells as in the header, got 4"
    )


@pytest.mark.parametrize("declared", ["sep=;", '"sep=;"', "SEP=;"])
def test_declared_separator_overrides_the_header(tmp_path: Path, declared: str) -> None:
    found, _ = read(tmp_path / "x.csv", f'{declared}\r\n"prompt";"completion";"a,b,c,d"\r\nx,y;z;1\r\n')
    assert found == [("x,y", "z")]


@pytest.mark.parametrize(
    "rows", ["Hello, please,Answer 0\nStop, now,Answer 1\n", "3, 4,5\n4, 5,6\n", "Ah,so,It is\nNo,and,It was\n"]
)
def test_unquoted_comma_in_every_row_is_not_treated_as_an_index(tmp_path: Path, rows: str) -> None:
    with pytest.raises(DataError, match="line 2: expected 2 cells as in the header, got 3"):
        read(tmp_path / "x.csv", f"prompt,completion\n{rows}")
