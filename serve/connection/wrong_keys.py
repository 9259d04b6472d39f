"""Guessing keys is slow: after some wrong keys in a minute an address has to wait. Right keys never do."""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable

MINUTE_S = 60.0
MOST_ADDRESSES = 4096


class WrongKeys:
    """Counts wrong keys by address. `most`: how many an address may give in a minute."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._clock = most, clock
        self._wrong: OrderedDict[tuple[int, int], tuple[float, int]] = OrderedDict()  # since when, how many

    def wait_s(self, address: str) -> float:
        """Return how long the address has to wait before its next wrong key is looked at."""
        since, count = self._wrong.get(_place(address), (0.0, 0))
        left = since + MINUTE_S - self._clock()
        return left if count >= self._most and left > 0 else 0.0

    def wrong(self, address: str) -> None:
        """Count a wrong key."""
        place, now = _place(address), self._clock()
        since, count = self._wrong.pop(place, (now, 0))
        self._wrong[place] = (now, 1) if now - since >= MINUTE_S else (since, count + 1)
        if len(self._wrong) > MOST_ADDRESSES:
            self._wrong.popitem(last=False)


def _place(address: str) -> tuple[int, int]:
    """Return an IPv4 address, or the /64 of an IPv6 one, which one host has whole. All that is neither is one place."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return 0, 0
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is None:
            return 6, int(found) >> 64
        found = found.ipv4_mapped
    return 4, int(found)
