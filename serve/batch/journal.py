"""The journal next to the output file: the answers so far, so that an interrupted command can resume."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from array import array
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from burnish.console import say
from burnish.errors import UserError

from .results import Result

SUFFIX = ".journal"
KEY_DIGITS = 12
SYNC_EVERY = 256  # results between two calls of fsync: only a power failure loses what was not synced


class JournalError(UserError):
    """Raised when the journal is in use or can't be written."""


def key_of(content: Mapping[str, Any]) -> str:
    """Return a hash of everything that affects the answers."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


class Journal:
    """One line per finished row: {"row", "result"}. Only the line offsets are in memory, 8 bytes per row."""

    def __init__(self, file: BinaryIO, path: Path, rows: int) -> None:
        self.path = path
        self._file = file
        self._places = array("q", [-1]) * rows
        self._failed = bytearray(rows)
        self._unsynced = 0
        self._load()

    def _load(self) -> None:
        """Index the lines, and remove an incomplete last line left by a killed process."""
        end = 0
        self._file.seek(0)
        for line in self._file:
            if not line.endswith(b"\n"):
                break
            try:
                entry = json.loads(line)
                row, failed = int(entry["row"]), Result.from_json(entry["result"]).error is not None
            except (ValueError, KeyError, TypeError):
                break
            if 0 <= row < len(self._places):
                self._places[row], self._failed[row] = end, failed
            end += len(line)
        self._file.truncate(end)
        self._end = end

    def __contains__(self, row: int) -> bool:
        """Whether the row was answered; failed rows are retried."""
        return self._places[row] >= 0 and not self._failed[row]

    @property
    def failed(self) -> int:
        """The number of failed rows."""
        return sum(self._failed)

    @property
    def answered(self) -> int:
        """The number of answered rows."""
        return sum(place >= 0 for place in self._places) - self.failed

    def add(self, row: int, result: Result) -> None:
        """Append a row's result; it then survives a kill of the process. Raises JournalError on a full disk."""
        line = json.dumps({"row": row, "result": result.to_json()}).encode() + b"\n"
        try:
            self._append(line)
        except OSError as error:
            raise JournalError(
                f"{self.path} can't be written ({error.strerror}): the answers before are kept; free space or fix the"
                " problem, then run the same command again"
            ) from None
        self._places[row], self._failed[row] = self._end, result.error is not None
        self._end += len(line)

    def _append(self, line: bytes) -> None:
        """Write a line at the end, without the buffer, which would try again when the file is closed."""
        done = 0
        while done < len(line):
            done += os.pwrite(self._file.fileno(), line[done:], self._end + done)
        self._unsynced += 1
        if self._unsynced >= SYNC_EVERY:
            os.fsync(self._file.fileno())
            self._unsynced = 0

    def get(self, row: int) -> Result | None:
        """Return a row's result, or None if it has none yet."""
        if self._places[row] < 0:
            return None
        self._file.seek(self._places[row])
        return Result.from_json(json.loads(self._file.readline())["result"])

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


def journal_path(out: Path, key: str) -> Path:
    """Return the path of the journal for `out`; different settings or data have a different key and file."""
    return out.with_name(f"{out.name}.{key[:KEY_DIGITS]}{SUFFIX}")


def journals(out: Path) -> list[Path]:
    """Return all journals next to `out`."""
    digits = "[0-9a-f]" * KEY_DIGITS
    return [
        path for path in sorted(out.parent.glob(f"*{SUFFIX}")) if path.match(f"{_plain(out.name)}.{digits}{SUFFIX}")
    ]


def _plain(name: str) -> str:
    """Escape a name for `Path.match`."""
    return "".join(f"[{c}]" if c in "[*?" else c for c in name)


@contextmanager
def open_journal(path: Path, rows: int) -> Iterator[Journal]:
    """Open or create a journal for a file of `rows` rows. Raises JournalError if another process uses it."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        raise JournalError(f"{path} can't be written: {error.strerror}") from None
    with os.fdopen(descriptor, "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise JournalError(f"{path}: another process is answering these rows: wait until it ends") from None
        except OSError:
            say(f"{path} can't be locked: run the same command only once at a time")
        yield Journal(file, path, rows)
