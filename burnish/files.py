"""Files: atomic writes, hashes, and exact reads.

Text is UTF-8 without newline translation, and only \\n ends a line. `str.splitlines` also splits at U+2028, U+2029,
U+0085, \\v, \\f and \\x1c to \\x1e, which are ordinary characters in JSON and text, and `Path.read_text` turns every
\\r into \\n. So the project reads files only through these functions.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from .errors import UserError

HASH_CHUNK_BYTES = 1 << 22
# modes for files that contain data rows: held-out questions, the report's answers
PRIVATE_DIRECTORY, PRIVATE_FILE = 0o700, 0o600
KINDS = {
    stat.S_IFIFO: "a named pipe (FIFO), not a file: save its data to a file first",
    stat.S_IFSOCK: "a socket, not a file",
    stat.S_IFCHR: "a device, not a file",
    stat.S_IFBLK: "a device, not a file",
}


class FileError(UserError):
    """Raised when a file or directory is missing, damaged or not writable, or there is too little disk space."""


def irregular(path: Path) -> str:
    """Return an error if a path, after following links, is neither a file nor a directory; else ""."""
    try:
        return KINDS.get(stat.S_IFMT(path.stat().st_mode), "")
    except OSError:
        return ""


def irregular_in(directory: Path) -> list[str]:
    """Return one line per entry that is neither a file nor a directory: a library would block on a pipe."""
    return [f"{path}: {why}" for path in sorted(directory.iterdir()) if (why := irregular(path))]


def regular(path: Path) -> Path:
    """Return the path, for a library to open. Raises OSError like `open_regular`."""
    open_regular(path).close()
    return path


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading. Raises OSError for anything else: opening a pipe would block."""
    if why := irregular(path):  # check first: merely opening a device can have side effects
        raise OSError(errno.EINVAL, why, str(path))
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", closefd=True)
    kind = stat.S_IFMT(os.fstat(file.fileno()).st_mode)
    if kind != stat.S_IFREG:
        file.close()
        raise OSError(errno.EINVAL, KINDS.get(kind, "not a regular file"), str(path))
    return file


def read_regular(path: Path, limit: int | None = None) -> bytes:
    """Return a file's bytes. Raises OSError like `open_regular`, and for more than `limit` bytes."""
    with open_regular(path) as file:
        if limit is not None and (size := os.fstat(file.fileno()).st_size) > limit:
            raise OSError(errno.EFBIG, f"expected at most {limit:,} bytes, got {size:,}", str(path))
        return file.read()


def check_writable(directory: Path, needed_bytes: int, purpose: str) -> None:
    """Create `directory` before work starts. Raises FileError if it is not writable or has too little space."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise FileError(
            f"{directory} can't be written ({error.strerror}): {purpose} needs it; fix its owner or mode"
        ) from None
    free = shutil.disk_usage(directory).free
    if free < needed_bytes:
        raise FileError(
            f"{directory}: {free / 1e9:.1f} GB free, {purpose} needs about {needed_bytes / 1e9:.1f} GB: free disk space"
        )


def write_atomic(path: Path, text: str, private: bool = False) -> None:
    """Write a text file atomically: write a temporary file in the same directory, sync it, then rename it.

    `private`: only the owner can read the file.
    """
    with atomic_file(path, private) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def atomic_file(path: Path, private: bool = False) -> Iterator[Path]:
    """Yield a temporary path that becomes `path` at the end; an exception leaves nothing behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        if private:
            temporary.unlink(missing_ok=True)
            os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE))
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: Path, private: bool = False) -> Iterator[Path]:
    """Yield a temporary directory that replaces `path` at the end; an exception leaves nothing behind.

    `private`: only the owner can read the directory and its files.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(mode=PRIVATE_DIRECTORY if private else 0o777)
    try:
        yield temporary
        for file in temporary.rglob("*") if private else ():
            file.chmod(PRIVATE_DIRECTORY if file.is_dir() else PRIVATE_FILE)
        shutil.rmtree(path, ignore_errors=True)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def private_directory(path: Path) -> Path:
    """Create a directory that only its owner can read; restrict an existing one if possible."""
    path.mkdir(mode=PRIVATE_DIRECTORY, parents=True, exist_ok=True)
    with suppress(OSError):  # another user's directory, or a file system without permissions
        path.chmod(PRIVATE_DIRECTORY)
    return path


def remove_partial(directory: Path) -> None:
    """Remove partial files left in `directory` by a killed process."""
    for path in directory.glob(".*.partial"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def file_sha256(path: Path, progress: Callable[[int], None] | None = None) -> str:
    """Return a file's sha256 as hex digits; `progress` is called with the size of every chunk."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while chunk := file.read(HASH_CHUNK_BYTES):
            digest.update(chunk)
            if progress:
                progress(len(chunk))
    return digest.hexdigest()


def tree_sha256(path: Path, ignore: tuple[str, ...] = ()) -> str:
    """Return the sha256 of a file, or for a directory of the sorted lines "sha256  relative/path"."""
    return file_sha256(path) if path.is_file() else tree_digest(tree_hashes(path, ignore))


def tree_hashes(
    path: Path, ignore: tuple[str, ...] = (), progress: Callable[[int], None] | None = None
) -> dict[str, str]:
    """Return the sha256 of each file in a directory, by relative path, sorted; hidden files are skipped."""
    files = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith(".") and p.name not in ignore)
    return {p.relative_to(path).as_posix(): file_sha256(p, progress) for p in files}


def tree_digest(hashes: Mapping[str, str]) -> str:
    """Return a directory's sha256, computed from its files' hashes (`tree_hashes`)."""
    return text_sha256("".join(f"{digest}  {name}\n" for name, digest in hashes.items()))


def text_sha256(text: str) -> str:
    """Return the sha256 of text encoded as UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


def cache_root() -> Path:
    """Return the cache directory shared by all runs: $BURNISH_CACHE, else the user's cache directory."""
    if given := os.environ.get("BURNISH_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "burnish"


def read_json(path: Path, limit: int | None = None) -> Any:
    """Read a JSON file of at most `limit` bytes. Raises FileError if it is missing or damaged."""
    try:
        return json.loads(read_regular(path, limit))
    except RecursionError:
        raise FileError(f"{path} can't be read: nested too deeply") from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise FileError(f"{path} can't be read: {why}") from None


def read_text(path: Path, limit: int | None = None) -> str:
    """Return a UTF-8 file's text with line breaks unchanged. Raises OSError and UnicodeDecodeError."""
    return read_regular(path, limit).decode("utf-8")


def split_lines(text: str) -> list[str]:
    """Split text into lines without their \\n; text after the last \\n is a line unless it is empty."""
    lines = text.split("\n")
    return lines[:-1] if not lines[-1] else lines


def read_lines(path: Path, limit: int | None = None) -> list[str]:
    """Return a UTF-8 file's lines without the trailing \\n. Raises OSError and UnicodeDecodeError."""
    return split_lines(read_text(path, limit))


def read_jsonl(path: Path, partial: bool = False) -> list[Any]:
    """Return the values in a JSON Lines file, skipping empty lines.

    Raises OSError, and ValueError for a malformed line; with `partial` such lines, which a killed process may leave,
    are skipped.
    """
    values = []
    for line in read_lines(path):
        try:
            values += [json.loads(line)] if line.strip() else []
        except (ValueError, RecursionError) as error:
            if not partial:
                raise ValueError(str(error)) from None
    return values


def last_line(output: str, default: str = "") -> str:
    """Return the last line printed by a program; a carriage return starts a new line."""
    return output.replace("\r", "\n").strip().rsplit("\n", 1)[-1].strip() or default


def first_line(message: object, default: str = "") -> str:
    """Return the first line of a library's error message."""
    return str(message).strip().split("\n", 1)[0].strip() or default
