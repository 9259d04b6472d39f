"""Compressed files are unpacked within limits; unsupported files are named by kind."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import pickle
import resource
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from burnish.data import compression
from burnish.data.files import DataError, read_rows
from tests.support.commands import ROOT

ROWS = [{"text": f"boat {n} leaves"} for n in range(40)]
JSONL = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return bytes(sink.getvalue())


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress, "zstd": zstd,
}  # fmt: skip


def fault(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_rows(path)
    (found,) = caught.value.faults
    return found.removeprefix(str(path)).lstrip(": ")


@pytest.mark.parametrize("packing", PACKERS)
@pytest.mark.parametrize("name", ["rows.jsonl.packed", "rows.csv.gz", "rows", "rows.json"])
def test_compressed_files_are_recognised_by_content(tmp_path: Path, packing: str, name: str) -> None:
    path = tmp_path / name
    text = b"text,id\n" + b"".join(f"{row['text']},\n".encode() for row in ROWS) if ".csv" in name else JSONL
    path.write_bytes(PACKERS[packing](text))
    assert [row.value["text"] for row in read_rows(path)] == [row["text"] for row in ROWS]
    assert [row.line for row in read_rows(path)][:2] == ([2, 3] if ".csv" in name else [1, 2])


@pytest.mark.parametrize("packing", ["gzip", "bzip2", "xz"])
def test_concatenated_streams_are_read_as_one_file(tmp_path: Path, packing: str) -> None:
    path, half = tmp_path / "x", JSONL.index(b"\n", len(JSONL) // 2) + 1
    path.write_bytes(PACKERS[packing](JSONL[:half]) + PACKERS[packing](JSONL[half:]))
    assert [row.value for row in read_rows(path)] == ROWS


def test_compressed_parquet_is_read(tmp_path: Path) -> None:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), sink)
    (tmp_path / "x.parquet.gz").write_bytes(gzip.compress(sink.getvalue()))
    assert [row.value for row in read_rows(tmp_path / "x.parquet.gz")] == ROWS


@pytest.mark.parametrize("packing", PACKERS)
def test_truncated_or_damaged_compressed_file_is_a_one_line_error(tmp_path: Path, packing: str) -> None:
    packed = PACKERS[packing](JSONL)
    for broken in (packed[:-5], packed[: len(packed) // 2], packed[:20] + b"\x55" * 20 + packed[40:]):
        found = fault(tmp_path / "x", broken)
        assert found.startswith(f"is {packing}-compressed and "), found
        assert "\n" not in found


@pytest.mark.parametrize("packing", PACKERS)
def test_decompression_bomb_is_rejected_before_unpacking(
    tmp_path: Path, packing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compression, "MAX_UNPACKED_BYTES", 3 << 20)
    monkeypatch.setattr(compression, "MAX_RATIO", 2)
    pieces = []
    monkeypatch.setitem(
        compression.PACKINGS,  # type: ignore[arg-type]
        packing,
        (
            compression.PACKINGS[packing][0],
            lambda data, unpack=compression.PACKINGS[packing][1]: map(seen, unpack(data)),
        ),
    )

    def seen(piece: bytes) -> bytes:
        pieces.append(len(piece))
        return piece

    found = fault(tmp_path / "x", PACKERS[packing](b"\n" * (20 << 20)))
    assert found.startswith(f"is {packing}-compressed and unpacks to more than 3 MiB, the limit for a file of ")
    assert max(pieces) <= compression.CHUNK_BYTES
    assert sum(pieces) <= 4 << 20


@pytest.mark.parametrize("content", [b" ", b"a"])
def test_decompression_bomb_uses_little_memory(tmp_path: Path, content: bytes) -> None:
    """Decompress 2 GiB of one character in a process limited to 1 GiB."""
    bomb = gzip.compress(content * (1 << 26), 9)
    (tmp_path / "x.jsonl.gz").write_bytes(bomb * 32)
    program = (
        "import sys; from pathlib import Path; from burnish.data.files import read_rows, DataError\n"
        "try: read_rows(Path(sys.argv[1]))\nexcept DataError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "x.jsonl.gz")],
        capture_output=True, text=True, timeout=120, cwd=Path(__file__).parent.parent,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30)),
    )  # fmt: skip
    assert "is gzip-compressed and unpacks to more than " in done.stdout, done.stderr[-500:]


def test_content_type_of_a_compressed_file_is_reported(tmp_path: Path) -> None:
    assert fault(tmp_path / "x", gzip.compress(bz2.compress(JSONL))).endswith("is bzip2-compressed: unpack it first")
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as file:
        file.addfile(tarfile.TarInfo("rows.jsonl"))
    assert fault(tmp_path / "x.tgz", archive.getvalue()).startswith(
        "is gzip-compressed, and its content is a tar archive: unpack it and pass the file or the directory"
    )


def zipped(*names: str) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for name in names:
            file.writestr(name, "x")
    return archive.getvalue()


def tarred(format: int) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=format) as file:
        file.addfile(tarfile.TarInfo("rows.jsonl"))
    return archive.getvalue()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (gzip.compress(zipped("a", "b")), "is gzip-compressed, and its content is a zip archive of 2 files"),
        (zipped(), "no data files found in the zip archive (empty)"),
        (zipped("[Content_Types].xml", "xl/workbook.xml"), "is an Excel workbook (.xlsx): save the sheet as CSV"),
        (zipped("word/document.xml"), "is a Word document"),
        (zipped("mimetype", "content.xml"), "is an OpenDocument file"),
        (tarred(tarfile.USTAR_FORMAT), "is a tar archive"),
        (tarred(tarfile.GNU_FORMAT), "is a tar archive"),
        (tarred(tarfile.PAX_FORMAT), "is a tar archive"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504), "is an old Office file, such as an .xls sheet: save"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(20), "is a 7z archive"),
        (b"SQLite format 3\x00" + bytes(20), "is an SQLite database"),
        (b"%PDF-1.7\n", "is a PDF"),
        (pickle.dumps(ROWS), "is a Python pickle"),
        (b"GGUF\x03\x00\x00\x00", "is a model (GGUF), not data"),
        ('{"text": "a"}'.encode("utf-16-le"), "is UTF-16 text without a byte order mark: save it as UTF-8"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["x.jsonl", "x.csv", "x"])
def test_unsupported_file_types_are_named(tmp_path: Path, content: bytes, expected: str, name: str) -> None:
    assert fault(tmp_path / name, content).startswith(expected)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["arrow", "parquet"])
def test_columnar_bomb_is_rejected_before_unpacking(kind: str, tmp_path: Path) -> None:
    """A 20 kB file that decompresses to 600 MiB in one batch."""
    table, path = pa.table({"text": ["a" * (1 << 20)] * 600}), tmp_path / f"rows.{kind}"
    if kind == "parquet":
        pq.write_table(table, path, compression="zstd", use_dictionary=False)
    else:
        with pa.ipc.new_file(path, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as file:
            file.write_table(table)
    program = (
        "import re, sys; from pathlib import Path; from burnish.data.files import DataError, read_rows\n"
        "try: read_rows(Path(sys.argv[1]))\n"
        "except DataError as error: print(error)\n"
        "print(re.search(r'VmHWM:\\s+([0-9]+) kB', Path('/proc/self/status').read_text())[1])"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], cwd=ROOT, capture_output=True, text=True)
    output, peak = done.stdout.splitlines()
    assert "unpacks to more than" in output and int(peak) < 300 << 10
