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


def seal(content: Any) -> str:
    """Return the seal of anything that JSON can hold; "" where the cache can't keep a key."""
    key = _key(cache_root() / KEY_FILE)
    text = json.dumps(content, sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass")
    return hmac.new(key, text, hashlib.sha256).hexdigest() if key else ""


def is_sealed(content: Any, given: object) -> bool:
    """Whether `given` is the content's seal."""
    made = seal(content)
    return (
        bool(made) and isinstance(given, str) and hmac.compare_digest(made.encode(), given.encode("utf-8", "replace"))
    )


def _key(path: Path) -> bytes | None:
    """Return the key, made at first use and readable by its owner alone."""
    try:
        if not path.exists():
            _make_key(path)
        key = read_regular(path, KEY_BYTES)
    except OSError:
        return None
    return key if len(key) == KEY_BYTES else None


def _make_key(path: Path) -> None:
    """Write a new key, whole; where another process was first, its key stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(secrets.token_bytes(KEY_BYTES))
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
