"""API keys: which ones are valid, and how many open requests each may have."""

from __future__ import annotations

import hashlib
import hmac
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from burnish.files import read_lines

from ..artifact import ServeError
from ..connection.wrong_keys import WrongKeys
from ..settings import ServeSettings
from .errors import ApiError, too_many

MAX_KEYS_BYTES = 1 << 20


class Keys:
    """The API keys, stored as hashes only."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._hashes = [hashlib.sha256(key.encode()).digest() for key in keys]

    def __bool__(self) -> bool:
        return bool(self._hashes)

    def find(self, key: str) -> str | None:
        """Return the key's short name, or None if it is unknown. Runs in constant time for any key."""
        given = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
        found = [known for known in self._hashes if hmac.compare_digest(known, given)]
        return found[0].hex()[:8] if found else None


def read_keys(settings: ServeSettings) -> Keys:
    """Collect the keys from the settings and the key file. Raises ServeError for an unreadable or empty file."""
    keys = [key.strip() for key in settings.api_keys if key.strip()]
    if settings.api_keys_file:  # compose passes an empty string if no file is set
        path = Path(settings.api_keys_file)
        try:
            lines = [line.strip() for line in read_lines(path, MAX_KEYS_BYTES)]
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise ServeError(f"{path}: can't read the API keys: {why}") from None
        found = [line for line in lines if line and not line.startswith("#")]
        if not found:
            raise ServeError(f"{path}: the file has no API key; expected one per line")
        keys += found
    if any(not key.isascii() for key in keys):
        raise ServeError("an API key has non-ASCII characters, which HTTP headers can't carry; use ASCII keys")
    return Keys(keys)


@dataclass
class Auth:
    """Checks the key of a request. `max_requests`: maximum open requests per key; None: no limit."""

    keys: Keys
    max_requests: int | None = None
    wrong_keys: WrongKeys = field(default_factory=lambda: WrongKeys(20))
    _open: Counter[str] = field(default_factory=Counter)

    def check(self, headers: Mapping[str, str], address: str) -> str | None:
        """Return the short name of the request's key, None if no keys are set. Raises ApiError 401 and 429."""
        if not self.keys:
            return None
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = [bearer.strip() if scheme.lower() == "bearer" else "", headers.get("x-api-key", "").strip()]
        key = next((found for text in given if text and (found := self.keys.find(text))), None)
        shown = bool(bearer or given[1])
        if key is None:
            if shown:
                if wait := self.wrong_keys.wait_s(address):
                    raise too_many("Too many wrong API keys from this address; try again later.", math.ceil(wait))
                self.wrong_keys.wrong(address)
            text = (
                "Incorrect API key provided."
                if shown
                else "No API key provided: send 'Authorization: Bearer KEY' or 'X-Api-Key: KEY'."
            )
            raise ApiError(401, text, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
        if self.max_requests is not None and self._open[key] >= self.max_requests:
            raise too_many(f"This API key has reached its limit of {self.max_requests} open requests; retry later.", 1)
        return key

    def opened(self, key: str | None) -> None:
        """Count a request with this key as open."""
        if key is not None:
            self._open[key] += 1

    def closed(self, key: str | None) -> None:
        """Count a request with this key as ended."""
        if key is not None:
            self._open[key] -= 1
