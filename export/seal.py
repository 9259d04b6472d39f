"""A seal on what an export keeps for the next one: figures count only where this machine's user measured them.

It is an HMAC-SHA256 with a key in the cache, which never leaves it: a run that someone else made has no valid one.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from pathlib import Path
from typing import Any

from burnish.files import cache_root, read_regular

KEY_FILE, KEY_BYTES = "seal.key", 32


class SealError(Exception):
    """The cache can't keep a key."""


def seal(content: Any) -> str:
    """Return the seal of anything that JSON can hold. Raises SealError."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass")
    return hmac.new(_key(cache_root() / KEY_FILE), text, hashlib.sha256).hexdigest()


def is_sealed(content: Any, given: object) -> bool:
    """Whether `given` is the content's seal. Raises SealError."""
    return isinstance(given, str) and given.isascii() and hmac.compare_digest(seal(content), given)


def _key(path: Path) -> bytes:
    """Return the key, made at first use and readable by its owner alone."""
    try:
        if not path.exists():
            _make_key(path)
        key = read_regular(path, KEY_BYTES)
    except OSError as error:
        raise SealError(f"{path}: {error.strerror or error}") from None
    if len(key) != KEY_BYTES:
        raise SealError(f"{path}: it should have {KEY_BYTES} bytes: remove it")
    return key


def _make_key(path: Path) -> None:
    """Write a new key, whole; where another process was first, its key is replaced and its seals count no more."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(secrets.token_bytes(KEY_BYTES))
    os.replace(draft, path)
