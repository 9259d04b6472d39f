"""The run directory: its layout, its ids, and the three records through which the stages know one another."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import ValidationError

from .errors import UserError
from .exam.fidelity import Fidelity, Record

HASH_CHUNK_BYTES = 1 << 22


class RunError(UserError):
    """A run directory or record that is missing, unfinished, damaged or of another schema version."""


class BaseModelRef(Record):
    """The base model: hub id, directory or file; the hub revision; sha256 over its files (`tree_sha256`).

    `license` is what its own card or metadata says of it: license, license_name, license_link; empty: nothing.
    """

    id: str
    revision: str | None = None
    sha256: str
    license: dict[str, str] = {}


class FileRef(Record):
    """A file or directory, relative to the run, and its sha256."""

    path: str
    sha256: str


class AdapterRef(FileRef):
    """The adapter, and the sha256 of the one that training started from (`tree_sha256`); None: from none."""

    parent_sha256: str | None = None


class DataRef(Record):
    """What was trained on. `over_length` counts the rows that were dropped or truncated.

    `duplicates` counts the rows that repeat an earlier one, `near_duplicates` the held-out rows with a near duplicate
    among the training rows, `eval_overlap` the eval file's rows that the data had as well, and
    `eval_overlap_dropped` the training rows that were left out for it; None: not counted then.
    `eval_sha256` is that of the eval file; None where rows were split off.
    """

    path: str
    sha256: str
    format: str
    rows: int
    eval_rows: int
    over_length: int
    duplicates: int | None = None
    near_duplicates: int | None = None
    eval_overlap: int | None = None
    eval_overlap_dropped: int | None = None
    eval_sha256: str | None = None

    def leaks(self) -> list[str]:
        """Say what of the held-out rows was trained, for those who read the figures on them."""
        found = []
        if self.eval_overlap and not self.eval_overlap_dropped:
            found.append(f"{self.eval_overlap} held-out rows were trained as well (data.eval_overlap allow)")
        if self.near_duplicates:
            found.append(f"{self.near_duplicates} held-out rows are near duplicates of rows that were trained")
        return found


class ExamRef(FileRef):
    """The exam: `rows` questions, `general_rows` of them general texts, with `tokens` scored tokens."""

    rows: int
    tokens: int
    general_rows: int | None = None


class TrainMetrics(Record):
    """What training measured. Losses are TRL's, in nats a response token; eval_loss is the mean over its batches."""

    train_loss: float
    eval_loss: float | None = None
    train_runtime_s: float
    tokens_per_s: float
    peak_memory_bytes: int


class TrainRecord(Record):
    """train.json: present means that the train stage finished."""

    schema_version: Literal[1] = 1
    run_id: str
    created: str
    base: BaseModelRef
    quantization: Literal["nf4", "none"]
    load_dtype: str
    compute_dtype: str
    double_quant: bool
    skipped_modules: list[str]
    adapter: AdapterRef
    config: FileRef | None = None
    data: DataRef
    chat_template_sha256: str | None
    template_date: str
    terminators: list[str]
    special_tokens: Literal["text", "parse"] = "parse"  # of special strings in messages; older runs parsed them
    max_length: int
    metrics: TrainMetrics
    exam: ExamRef
    versions: dict[str, str]
    hardware: dict[str, Any]


class Merge(Record):
    """Which base the adapter was merged onto, and why."""

    base: Literal["dequantized", "original"]
    reason: str
    candidates: dict[str, Any]


Verdict = Literal["pass", "fail", "inconclusive"]


class Artefact(Record):
    """One exported model: `path` is relative to the run; sha256 of the file, or over the files of a directory."""

    path: str
    kind: Literal["safetensors", "gguf", "gguf-lora"]
    quantization: str
    bytes: int
    sha256: str
    fidelity: Fidelity
    verdict: Verdict
    why: str

    @property
    def outcome(self) -> str:
        """What became of it in the exam, as the end of a sentence: "failed its exam"."""
        return {
            "pass": "passed its exam",
            "fail": "failed its exam",
            "inconclusive": "is neither proven nor refuted by its exam (inconclusive)",
        }[self.verdict]


class ExportRecord(Record):
    """export.json: present means that the export stage finished. `gate` has every threshold that was applied."""

    schema_version: Literal[1] = 1
    run_id: str
    created: str
    train_sha256: str
    gate: dict[str, float] = {}
    merge: Merge
    artefacts: list[Artefact]
    default: str | None
    chat_template_sha256: str | None
    stop: list[str]
    context_length: int
    versions: dict[str, str] = {}
    special_tokens: Literal["text", "parse"] = "parse"


class PushRecord(Record):
    """push.json: where a run was published, and the files that are there now, by their path in the repository."""

    schema_version: Literal[1] = 1
    run_id: str
    created: str
    export_sha256: str
    repo: str
    commit: str
    files: list[str]
    public: bool = False
    versions: dict[str, str] = {}


AnyRecord = TypeVar("AnyRecord", TrainRecord, ExportRecord, PushRecord)
RECORD_FILES: dict[type[Record], str] = {
    TrainRecord: "train.json",
    ExportRecord: "export.json",
    PushRecord: "push.json",
}


@dataclass(frozen=True)
class Run:
    """One run directory. Nothing is created by making this object."""

    path: Path

    @property
    def id(self) -> str:
        return self.path.name

    def has(self, kind: type[Record]) -> bool:
        """Whether the stage that writes this record has finished."""
        return (self.path / RECORD_FILES[kind]).is_file()

    def read(self, kind: type[AnyRecord]) -> AnyRecord:
        """Read a record. Raises RunError where it is missing, damaged or of another schema version."""
        path = self.path / RECORD_FILES[kind]
        try:
            return kind.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise RunError(f"{self.path}: {path.name} is not there: this stage has not finished for the run") from None
        except (ValidationError, OSError) as error:
            detail = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": str(error)}
            where = ".".join(map(str, detail["loc"])) or "the file"
            raise RunError(f"{path}: {where}: {detail['msg']}; run the stage that writes it again") from None

    def write(self, record: Record) -> None:
        """Write a record whole or not at all."""
        write_atomic(self.path / RECORD_FILES[type(record)], record.model_dump_json(indent=2) + "\n")


def now() -> str:
    """Return this moment as records write it: UTC, ISO 8601, whole seconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def new_id(base: str, data: str) -> str:
    """Return `<base>-<data>-<UTC time>`, both shortened to the characters that are safe in a path."""

    def clean(text: str) -> str:
        stem = re.sub(r"\.(gguf|jsonl?|csv|parquet)$", "", text.rstrip("/").rsplit("/", 1)[-1], flags=re.IGNORECASE)
        return re.sub(r"[^A-Za-z0-9._]+", "-", stem).strip("-.")[:40] or "x"

    return f"{clean(base)}-{clean(data)}-{datetime.now(UTC).strftime('%Y%m%d-%H%M%S')}"


def find_run(root: Path, name: str | None, needs: type[Record] = TrainRecord) -> Run:
    """Return the run called `name` (an id or a path), or the newest one that has the record `needs`.

    Raises RunError that lists what there is and says which command makes what is missing.
    """
    verb = {"train.json": "make train DATA=...", "export.json": "make export", "push.json": "make push"}[
        RECORD_FILES[needs]
    ]
    if name:
        path = next((p for p in (root / name, Path(name)) if p.is_dir()), None)
        if path is None:
            there = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.is_symlink()) if root.is_dir() else []
            raise RunError(f"no run '{name}' in {root}/; there is: {', '.join(there) or 'none yet'}")
        run = Run(path.resolve())
        if not run.has(needs):
            raise RunError(f"run '{run.id}' has no {RECORD_FILES[needs]}: run `{verb}` for it first")
        return run
    finished = [Run(p.resolve()) for p in root.iterdir() if p.is_dir() and not p.is_symlink()] if root.is_dir() else []
    finished = [run for run in finished if run.has(needs)]
    if not finished:
        raise RunError(f"no run in {root}/ has its {RECORD_FILES[needs]} yet: run `{verb}` first")
    return max(finished, key=lambda run: (run.path / RECORD_FILES[needs]).stat().st_mtime_ns)


def point_latest(run: Run) -> None:
    """Make runs/latest point at this run, in one step."""
    link = run.path.parent / f".latest-{os.getpid()}"
    link.unlink(missing_ok=True)
    link.symlink_to(run.path.name)
    os.replace(link, run.path.parent / "latest")


def check_writable(directory: Path, needed_bytes: int, purpose: str) -> None:
    """Create `directory` and raise RunError where it can't be written or has too little room, before work starts."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise RunError(
            f"{directory}: can't be written ({error.strerror}): {purpose} needs it; mend its owner or mode"
        ) from None
    free = shutil.disk_usage(directory).free
    if free < needed_bytes:
        raise RunError(
            f"{directory}: {free / 1e9:.1f} GB free, {purpose} needs about {needed_bytes / 1e9:.1f} GB; make room"
        )


def write_atomic(path: Path, text: str) -> None:
    """Write a text file whole or not at all: a temporary file beside it, synced, then renamed over it."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to, which becomes `path` at the end; nothing is left after a fault."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_directory(path: Path) -> Iterator[Path]:
    """Give a temporary directory to fill, which takes the place of `path` at the end; nothing is left after a fault."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        shutil.rmtree(path, ignore_errors=True)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sweep_partial(directory: Path) -> None:
    """Remove what a killed process left half-written in `directory`."""
    for path in directory.glob(".*.partial"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def file_sha256(path: Path, progress: Callable[[int], None] | None = None) -> str:
    """Return the sha256 of a file as hex digits; `progress` is told of every chunk's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(HASH_CHUNK_BYTES):
            digest.update(chunk)
            if progress:
                progress(len(chunk))
    return digest.hexdigest()


def tree_sha256(path: Path, ignore: tuple[str, ...] = ()) -> str:
    """Return one sha256 for a file, or for a directory: over its sorted lines "sha256  relative/path"."""
    return file_sha256(path) if path.is_file() else tree_digest(tree_hashes(path, ignore))


def tree_hashes(
    path: Path, ignore: tuple[str, ...] = (), progress: Callable[[int], None] | None = None
) -> dict[str, str]:
    """Return the sha256 of each file in a directory, by relative path, sorted; hidden ones are left out."""
    files = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith(".") and p.name not in ignore)
    return {p.relative_to(path).as_posix(): file_sha256(p, progress) for p in files}


def tree_digest(hashes: Mapping[str, str]) -> str:
    """Return the sha256 that stands for a directory, from those of its files as `tree_hashes` gives them."""
    return text_sha256("".join(f"{digest}  {name}\n" for name, digest in hashes.items()))


def text_sha256(text: str) -> str:
    """Return the sha256 of a text's UTF-8 bytes."""
    return hashlib.sha256(text.encode()).hexdigest()


def cache_root() -> Path:
    """Return where things that outlive runs are kept: $BURNISH_CACHE, else the user's cache directory."""
    if given := os.environ.get("BURNISH_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "burnish"


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises RunError that names it where it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: can't be read: {error}") from None
