"""Guessing keys is slow: after some wrong keys in a minute an address has to wait, keys that it has used apart."""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable

MINUTE_S = 60.0
MOST_ADDRESSES, MOST_TRUSTED = 4096, 4096


class WrongKeys:
    """Counts wrong keys by address. `most`: how many an address may give in a minute."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._clock = most, clock
        self._wrong: OrderedDict[str, tuple[float, int]] = OrderedDict()  # since when, how many
        self._trusted: OrderedDict[tuple[str, str], None] = OrderedDict()

    def wait_s(self, address: str, key: str | None) -> float:
        """Return how long the address has to wait, 0 for a key that it has used before.

        So guesses end, and clients behind the same proxy or gateway go on. Others' right keys wait too: were they
        taken, every guess would still be answered.
        """
        place = _place(address)
        if key is not None and (place, key) in self._trusted:
            return 0.0
        since, count = self._wrong.get(place, (0.0, 0))
        left = since + MINUTE_S - self._clock()
        return left if count >= self._most and left > 0 else 0.0

    def wrong(self, address: str) -> None:
        """Count a wrong key."""
        place, now = _place(address), self._clock()
        since, count = self._wrong.pop(place, (now, 0))
        self._wrong[place] = (now, 1) if now - since >= MINUTE_S else (since, count + 1)
        if len(self._wrong) > MOST_ADDRESSES:
            self._wrong.popitem(last=False)

    def right(self, address: str, key: str) -> None:
        """Remember the short name of a right key and where it came from."""
        used = (_place(address), key)
        self._trusted[used] = None
        self._trusted.move_to_end(used)
        if len(self._trusted) > MOST_TRUSTED:
            self._trusted.popitem(last=False)


def _place(address: str) -> str:
    """Return an IPv4 address, or the /64 of an IPv6 one: a single host has all of that."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((found, 64), strict=False)) if found.version == 6 else str(found)
