"""Text files read exactly: UTF-8, no newline translation, and only \\n ends a line.

`str.splitlines` also cuts at U+2028, U+2029, U+0085, \\v, \\f and \\x1c to \\x1e, which JSON and people's texts hold as
ordinary characters; `Path.read_text` turns every \\r into \\n. What the project reads is read here instead.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_text(path: Path) -> str:
    """Return the text of a UTF-8 file, its line breaks as they are. Raises OSError and UnicodeDecodeError."""
    return path.read_bytes().decode("utf-8")


def split_lines(text: str) -> list[str]:
    """Return the lines of a text without their \\n; what follows the last \\n is a line unless it is empty."""
    lines = text.split("\n")
    return lines[:-1] if not lines[-1] else lines


def read_lines(path: Path) -> list[str]:
    """Return the lines of a UTF-8 file without their \\n. Raises OSError and UnicodeDecodeError."""
    return split_lines(read_text(path))


def read_jsonl(path: Path, partial: bool = False) -> list[Any]:
    """Return the values of a JSON Lines file, empty lines skipped.

    Raises OSError, and ValueError for a line that is malformed; with `partial` such lines are skipped, as a process
    that was killed may leave one.
    """
    values = []
    for line in read_lines(path):
        try:
            values += [json.loads(line)] if line.strip() else []
        except ValueError:
            if not partial:
                raise
    return values


def last_line(output: str, default: str = "") -> str:
    """Return the last line that a program printed; a carriage return begins a new line, as on a terminal."""
    return output.replace("\r", "\n").strip().rsplit("\n", 1)[-1].strip() or default


def first_line(message: object, default: str = "") -> str:
    """Return the first line of a library's error message."""
    return str(message).strip().split("\n", 1)[0].strip() or default
