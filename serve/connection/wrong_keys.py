"""Slows down key guessing: after too many wrong keys in a minute, an address must wait. Valid keys never wait."""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable

MINUTE_S = 60.0
MAX_ADDRESSES = 4096


class WrongKeys:
    """Counts wrong keys by address; `limit` is how many an address may send per minute."""

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit, self._clock = limit, clock
        self._wrong: OrderedDict[tuple[int, int], tuple[float, int]] = OrderedDict()  # start of the minute, count

    def wait_s(self, address: str) -> float:
        """Return the seconds until the address may send another wrong key."""
        since, count = self._wrong.get(_network(address), (0.0, 0))
        left = since + MINUTE_S - self._clock()
        return left if count >= self._limit and left > 0 else 0.0

    def wrong(self, address: str) -> None:
        """Count a wrong key."""
        network, now = _network(address), self._clock()
        since, count = self._wrong.pop(network, (now, 0))
        self._wrong[network] = (now, 1) if now - since >= MINUTE_S else (since, count + 1)
        if len(self._wrong) > MAX_ADDRESSES:
            self._wrong.popitem(last=False)


def _network(address: str) -> tuple[int, int]:
    """Return the IPv4 address, or an IPv6 address's /64, which one host owns. All other addresses share one entry."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return 0, 0
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is None:
            return 6, int(found) >> 64
        found = found.ipv4_mapped
    return 4, int(found)
