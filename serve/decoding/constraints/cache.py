"""An LRU cache of compiled grammars, keyed by request."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from typing import Any

from .library import Compiled

MAX_ENTRIES = 256
MAX_BYTES = 4 << 20  # of all grammars' text


class CompiledCache:
    """At most MAX_ENTRIES grammars, and MAX_BYTES of their text. Not thread-safe."""

    def __init__(self, entries: int = MAX_ENTRIES, text_bytes: int = MAX_BYTES) -> None:
        self._most, self._most_bytes, self._bytes = entries, text_bytes, 0
        self._kept: OrderedDict[str, tuple[Compiled, int]] = OrderedDict()

    def get(self, key: str) -> Compiled | None:
        """Return a grammar and mark it as most recently used."""
        found = self._kept.get(key)
        if found is None:
            return None
        self._kept.move_to_end(key)
        return found[0]

    def put(self, key: str, compiled: Compiled, size: int) -> None:
        """Store a grammar whose text has `size` bytes, unless it is larger than the cache."""
        if key in self._kept or size > self._most_bytes:
            return
        self._kept[key] = compiled, size
        self._bytes += size
        while len(self._kept) > self._most or self._bytes > self._most_bytes:
            _, (_, dropped) = self._kept.popitem(last=False)
            self._bytes -= dropped


def key_of(wanted: Any) -> str:
    """Return the cache key of a request. Order matters: properties are generated in the order of the schema."""
    return hashlib.sha256(json.dumps(wanted, separators=(",", ":")).encode()).hexdigest()
