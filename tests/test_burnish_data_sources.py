"""Data sources: patterns, archives, links, URLs, the Hub; and exact, seeded mixes of several sources."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import pickle
import stat
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.data import compression
from burnish.data.columns.cells import Condition
from burnish.data.columns.mapping import parse_columns
from burnish.data.files import DataError, data_sha256, read_rows
from burnish.data.sources import web
from burnish.data.sources.dataset import Dataset, Spec, open_dataset
from burnish.data.sources.hub import Reference
from burnish.data.sources.locate import locate
from burnish.data.sources.mix import Asked, choose, counts
from tests.support.commands import ROOT
from tests.support.hub_double import Hub, running


def jsonl(*numbers: int, key: str = "text") -> bytes:
    return "".join(json.dumps({key: f"row {n}", "n": n}) + "\n" for n in numbers).encode()


def numbers(name: str | Path) -> list[int]:
    return [row.value["n"] for row in read_rows(locate(str(name)))]


def fault(name: str | Path) -> str:
    with pytest.raises(DataError) as caught:
        read_rows(locate(str(name)))
    return str(caught.value)


def zipped(path: Path, files: dict[str, bytes], link: str = "") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            if name == link:
                info.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(info, content, zipfile.ZIP_DEFLATED)
    return path


def test_pattern_reads_matching_files_once_in_order(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for n, name in enumerate(("b.jsonl", "a.jsonl", "deep/c.jsonl.gz", "notes.md")):
        content = jsonl(n)
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    (tmp_path / "link.jsonl").symlink_to("a.jsonl")
    (tmp_path / "gone.jsonl").symlink_to("nowhere")
    assert numbers(tmp_path / "*.jsonl") == [1, 0]
    located = locate(f"{tmp_path}/**/*")
    notes: list[str] = []
    assert [(row.value["n"], row.where) for row in read_rows(located, notes)] == [
        (1, "a.jsonl line 1, row 1"), (0, "b.jsonl line 1, row 2"), (2, "deep/c.jsonl.gz line 1, row 3"),
    ]  # fmt: skip
    assert any("notes.md" in note for note in notes) and "link.jsonl is a link to a.jsonl: read once" in notes
    assert fault(tmp_path / "*.csv").endswith("no data files match it as a pattern (found: nothing)")


def test_file_whose_name_looks_like_a_pattern_is_read(tmp_path: Path) -> None:
    (tmp_path / "rows [1].jsonl").write_bytes(jsonl(1))
    assert numbers(tmp_path / "rows [1].jsonl") == [1]


def test_zip_archive_is_read_in_place(tmp_path: Path) -> None:
    files = {
        "../../b.jsonl": jsonl(1),
        "in/a.csv": b"n\n0\n",
        "README.txt": b"x",
        "__MACOSX/._a.jsonl": b"x",
        "l.jsonl": b"/etc",
    }
    path = zipped(tmp_path / "rows.zip", files, link="l.jsonl")
    notes: list[str] = []
    rows = read_rows(locate(str(path)), notes)
    assert [(row.value["n"], row.file) for row in rows] == [(1, "../../b.jsonl"), ("0", "in/a.csv")]
    assert any(note.startswith("not read: README.txt, l.jsonl") for note in notes)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["rows.zip"] and not (tmp_path.parent / "b.jsonl").exists()
    assert data_sha256(path) != data_sha256(zipped(tmp_path / "more.zip", files | {"../../b.jsonl": jsonl(2)}))


def test_zip_bombs_and_unusable_archives_are_rejected(tmp_path: Path) -> None:
    bomb = zipped(tmp_path / "bomb.zip", {f"{n}.jsonl": b" " * (64 << 20) for n in range(5)})
    assert "unpacks to more than 256 MiB" in fault(bomb)
    assert "no data files found in the zip archive (found: x.txt)" in fault(zipped(tmp_path / "x.zip", {"x.txt": b"x"}))
    assert "are for evaluation" in fault(
        zipped(tmp_path / "s.zip", {"train.jsonl": jsonl(1), "test.jsonl": jsonl(2)})
    ) or "is for evaluation" in fault(tmp_path / "s.zip")
    packed = zipped(tmp_path / "cut.zip", {"a.jsonl": jsonl(*range(2000))})
    broken = bytearray(packed.read_bytes())
    broken[200:300] = b"\0" * 100
    packed.write_bytes(bytes(broken))
    assert "cut.zip: a.jsonl can't be read" in fault(packed)


def test_compressed_files_in_an_archive_share_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "MAX_UNPACKED_BYTES", 300_000)
    monkeypatch.setattr(compression, "MAX_RATIO", 1)
    spaced = gzip.compress(jsonl(1) + b" " * 100_000)
    assert numbers(zipped(tmp_path / "few.zip", {f"{n}.jsonl.gz": spaced for n in range(2)})) == [1, 1]
    many = zipped(tmp_path / "many.zip", {f"{n}.jsonl.gz": spaced for n in range(5)})
    assert "many.zip: 2.jsonl.gz is gzip-compressed and unpacks to more than 0 MiB" in fault(many)
    table = io.BytesIO()
    pq.write_table(pa.table({"text": ["a" * 100_000]}), table)
    tables = zipped(tmp_path / "tables.zip", {f"{n}.parquet": table.getvalue() for n in range(5)})
    assert "tables.zip: 2.parquet: the Parquet file unpacks to more than 0 MiB" in fault(tables)


def test_archive_is_opened_once_and_again_when_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[object] = []
    real = zipfile.ZipFile
    path = zipped(tmp_path / "a.zip", {f"{n}.jsonl": jsonl(n) for n in range(5)})
    located = locate(str(path))
    monkeypatch.setattr(zipfile, "ZipFile", lambda *given: opened.append(given) or real(*given))
    assert [row.value["n"] for row in read_rows(located)] == list(range(5)) and data_sha256(located)
    assert len(opened) == 1
    zipped(path, {f"{n}.jsonl": jsonl(10 + n) for n in range(5)})  # opens it once more, to write
    assert [row.value["n"] for row in read_rows(located)] == list(range(10, 15)) and len(opened) == 3


@contextmanager
def serving(content: bytes, **how: Any) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """Serve a file at /rows.jsonl; `breaks` is the number of transfers cut off halfway."""
    asked: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(dict(self.headers))
            if self.path.startswith("/moved"):
                self.send_response(302)
                self.send_header("Location", how.get("to", "/rows.jsonl"))
                self.end_headers()
                return
            status = how["statuses"].pop(0) if how.get("statuses") else 200
            begin = int(self.headers.get("Range", "bytes=0-")[6:-1]) if self.headers.get("If-Range") == '"v1"' else 0
            self.send_response(status if status != 200 else 206 if begin else 200)
            begin = 0 if how.get("unresumed") else begin
            self.send_header("ETag", '"v1"')
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
            for name, value in how.get("headers", {}).items():
                self.send_header(name, value)
            if (length := how.get("length", len(content) - begin)) is not None:
                self.send_header("Content-Length", str(length))
            self.end_headers()
            left = content[begin:]
            if how.get("breaks"):
                how["breaks"] -= 1
                left = left[: len(left) // 2]
            self.wfile.write(left if status == 200 else b"")

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/rows.jsonl", asked
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(web.time, "sleep", lambda seconds: None)
    path = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("BURNISH_CACHE", str(path))
    return path


def test_url_is_downloaded_once_and_its_hash_recorded(cache: Path) -> None:
    with serving(jsonl(1, 2)) as (url, asked):
        located = locate(f"{url}?token=secret")
        assert [row.value["n"] for row in read_rows(located)] == [1, 2]
        assert located.origin == f"sha256:{hashlib.sha256(jsonl(1, 2)).hexdigest()}"
        assert located.title == url and locate(f"{url}?token=secret").origin == located.origin and len(asked) == 1
    (found,) = cache.rglob("fetched.json")
    assert json.loads(found.read_text())["sha256"] == data_sha256(located) and "secret" not in found.read_text()
    assert found.parent.stat().st_mode & 0o077 == 0


def test_broken_download_is_resumed_and_a_changed_copy_downloaded_again(cache: Path) -> None:
    content = jsonl(*range(5000))
    with serving(content, breaks=2, statuses=[503]) as (url, asked):
        assert numbers(url) == list(range(5000))
        assert [bool(headers.get("Range")) for headers in asked] == [False, False, True]
        next(cache.rglob("rows.jsonl")).write_bytes(b"{}")
        assert numbers(url) == list(range(5000)) and len(asked) == 4


def test_failed_download_is_resumed_by_the_next_command(cache: Path) -> None:
    content = jsonl(*range(5000))
    with serving(content, breaks=web.TRIES) as (url, asked):
        assert "run the same command again to resume the download" in fault(url)
        assert not list(cache.rglob("fetched.json"))
        assert numbers(url) == list(range(5000)) and asked[-1]["Range"] != "bytes=0-"


@pytest.mark.parametrize(
    ("how", "path", "expected"),
    [
        ({"statuses": [404]}, "", "the server responded with 404: the file does not exist"),
        ({"statuses": [204], "length": None}, "", "expected status 200 and a file, got 204"),
        (
            {"statuses": [206], "length": None},
            "",
            "expected the whole file, but the server responded with a part of it",
        ),
        ({"headers": {"Content-Type": "text/html; charset=utf-8"}}, "", "is a web page, not a data file"),
        ({"length": 200 << 30}, "", "expected at most 107.4 GB, got 214.7 GB"),
        ({"to": "file:///etc/passwd"}, "moved", "is not a URL that can be fetched"),
        ({"to": "/moved"}, "moved", "redirects more than 10 times"),
    ],
)
def test_failed_download_is_a_one_line_error(how: dict[str, Any], path: str, expected: str) -> None:
    with serving(jsonl(1), **how) as (url, _):
        assert expected in fault(url.replace("rows.jsonl", path) if path else url)


@pytest.mark.parametrize("content", [b"", b"\n<!DOCTYPE html><title>Sign in</title>", b"<html lang=en>"])
def test_empty_files_and_web_pages_are_not_kept(content: bytes, cache: Path) -> None:
    with serving(content) as (url, asked):
        expected = "is a web page" if content else "sent an empty file"
        assert expected in fault(url) and expected in fault(url) and len(asked) == 2
    assert not list(cache.rglob("fetched.json")) and not list(cache.rglob("rows.jsonl"))


@pytest.mark.parametrize("name", ["fetched.json", "partial", "partial.json", "files", ".lock"])
def test_file_named_like_the_caches_own_is_read(name: str) -> None:
    with serving(jsonl(1, 2)) as (url, asked):
        url = url.replace("rows.jsonl", name)
        assert numbers(url) == numbers(url) == [1, 2] and len(asked) == 1


def test_resumed_transfer_with_other_bytes_starts_again() -> None:
    with serving(jsonl(*range(5000)), breaks=1, unresumed=True) as (url, asked):
        assert numbers(url) == list(range(5000))
        assert [bool(headers.get("Range")) for headers in asked] == [False, True, False]


@pytest.mark.parametrize("after", ["²", "9" * 5000, "-1", "Wed, 21 Oct 2026 07:28:00 GMT"])
def test_any_retry_after_is_survived(after: str) -> None:
    with serving(jsonl(1), statuses=[503], headers={"Retry-After": after}) as (url, _):
        assert numbers(url) == [1]


@pytest.mark.parametrize(
    "url", ["http://[::1/x", "http://me:secret@[::1/x?secret", "http://h/\udcff", "http://h:99999999/x"]
)
def test_malformed_url_is_a_one_line_error(url: str) -> None:
    assert "is not a URL that can be fetched" in fault(url)
    assert "secret" not in fault(url) and fault(url).encode()


def test_full_disk_is_noticed_without_an_announced_length(monkeypatch: pytest.MonkeyPatch) -> None:
    left = iter([web.SPARE_BYTES + 10, web.SPARE_BYTES])
    monkeypatch.setattr(web.shutil, "disk_usage", lambda path: SimpleNamespace(free=next(left)))
    monkeypatch.setattr(web, "SPACE_EVERY_BYTES", 1000)
    with serving(jsonl(*range(1000)), length=None) as (url, _):
        assert "is full after 0.0 GB: free disk space" in fault(url)


def test_transfer_that_drips_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "WINDOW_S", -1.0)
    monkeypatch.setattr(web, "LEAST_BYTES", 1 << 30)
    with serving(jsonl(*range(50_000))) as (url, asked):
        assert " s; run the same command again to resume" in fault(url) and len(asked) == web.TRIES


def test_size_limit_holds_without_an_announced_length() -> None:
    with serving(jsonl(*range(1000)), length=None) as (url, _), pytest.raises(DataError, match="is larger than 0.0 GB"):
        web.fetch(url, most_bytes=1000)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("s3://bucket/rows.jsonl", "s3:// is not supported: download it first"),
        ("https://me:secret@host/rows.jsonl", "https://host/rows.jsonl: the URL contains credentials"),
        ("hf://datasets/name", "expected hf://datasets/owner/name"),
        ("hf://owner/name", "expected hf://datasets/owner/name"),
    ],
)
def test_unsupported_dataset_names_are_rejected(name: str, expected: str) -> None:
    assert expected in fault(name) and "secret" not in fault(name)


def parquet(*numbers: int) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": [f"row {n}" for n in numbers], "n": list(numbers)}), sink)
    return sink.getvalue()


CARD = b"""---
license: mit
configs:
- config_name: main
  default: true
  data_files:
  - {split: train, path: "main/train-*.parquet"}
  - {split: test, path: main/test.parquet}
- config_name: small
  data_files: small/*.jsonl
---
# Rows
"""


PLAIN = {
    "data/train-00000.jsonl.gz": gzip.compress(jsonl(1)),
    "data/train-00001.jsonl.gz": gzip.compress(jsonl(2)),
    "data/validation.jsonl": jsonl(3),
    "extra/rows.csv": b"n\n4\n",
    "README.md": b"# x",
    "dataset_info.json": b"{}",
}
CONFIGURED = {
    "README.md": CARD,
    "main/train-0.parquet": parquet(1, 2),
    "main/train-1.parquet": parquet(3),
    "main/test.parquet": parquet(4),
    "small/a.jsonl": jsonl(5),
    "other.jsonl": jsonl(6),
}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running() as double:
        double.add("datasets/them/plain", PLAIN)
        double.add("datasets/them/card", CONFIGURED)
        double.add("datasets/them/script", {"script.py": b"", "README.md": b""})
        yield double


READ = (
    "import sys, json; from burnish.data.files import locate, read_rows; from burnish.errors import run_edge\n"
    "def main():\n"
    "    found = locate(sys.argv[1]); rows = read_rows(found)\n"
    "    print(json.dumps([[int(row.value['n']) for row in rows], rows[0].where, found.origin])); return 0\n"
    "run_edge(main)\n"
)
Read = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def read(hub: Hub, tmp_path: Path) -> Read:
    def call(name: str, **more: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, **hub.environment(tmp_path / "hf", None), **more}
        return subprocess.run(
            [sys.executable, "-c", READ, name], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=90
        )

    return call


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("them/plain", [1, 2]),
        ("them/plain/validation", [3]),
        ("them/plain:extra", [4]),
        ("them/plain/data/*-00001*", [2]),
        ("them/card", [1, 2, 3]),
        ("them/card/test", [4]),
        ("them/card:small/train", [5]),
        ("them/card/other.jsonl", [6]),
    ],
)
def test_hub_dataset_is_read_by_configuration_split_or_file(
    read: Read, hub: Hub, name: str, expected: list[int]
) -> None:
    done = read(f"hf://datasets/{name}")
    assert done.returncode == 0, done.stderr
    found, where, origin = json.loads(done.stdout)
    repo = "/".join(name.partition(":")[0].split("/")[:2])
    assert found == expected and where.endswith("row 1") and origin == hub.repos[f"datasets/{repo}"].head


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("them/plain/tset", "has no split 'tset'; did you mean 'test'?|has no split 'tset'; known: train, validation"),
        ("them/card:smal", "has no configuration 'smal'; did you mean 'small'?"),
        ("them/none", "not on the Hub, or private (your token: none)"),
        ("them/plain@v9", "no revision 'v9'"),
        ("them/script", "loading scripts such as script.py are not run: try @refs/convert/parquet"),
        ("them/card/rows.jsonl", "has no file rows.jsonl"),
    ],
)
def test_missing_hub_dataset_is_a_one_line_error(read: Read, name: str, expected: str) -> None:
    done = read(f"hf://datasets/{name}")
    assert done.returncode == 2 and done.stderr.count("error: ") == 1 and "Traceback" not in done.stderr, done.stderr
    assert any(one in done.stderr for one in expected.split("|")), done.stderr


def test_hub_revision_is_cached_for_offline_use(read: Read, hub: Hub) -> None:
    old = hub.repos["datasets/them/plain"].head
    hub.add("datasets/them/plain", {"data/train-00001.jsonl.gz": gzip.compress(jsonl(7))})
    assert json.loads(read("hf://datasets/them/plain").stdout)[0] == [1, 7]
    assert json.loads(read(f"hf://datasets/them/plain@{old}").stdout)[0] == [1, 2]
    done = read("hf://datasets/them/plain", HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0] == [1, 7] and "using the copy in the cache" in done.stderr


def test_hub_references_are_parsed() -> None:
    assert Reference.parse("hf://datasets/a/b@refs/convert/parquet:c/train") == Reference(
        "a/b", "refs/convert/parquet", "c", "train"
    )
    assert Reference.parse("hf://datasets/a/b@v1.0/data/x.jsonl") == Reference("a/b", "v1.0", file="data/x.jsonl")


SIZES = st.lists(st.integers(1, 300), min_size=1, max_size=5)


@given(there=SIZES, data=st.data())
def test_shares_are_exact_and_limited_by_the_scarcest_source(there: list[int], data: st.DataObject) -> None:
    weights = data.draw(st.lists(st.integers(1, 9), min_size=len(there), max_size=len(there)))
    shares = [weight / sum(weights) for weight in weights]
    found = counts([Asked(str(n), share) for n, share in enumerate(shares)], there)
    assert all(number <= has for number, has in zip(found, there, strict=True))
    total = sum(found)
    assert all(abs(number - share * total) < 1 for number, share in zip(found, shares, strict=True))
    assert any((number + 2) / share > total for number, share in zip(there, shares, strict=True))


def test_row_counts_and_shares_combine_with_whole_sources() -> None:
    asked = [Asked("a"), Asked("b", rows=20), Asked("c", share=0.2)]
    assert counts(asked, [60, 30, 100]) == [60, 20, 20]
    assert counts([Asked("a")], [10], max_rows=4) == [4] and counts([Asked("a")], [3], max_rows=4) == [3]
    for wrong, there, expected in (
        (asked, [60, 10, 100], "b: rows is 20, but it has 10"),
        (asked, [60, 30, 5], "c: share 0.2 is 20 rows, but it has 5"),
        ([Asked("a", 0.5), Asked("b", 0.4)], [9, 9], "expected shares that add up to 1, got 0.9"),
        ([Asked("a"), Asked("b", 1.0)], [9, 9], "no rows are left for the other sources"),
    ):
        with pytest.raises(DataError, match=expected):
            counts(wrong, there)


def test_row_selection_depends_on_seed_and_source() -> None:
    one = choose(1000, 100, seed=1, source=0)
    assert one is not None and sum(one) == 100 and one == choose(1000, 100, seed=1, source=0)
    assert one != choose(1000, 100, seed=2, source=0) and one != choose(1000, 100, seed=1, source=1)
    assert choose(10, 10, seed=1, source=0) is None


def opened(tmp_path: Path, seed: int = 1, max_rows: int | None = None) -> Dataset:
    rows = ({"prompt": f"q{n}", "completion": f"a{n}", "n": n} for n in range(100))
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "b.csv").write_text("instruction,output\n" + "".join(f"q{n},a{n}\n" for n in range(50)))
    even = Condition("n % 2 == 0", "data.sources[0].where")
    return open_dataset(
        [Spec(f"{tmp_path}/a.jsonl", where=even, share=0.75), Spec(f"{tmp_path}/b.csv", share=0.25)], seed, max_rows
    )


def test_mixed_sources_are_filtered_with_exact_counts_and_locations(tmp_path: Path) -> None:
    dataset = opened(tmp_path)
    rows = list(dataset.rows())
    assert [source.used for source in dataset.sources] == [50, 16] and len(rows) == 66
    assert all(raw.value["n"] % 2 == 0 for raw in rows if raw.source == 0)
    assert rows[0].where.startswith("a.jsonl line ") and rows[-1].where.endswith("row 66")
    assert dataset.format == "mixed" and "a.jsonl: prompt-completion, recognised; b.csv: alpaca" in dataset.how
    first, *_, epoch = dataset.remarks()
    assert first == "a.jsonl: 50 rows of 100 left out by data.where"
    assert epoch.startswith("an epoch is 66 rows: 50 of 50 rows of ") and "chosen with seed 1" in epoch
    assert list(opened(tmp_path).rows()) == rows != list(opened(tmp_path, seed=2).rows())
    assert dataset.sha256() == opened(tmp_path, seed=2).sha256()
    assert dataset.rows_sha256() != opened(tmp_path, seed=2).rows_sha256()
    assert [source.used for source in opened(tmp_path, max_rows=20).sources] == [15, 5]


def test_mixed_rows_converted_in_parts_equal_one_process(tmp_path: Path) -> None:
    dataset = opened(tmp_path)
    rows, whole = list(dataset.rows()), dataset.converter()
    examples = [whole.add(row) for row in rows]
    parts = [pickle.loads(pickle.dumps(whole.empty())) for _ in range(2)]
    assert [part.add(row) for part, own in zip(parts, (rows[:55], rows[55:]), strict=True) for row in own] == examples
    parts[0].merge(parts[1])
    assert parts[0].conversion() == whole.conversion() and parts[0].converted == 66
    assert not whole.conversion().unused_columns  # data.where reads "n"


def test_optional_column_may_first_appear_in_a_late_row(tmp_path: Path) -> None:
    values: list[dict[str, Any]] = [{"q": f"q{n}", "a": "a"} for n in range(1300)]
    values[1200] |= {"hint": "look", "level": 3}
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(value) + "\n" for value in values))
    path = str(tmp_path / "a.jsonl")
    columns = parse_columns({"user": "{{ q }}{% if hint %} ({{ hint }}){% endif %}", "assistant": "{{ a }}"})
    dataset = open_dataset([Spec(path, columns=columns)], 1)
    converter = dataset.converter()
    examples = [example for row in dataset.rows() if (example := converter.add(row))]
    assert len(examples) == 1300 and (examples[1200].messages or ())[0].content == "q1200 (look)"
    level = Spec(path, columns=columns, where=Condition("level == 3", "data.where"))
    assert [row.value["q"] for row in open_dataset([level], 1).rows()] == ["q1200"]
    with pytest.raises(DataError, match="'hnt' is not a column of .*; did you mean 'hint'"):
        open_dataset([Spec(path, columns=parse_columns({"text": "{{ hint }}{{ hnt }}"}))], 1)


def test_condition_with_an_unknown_column_or_no_match_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl(1, 2))
    path = str(tmp_path / "a.jsonl")
    with pytest.raises(DataError, match=r"data\.where: 'm' is not a column of .*a\.jsonl"):
        open_dataset([Spec(path, where=Condition("m > 1", "data.where"))], 1)
    with pytest.raises(DataError, match="data.where is false for all of its 2 rows"):
        list(open_dataset([Spec(path, where=Condition("n > 9", "data.where"))], 1).rows())
    with pytest.raises(DataError, match="line 1: data.where: "):
        list(open_dataset([Spec(path, where=Condition("text > 9", "data.where"))], 1).rows())
