"""Hostile records: valid ones with a malicious or invalid value in every field."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

ESCAPE = "\x1b]0;owned\x07\x1b[31mred\u202e\nerror: a line of its own"
DELETED = object()


def deep(levels: int) -> Any:
    """Return a deeply nested list."""
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


VALUES: tuple[Any, ...] = (
    None, True, -5, 0, 1.5, 10**30, 1e308, -1e308, "", "x", "-5", "../../../etc/passwd", "/etc/passwd", "~/.ssh/id_rsa",
    "gguf/../../x", "*", "[a-z]*.gguf", "package:runs.x/m.gguf", ESCAPE, "[/bold]", "a|b\n# c", "\x00", "x" * 200_000,
    "🦆" * 3000, "\ud800", [], {}, [None], {"": {}}, ["x"] * 50_000, {str(n): n for n in range(20_000)}, deep(150),
    "9999-12-31T00:00:00Z", DELETED,
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every part of a JSON value."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        yield from places(part, (*path, key))


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """Return a copy with one part replaced or removed."""
    result = copy.deepcopy(value)
    holder = result
    for key in path[:-1]:
        holder = holder[key]
    if new is DELETED:
        del holder[path[-1]]
    else:
        holder[path[-1]] = new
    return result


def attacks(good: dict[str, Any], count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yield (name, file content): `count` with one changed part, each part at least once, then damaged files."""
    chosen = random.Random(seed)
    there = [*places(good), ("later",)]  # an unknown field
    wanted = [(path, chosen.choice(VALUES)) for path in there]
    wanted += [(chosen.choice(there), chosen.choice(VALUES)) for _ in range(count - len(there))]
    for path, value in wanted:
        if value is DELETED and path == ("later",):
            continue
        name = ".".join(map(str, path)) + " = " + ("deleted" if value is DELETED else repr(value)[:40])
        yield name, json.dumps(changed(good, path, value)).encode()
    yield from damaged(json.dumps(good))


def damaged(text: str) -> Iterator[tuple[str, bytes]]:
    """Yield files that are not a strictly valid JSON object."""
    yield "empty", b""
    yield "cut", text[: len(text) // 2].encode()
    yield "a list", b"[]"
    yield "not UTF-8", b"\xff\xfe" + text.encode()
    yield "NaN", text.replace("0.01", "NaN", 1).replace("0.7", "NaN", 1).encode()
    yield "overflow", text.replace("0.01", "1e999", 1).replace("0.7", "1e999", 1).encode()
    yield "a key twice", text.replace('"run_id"', '"run_id": "x", "run_id"', 1).encode()
    yield "very deep", b"[" * 200_000
    yield "very deep field", (text[:-1] + ', "x": ' + "[" * 5000 + "]" * 5000 + "}").encode()
    yield "a long number", (text[:-1] + ', "x": ' + "9" * 5000 + "}").encode()
    yield "too long", (text[:-1] + ', "x": "' + "y" * (9 << 20) + '"}').encode()
    yield "newer", text.replace('"schema_version": 1', '"schema_version": 2', 1).encode()
