"""A seal on an export's cached results, which are reused only if this user measured them on this machine.

The seal is an HMAC-SHA256 with a key kept in the user's cache, so another user's run has no valid seal.
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
    """Raised when the key can't be stored or read."""


def seal(content: Any) -> str:
    """Return the seal of JSON data. Raises SealError."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass")
    return hmac.new(_key(cache_root() / KEY_FILE), text, hashlib.sha256).hexdigest()


def is_sealed(content: Any, given: object) -> bool:
    """Return whether `given` is the content's seal. Raises SealError."""
    return isinstance(given, str) and given.isascii() and hmac.compare_digest(seal(content), given)


def _key(path: Path) -> bytes:
    """Return the key, which is created on first use and readable only by its owner."""
    try:
        if not path.exists():
            _make_key(path)
        key = read_regular(path, KEY_BYTES)
    except OSError as error:
        raise SealError(f"{path}: {error.strerror or error}") from None
    if len(key) != KEY_BYTES:
        raise SealError(f"{path}: expected {KEY_BYTES} bytes: remove the file")
    return key


def _make_key(path: Path) -> None:
    """Write a new key atomically, replacing one that another process just created and invalidating its seals."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(secrets.token_bytes(KEY_BYTES))
    os.replace(draft, path)
