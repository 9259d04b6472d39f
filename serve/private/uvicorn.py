"""uvicorn's HTTP protocol with timeouts for headers, idle connections, clients that don't read, and closing.

uvicorn has a timeout only between requests. Passing a class as `http` is documented, but that class's interface is
not, so this one extends uvicorn's own.
"""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from burnish.private.needs import Need

from ..connection.framing import Reader
from ..connection.limits import FULL, TOO_SLOW, Limits, Refusal
from ..connection.waiting import Connections

H11 = "uvicorn.protocols.http.h11_impl"
INIT = f"{H11}:H11Protocol.__init__"
SLOW = "slow and idle connections would never be closed"
NEEDS = (
    Need(INIT, SLOW, parameters=("config", "server_state", "app_state", "_loop")),
    *(Need(f"{H11}:H11Protocol.{name}", SLOW, assigned_in=INIT) for name in ("conn", "cycle", "loop", "transport")),
    *(
        Need(f"{H11}:H11Protocol.{name}", SLOW)
        for name in ("data_received", "eof_received", "on_response_complete", "send_400_response", "shutdown")
    ),
    Need(f"{H11}:H11Protocol.timeout_keep_alive_task", SLOW, assigned_in=INIT),
    *(
        Need(f"{H11}:RequestResponseCycle.{name}", SLOW, assigned_in=f"{H11}:RequestResponseCycle.__init__")
        for name in ("disconnected", "message_event", "response_started", "response_complete", "scope")
    ),
)
# initial and maximum interval for probing whether a client that has closed its writing side still reads
PROBE_S, MAX_PROBE_S = 0.02, 1.0
# bytes that a client must read within send_timeout_s, unless fewer are left
MIN_SENT = 4096


@dataclass(frozen=True)
class Shared:
    """State shared by all connections. `refused` is called for every error reply not sent by a route."""

    limits: Limits
    connections: Connections
    refused: Callable[[Refusal], None]


class Transport:
    """asyncio's transport as used by uvicorn, but closed by the protocol."""

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self._transport, self._close, self.closed = transport, close, False
        self.write, self.abort = transport.write, transport.abort
        self.pause_reading, self.resume_reading = transport.pause_reading, transport.resume_reading
        self.get_extra_info = transport.get_extra_info

    def is_closing(self) -> bool:
        return self.closed or self._transport.is_closing()

    def close(self) -> None:
        """Start closing; a second call does nothing."""
        if not self.closed:
            self.closed = True
            self._close()


class Protocol(H11Protocol):
    """One connection. Receiving headers, sending and closing each have a timeout."""

    def __init__(
        self,
        shared: Shared,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.shared, self.limits = shared, shared.limits
        self.conn: Reader = Reader(shared.limits)
        self._deadline: asyncio.TimerHandle | None = None  # for headers, the rest of a body, or closing
        self._sending: asyncio.TimerHandle | None = None
        self._probe: asyncio.TimerHandle | None = None
        self._received_any = False
        self._refused = False  # an error reply was sent without a route
        self._peer_closed = False  # the client has closed its writing side

    # ---- called by asyncio

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._raw, self._wrapped = transport, Transport(transport, self._end)
        super().connection_made(self._wrapped)  # type: ignore[arg-type]
        if not self.shared.connections.opened(self):
            self._refuse(FULL)
            return
        self.shared.connections.waits(self)
        self._within(self.limits.header_timeout_s, self._headers_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        self.shared.connections.closed(self)
        self._wrapped.closed = True
        for timer in (self._deadline, self._sending, self._probe, self.timeout_keep_alive_task):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        idle, self._received_any = self._idle(), True
        super().data_received(data)
        self._watch(began=idle)

    def eof_received(self) -> bool | None:  # type: ignore[override]
        cycle = self.cycle
        if self.transport.is_closing():
            return None  # asyncio closes it
        if cycle is None or cycle.response_complete or self.conn.their_state is h11.SEND_BODY:
            self._peer_closed = True
            self.transport.close()
            return None
        # a client may close its writing side and still read its reply
        self._peer_closed = True
        if self.scope["http_version"] == "1.1" and not cycle.response_started:
            # a closed client responds with a reset; one that reads ignores it (RFC 9110, 15.2)
            self.transport.write(self.conn.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
        self._probe = self.loop.call_later(PROBE_S, self._probe_client, PROBE_S)
        return True

    def pause_writing(self) -> None:
        super().pause_writing()
        self._check_sending()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._sending is not None and not self.transport.is_closing():
            self._sending.cancel()

    # ---- called by uvicorn

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._peer_closed and self._idle():
            self.transport.close()
        self._watch()

    def send_400_response(self, msg: str) -> None:
        refusal = self.conn.refusal or Refusal(400, "invalid_request", msg)
        if self.cycle is None or self.cycle.response_complete:
            self._refuse(refusal)
        else:
            self._end_upload(refusal)

    def shutdown(self) -> None:
        if not self.transport.is_closing():
            super().shutdown()

    def timeout_keep_alive_handler(self) -> None:
        if self.flow.write_paused:  # the client is still reading the last reply
            self.timeout_keep_alive_task = self.loop.call_later(
                self.limits.idle_timeout_s, self.timeout_keep_alive_handler
            )
        else:
            super().timeout_keep_alive_handler()

    # ---- timeouts

    def drop(self) -> None:
        """Close a connection without a complete request, to make room for another one."""
        if self.transport.is_closing() or self.cycle is None or self.cycle.response_complete:
            self.transport.abort()
        else:
            self._end_upload(FULL)

    def _end(self) -> None:
        """Close the connection after the last write. If the client is still sending, first discard input for a while.

        Otherwise, the client would get a connection reset and might never see the reply.
        """
        self.shared.connections.busy(self)
        lingers = self._refused or self.conn.their_state is h11.SEND_BODY
        if self._peer_closed or self._raw.is_closing() or not lingers:
            self._raw.close()
            self._cancel()
            self._check_sending()
            return
        try:
            self._raw.write_eof()
        except OSError:  # the client has already reset it
            self._raw.abort()
            return
        self._raw.resume_reading()
        self.shared.connections.lingers(self)
        self._within(self.limits.linger_s, self._raw.abort)

    def _idle(self) -> bool:
        return self.conn.their_state is h11.IDLE and self.conn.our_state is h11.IDLE

    def _watch(self, began: bool = False) -> None:
        """Set the timeout for the connection's state. `began`: the first bytes of a request have arrived."""
        if self.transport.is_closing():
            return
        connections = self.shared.connections
        if self._idle():
            connections.waits(self)
            if not began:
                self._cancel()
                if self.timeout_keep_alive_task is None:
                    wait = self.limits.idle_timeout_s
                    self.timeout_keep_alive_task = self.loop.call_later(wait, self.timeout_keep_alive_handler)
            elif self._deadline is None:
                self._within(self.limits.header_timeout_s, self._headers_timeout)
            return
        uploading = self.conn.their_state is h11.SEND_BODY
        if began or not uploading:  # an upload's wait starts with its first byte, not with the idle time before it
            connections.busy(self)
        if uploading:
            connections.waits(self)
        if self.conn.our_state is not h11.DONE:  # the route has a timeout for the body
            self._cancel()
        elif self._deadline is None:  # replied before the body arrived: the rest is discarded
            self._within(self.limits.linger_s, self.transport.close)

    def _within(self, seconds: float, then: Callable[[], object]) -> None:
        self._cancel()
        self._deadline = self.loop.call_later(seconds, then)

    def _cancel(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _headers_timeout(self) -> None:
        if self._received_any:
            self._refuse(TOO_SLOW)
        else:
            self.transport.abort()

    def _end_upload(self, refusal: Refusal) -> None:
        """Reply before the body is complete. The route sees a disconnect; the log records the real status."""
        cycle = self.cycle
        cycle.scope.setdefault("state", {})["refused"] = (refusal.status, refusal.code)
        cycle.disconnected = True
        cycle.message_event.set()
        if cycle.response_started:
            self.transport.abort()
        else:
            self._refuse(refusal, counted=True)

    def _refuse(self, refusal: Refusal, counted: bool = False) -> None:
        self._refused = True
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):  # otherwise the response is complete
            if not counted:
                self.shared.refused(refusal)
            self.transport.write(refusal.reply())
        self.transport.close()

    def _check_sending(self, before: float = math.inf) -> None:
        """Abort if the client has read almost nothing within send_timeout_s."""
        if self._sending is not None:
            self._sending.cancel()
        left = self._raw.get_write_buffer_size()
        if left > max(0.0, before - MIN_SENT):
            self.transport.abort()
        elif left:
            self._sending = self.loop.call_later(self.limits.send_timeout_s, self._check_sending, left)

    def _probe_client(self, waited: float) -> None:
        """Abort if the socket has an error; otherwise probe again until the response is complete."""
        if self.transport.is_closing() or self.cycle.response_complete:
            return
        if self.transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.transport.abort()
            return
        wait = min(2 * waited, MAX_PROBE_S)
        self._probe = self.loop.call_later(wait, self._probe_client, wait)
