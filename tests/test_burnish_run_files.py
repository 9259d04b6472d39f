"""Only regular files inside a run are served, published or written."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from burnish import lock, report
from burnish.bases.base import Base, directory_sha256, licence
from burnish.errors import UserError
from burnish.files import file_sha256
from burnish.run import Run, RunError
from export import stage
from export.hub.contents import PushError, collect
from export.hub.publication import Publication
from export.hub.selection import select
from export.settings import ExportSettings, RunSection
from serve import hub
from serve.artifact import choose
from serve.settings import ServeSettings
from tests.support.published import make_run


def selected(run: Run) -> Publication:
    return select(ExportSettings(run=RunSection(root=str(run.path.parent), name=run.id)))[0]


def linked_away(run: Run, name: str) -> Path:
    """Move a part of the run elsewhere and link to it; return its new path."""
    place = run.path.parent / "elsewhere" / name
    place.parent.mkdir(parents=True)
    (run.path / name).rename(place)
    (run.path / name).symlink_to(place)
    return place


@pytest.mark.parametrize(
    "name", ["config.yaml", "merged/config.json", "merged", "adapter", "gguf/tuned-Q8_0.gguf", "gguf"]
)
def test_files_behind_links_are_not_published(name: str, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    linked_away(run, name)
    with pytest.raises(UserError, match="outside the run"):
        collect(selected(run))


def test_links_inside_the_run_are_not_published(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    (run.path / "merged" / "tokenizer.json").rename(run.path / "aside.json")
    (run.path / "merged" / "tokenizer.json").symlink_to("../aside.json")
    with pytest.raises(PushError, match="is a link, or inside a linked directory"):
        collect(selected(run))


@pytest.mark.parametrize("name", ["payload.py", ".git/config.json", "a\u202egnp.json", "notes", "model.pkl"])
def test_files_outside_a_checkpoint_are_not_published(name: str, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    extra = run.path / "adapter" / name
    extra.parent.mkdir(exist_ok=True)
    extra.write_text("{}")
    with pytest.raises(PushError, match="is not part of a checkpoint|invisible"):
        collect(selected(run))


def test_all_links_are_reported_together(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    for name in ("a.json", "b.json"):
        (run.path / "merged" / name).symlink_to("tokenizer.json")
    with pytest.raises(PushError) as caught:
        collect(selected(run))
    assert len(caught.value.faults) == 2


@pytest.mark.parametrize("name", ["gguf/tuned-Q4_K_M.gguf", "gguf", "export.json", "train.json"])
def test_serve_refuses_files_outside_the_run(name: str, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    linked_away(run, name)
    with pytest.raises(RunError, match="outside the run"):
        choose(ServeSettings(runs=str(tmp_path), run=run.id))


@pytest.mark.parametrize("name", ["merged", "gguf", ".export", "logs"])
def test_export_does_not_write_through_links(name: str, tmp_path: Path) -> None:
    run, outside = make_run(tmp_path / "runs"), tmp_path / "outside"
    outside.mkdir()
    if (run.path / name).is_dir():
        (run.path / name).rename(tmp_path / "moved")
    (run.path / name).symlink_to(outside)
    with pytest.raises(RunError, match="outside the run"):
        stage.export(ExportSettings(run=RunSection(root=str(tmp_path / "runs"), name=run.id)))
    assert not list(outside.iterdir())


def test_run_directory_may_be_a_link(tmp_path: Path) -> None:
    run = make_run(tmp_path / "disk")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "here").symlink_to(run.path)
    assert choose(ServeSettings(runs=str(tmp_path / "runs"), run="here")).path.is_file()


def test_hub_cache_links_must_stay_in_their_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "runs")
    snapshot = tmp_path / "models--me--m" / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    blobs = snapshot.parent.parent / "blobs"
    blobs.mkdir()
    model = run.path / "gguf" / "tuned-Q4_K_M.gguf"
    for path in (run.path / "train.json", run.path / "export.json", model):
        (blobs / path.name).write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    calls: list[list[str]] = []

    def download(repo: str, revision: str | None, names: list[str]) -> Path:
        calls.append(list(names))
        return snapshot

    monkeypatch.setattr(hub.hub, "download", download)
    assert choose(ServeSettings(model="hf://me/m")).path.resolve() == blobs / model.name
    assert calls[1] == [model.name]
    (snapshot / model.name).unlink()
    (snapshot / model.name).symlink_to(model)
    with pytest.raises(RunError, match="outside the run"):
        choose(ServeSettings(model="hf://me/m"))


def test_recorded_file_name_is_not_used_as_a_pattern(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path)
    content = json.loads((run.path / "export.json").read_text())
    for artifact in content["artefacts"]:
        if artifact["path"] == content["default"]:
            artifact["path"] = content["default"] = "gguf/*[a].gguf"
    (run.path / "export.json").write_text(json.dumps(content))
    calls: list[list[str]] = []
    (run.path / "*[a].gguf").write_text("GGUF")

    def download(repo: str, revision: str | None, names: list[str]) -> Path:
        calls.append(list(names))
        return run.path

    monkeypatch.setattr(hub.hub, "download", download)
    choose(ServeSettings(model="hf://me/m"))
    assert calls[1] == ["[*][[]a].gguf"]


def test_link_target_named_like_a_hash_is_still_hashed(tmp_path: Path) -> None:
    base, secret = tmp_path / "base", tmp_path / "blobs" / ("a" * 64)
    base.mkdir()
    secret.parent.mkdir()
    secret.write_text("weights")
    (base / "model.safetensors").symlink_to(secret)
    before = directory_sha256(base)
    secret.write_text("other weights")
    assert directory_sha256(base) != before


def test_hub_cache_blob_names_are_trusted_as_hashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    snapshot, blob = tmp_path / "models--x" / "snapshots" / "c", tmp_path / "models--x" / "blobs" / ("a" * 64)
    for directory in (snapshot, blob.parent):
        directory.mkdir(parents=True)
    blob.write_text("weights")
    (snapshot / "model.safetensors").symlink_to(blob)
    before = directory_sha256(snapshot)
    blob.write_text("a large file that is not read again")
    assert directory_sha256(snapshot) == before


def test_linked_lock_file_does_not_truncate_its_target(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("kept")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / lock.LOCK).symlink_to(precious)
    with pytest.raises(UserError, match=r"\.lock can't be written \(it is a link\)"), lock.hold(tmp_path / "run", "x"):
        pass
    lock.check(tmp_path / "run")
    assert precious.read_text() == "kept"


def fifo(path: Path) -> None:
    os.mkfifo(path)


def unix_socket(path: Path) -> None:
    folder = os.open(path.parent, os.O_PATH)  # socket addresses are limited to 107 bytes, and the path may be longer
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)


@pytest.mark.parametrize("make", [fifo, unix_socket])
@pytest.mark.parametrize(
    "name", ["train.json", "export.json", "gguf/tuned-Q4_K_M.gguf", "config.yaml", "adapter/x.json"]
)
def test_pipes_and_sockets_in_a_run_are_rejected_without_blocking(
    make: Callable[[Path], None], name: str, tmp_path: Path
) -> None:
    run = make_run(tmp_path)
    (run.path / name).unlink(missing_ok=True)
    make(run.path / name)
    with pytest.raises(UserError, match="not a file|has not finished|no export.json"):
        choose(ServeSettings(runs=str(tmp_path), run=run.id, artifact="Q4_K_M"))
        collect(selected(run))


def test_tree_hash_covers_only_regular_files(tmp_path: Path) -> None:
    fifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="named pipe"):
        file_sha256(tmp_path / "pipe")


def test_base_licence_is_read_in_bounded_time(tmp_path: Path) -> None:
    bomb = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join(['*' + chr(97 + n)] * 10)}]\n" for n in range(12)
    )
    base = Base("them/base", None, tmp_path, "")
    for head, found in ((f"{bomb}license: *l", {}), ("license: mit", {"license": "mit"}), ("license: *x", {})):
        (tmp_path / "README.md").write_text(f"---\n{head}\n---\n# Base\n")
        assert licence(base) == found
    (tmp_path / "README.md").write_text(f"---\nlicense: {'x' * 5000}\n---\n")
    assert len(licence(base)["license"]) == 1024  # the content of a record
    (tmp_path / "README.md").unlink()
    fifo(tmp_path / "README.md")
    assert licence(base) == {}


@pytest.mark.parametrize("secret", ["config.yaml", "logs/metrics.jsonl", "exam"])
def test_report_shows_nothing_from_outside_the_run(secret: str, tmp_path: Path) -> None:
    run, outside = make_run(tmp_path / "runs"), tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("- top secret")
    (run.path / secret).unlink(missing_ok=True)
    (run.path / secret).parent.mkdir(exist_ok=True)
    (run.path / secret).symlink_to(outside / "secret")
    try:
        report.write(run)
    except RunError as error:
        assert "outside the run" in str(error)
    else:
        assert "top secret" not in (run.path / "report.html").read_text()
