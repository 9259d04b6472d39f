"""The files to publish: the run's regular files, each verified against its recorded sha256."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from burnish.console import bar, printable
from burnish.errors import UserError
from burnish.fields import inside
from burnish.files import file_sha256, first_line, read_json, read_regular, tree_digest, tree_hashes
from burnish.hub import published_name
from burnish.run import CONFIG, Run

from .card import card
from .publication import Publication

SUMS = "SHA256SUMS"
SIXTEEN_BIT_OR_MORE = frozenset({"F16", "BF16", "F32"})
# checkpoint and adapter files: weights, configs, the tokenizer, templates
SUFFIXES = frozenset({".safetensors", ".json", ".jinja", ".model", ".txt"})
MAX_RECORD_BYTES, MAX_CONFIG_BYTES = 8 << 20, 1 << 20


class PushError(UserError):
    """Raised when a run can't be published, or not with these settings."""


@dataclass(frozen=True)
class Item:
    """One file to publish: its path in the repository, its content or local file, size and sha256."""

    name: str
    source: Path | bytes
    size: int
    sha256: str

    @staticmethod
    def of(name: str, content: bytes) -> Item:
        """Return an item for in-memory content."""
        return Item(name, content, len(content), hashlib.sha256(content).hexdigest())


def collect(s: Publication) -> list[Item]:
    """Return every file to publish, after verifying each against its recorded sha256.

    Raises PushError listing everything that may not be published: links, pipes, files foreign to a checkpoint.
    """
    _check_files(s)
    merged = s.run.path / s.merged.path if s.merged else None
    adapter = s.run.path / s.train.adapter.path if s.adapter else None
    size = sum(_size(path) for path in (merged, adapter, *(s.run.path / a.path for a in s.ggufs)) if path)
    done = 0.0
    items: list[Item] = []
    with bar("check sha256, MB", size / 1e6) as tick:

        def progress(read: int) -> None:
            nonlocal done
            tick(done := done + read / 1e6)

        if s.merged and merged:
            _refuse_quantized(merged)
            items += _tree(merged, "", s.merged.sha256, progress)
        if adapter:
            items += _tree(adapter, "adapter/", s.train.adapter.sha256, progress)
        for artifact in s.ggufs:
            path = s.run.path / artifact.path
            _check(path, path.is_file() and file_sha256(path, progress) == artifact.sha256)
            items.append(Item(published_name(artifact.path), path, path.stat().st_size, artifact.sha256))
    items += [Item.of(name, content) for name, content in _records(s)]
    if s.ggufs and s.stop:
        items.append(Item.of("params", json.dumps({"stop": s.stop}, ensure_ascii=False).encode() + b"\n"))
    items.append(Item.of("README.md", card(s).encode()))
    sums = "".join(f"{item.sha256}  {item.name}\n" for item in sorted(items, key=lambda item: item.name))
    return [*items, Item.of(SUMS, sums.encode())]


def _check_files(s: Publication) -> None:
    """Raise PushError listing every file that may not be published."""
    trees = [path for path in (s.merged and s.merged.path, s.adapter and s.train.adapter.path) if path]
    faults = [fault for name in trees for fault in _tree_faults(s.run, name)]
    faults += [fault for name in (*s.records, *(a.path for a in s.ggufs)) if (fault := _link_fault(s.run, name))]
    if faults:
        raise PushError(faults)


def _tree_faults(run: Run, name: str) -> Iterator[str]:
    """Yield the errors in a directory that is published in full."""
    if fault := _link_fault(run, name):
        yield fault
        return
    for path in sorted((run.path / name).rglob("*")):
        inner = path.relative_to(run.path / name)
        if fault := _link_fault(run, path.relative_to(run.path).as_posix()):
            yield fault
        elif not _is_plain(inner.as_posix()):
            yield f"{path}: its name has invisible characters, or characters that are not allowed in a repository path"
        elif path.is_file() and not path.name.startswith(".") and _is_foreign(inner):
            yield f"{path} is not part of a checkpoint ({', '.join(sorted(SUFFIXES))}): remove it"


def _is_plain(name: str) -> bool:
    """Return whether a file name is printable and allowed in push.json."""
    try:
        return inside(name) == printable(name, one_line=True)
    except ValueError:
        return False


def _is_foreign(inner: Path) -> bool:
    """Return whether a file is not part of a checkpoint. Hidden files are neither hashed nor published."""
    return inner.suffix not in SUFFIXES or any(part.startswith(".") for part in inner.parts)


def _link_fault(run: Run, name: str) -> str:
    """Return the error if a path in the run is a link, passes through one, or is not a file or directory."""
    path = run.inside(name)
    if path.resolve() != run.path.resolve() / name:
        return f"{path} is a link, or inside a linked directory: only files in the run itself are published"
    return ""


def _records(s: Publication) -> Iterator[tuple[str, bytes]]:
    """Yield the records and settings, unchanged."""
    for name in s.records:
        path = s.run.inside(name)
        if path.is_file():
            try:
                yield name, read_regular(path, MAX_CONFIG_BYTES if name == CONFIG else MAX_RECORD_BYTES)
            except OSError as error:
                raise PushError(f"{path} can't be read: {error.strerror}") from None


def _refuse_quantized(directory: Path) -> None:
    """Raise PushError for quantized merged weights: 4-bit merges are not published."""
    config = read_json(directory / "config.json")
    if not isinstance(config, dict):
        raise PushError(f"{directory / 'config.json'}: expected a JSON object: export again")
    files = sorted(directory.glob("*.safetensors"))
    low = next((f"{p.name}: {t}" for p in files for t in _dtypes(p) - SIXTEEN_BIT_OR_MORE), "")
    if config.get("quantization_config") or low:
        found = low or "config.json has a quantization_config"
        raise PushError(f"{directory}: quantized merged weights are not published ({found}): export again")


def _dtypes(path: Path) -> set[str]:
    try:
        with safe_open(path, "np") as file:
            return {str(file.get_slice(key).get_dtype()) for key in file.keys()}  # noqa: SIM118  (it is not a dict)
    except (SafetensorError, OSError) as error:
        raise PushError(f"{path} is not a safetensors file: {first_line(error)}: export again") from None


def _tree(directory: Path, prefix: str, recorded: str, progress: Callable[[int], None]) -> Iterator[Item]:
    """Yield a directory's files after verifying them against the recorded sha256."""
    hashes = tree_hashes(directory, progress=progress)
    _check(directory, tree_digest(hashes) == recorded)
    for name, digest in hashes.items():
        yield Item(prefix + name, directory / name, (directory / name).stat().st_size, digest)


def _check(path: Path, same: bool) -> None:
    if not same:
        raise PushError(f"{path} is missing, or differs from its record (sha256): run `make export` again")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
