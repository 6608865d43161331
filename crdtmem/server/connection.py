"""HTTP connections: how many there are, and how long each may take over what it does.

Problem: a client that sends a header a minute, never reads its answer, or opens ten
thousand connections, costs the node memory and descriptors, and the others their turn.

Idea: aiohttp parses and answers; what is added here are deadlines, kept by one sweep over
all connections rather than by a timer for each request. A connection notes when bytes of a
request's head began to come; whoever handles requests tells when one has come whole. The
sweep cuts off heads that take too long, and answers that nobody takes.

A connection holds one request at a time, which is taken in by the node's ``admission`` like
those of every other face, or refused with a pause after which to come back. One whose
answer is a stream gives that back, and holds a place among the streams. One that became a
WebSocket is metered, and held: not read, while there is no room for the message that it
receives.

Invariants: the sweep costs nothing per request; a connection that waits for its node, not
the node for it, is never cut off.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestHandler
from aiohttp.web_request import BaseRequest
from aiohttp.web_response import Response, StreamResponse
from aiohttp.web_server import Server

from crdtmem.admission import Admission
from crdtmem.server.metering import MessageMeter, MeteredParser
from crdtmem.server.negotiation import encode
from crdtmem.server.problems import MEDIA_TYPE, Refusal, problem_of_refusal

__all__ = ["Connection", "Connections"]

_SWEEP_S: Final = 0.25
_log = logging.getLogger("crdtmem.server")


class Connection(RequestHandler):
    """One client's connection."""

    __slots__ = (
        "_held",
        "_meter",
        "_taken_bytes",
        "begun_s",
        "busy",
        "on_message_bytes",
        "share",
        "stalled_s",
        "unsent",
    )

    def __init__(self, manager: Connections, loop: asyncio.AbstractEventLoop, **rest: Any) -> None:
        super().__init__(manager, loop=loop, **rest)
        self.begun_s = 0.0
        """When the head that is being received began to come; 0 between requests."""
        self.busy = False
        """Whether a request is being carried out."""
        self.unsent = 0
        self.stalled_s = 0.0
        self.share = manager.admission.share()
        self._taken_bytes = -1
        self._meter: MessageMeter | None = None
        self._held = False
        self.on_message_bytes: Callable[[], None] | None = None
        """Called when bytes of a WebSocket's message have come: see ``awaited_bytes``."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin; refuse a client too many."""
        super().connection_made(transport)
        # Who connects has something to ask: silence is no different from a head that trickles.
        self.begun_s = self._loop.time()
        manager = self._manager
        assert isinstance(manager, Connections)
        if len(manager.connections) > manager.most_connections:
            self.refuse(
                Refusal(
                    503,
                    "too_many_connections",
                    f"{manager.most_connections} clients are connected",
                    hint="close some of them, or raise http.connections",
                    Retry_After="1",
                )
            )

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the client, and what it holds."""
        super().connection_lost(exc)
        self._taken_bytes = -1
        self.on_message_bytes = None
        self.share.leave()

    def data_received(self, data: bytes) -> None:
        """Take in bytes, and note when a head begins."""
        if not self.begun_s:
            self.begun_s = self._loop.time()
        super().data_received(data)

    # ------------------------------------------------------------------ a WebSocket

    def meter(self, most_bytes: int) -> None:
        """Measure messages, of at most so many bytes each, from when this is a WebSocket."""
        self._meter = MessageMeter(most_bytes)

    @property
    def awaited_bytes(self) -> int:
        """How large the message may become that has begun to come, and is not whole."""
        return 0 if self._meter is None else self._meter.awaited_bytes

    def set_parser(self, parser: Any, data_received_cb: Callable[[], None] | None = None) -> None:
        """Read by another parser from here on: this is a WebSocket."""
        if self._meter is not None:
            parser = MeteredParser(parser, self._meter, self._tell_message_bytes)
        super().set_parser(parser, data_received_cb)

    def _tell_message_bytes(self) -> None:
        if self.on_message_bytes is not None:
            self.on_message_bytes()

    def hold(self) -> None:
        """Read nothing more, whoever else has this read on. Idempotent."""
        self._held = True
        if self.transport is not None:
            self.transport.pause_reading()

    def let_go(self) -> None:
        """Read on, unless the library still has enough to do. Idempotent."""
        self._held = False
        if self.transport is not None and not self._reading_paused:
            self.transport.resume_reading()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Read on, unless this is held."""
        super().resume_reading(resume_parser)
        if self._held and self.transport is not None:
            self.transport.pause_reading()

    # ------------------------------------------------------------------ requests

    def begin(self) -> None:
        """Note that a request's head has come, and is being carried out."""
        self.busy = True
        self.begun_s = 0.0

    def take_in(self, size_bytes: int) -> None:
        """Take in the request; raises ``Overloaded`` where the node holds too many."""
        self.share.ask(size_bytes)
        self._taken_bytes = size_bytes

    def give_back(self) -> None:
        """Hold the request no longer. Idempotent."""
        if self._taken_bytes >= 0:
            size_bytes, self._taken_bytes = self._taken_bytes, -1
            self.share.release(size_bytes)

    def begin_stream(self) -> None:
        """Hold a place among the streams instead; raises ``Overloaded`` where there is none."""
        self.share.open_stream()
        self.give_back()

    def end_stream(self) -> None:
        """Give the place back."""
        if self.share.streams:
            self.share.close_stream()

    def finish(self) -> None:
        """Note that it has been carried out. A next head that had begun has its time anew."""
        self.busy = False
        self.begun_s = 0.0
        self.give_back()

    def refuse(self, refusal: Refusal) -> None:
        """Answer a request that never came whole, and close."""
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        status, problem, headers = problem_of_refusal(refusal)
        body = encode(problem)
        lines = [
            f"HTTP/1.1 {status} {problem['title']}",
            f"Content-Type: {MEDIA_TYPE}",
            f"Content-Length: {len(body)}",
            "Connection: close",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        transport.write("\r\n".join([*lines, "", ""]).encode() + body)
        self.force_close()

    def handle_error(
        self,
        request: BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> StreamResponse:
        """Answer what is no HTTP, in the form of every other refusal."""
        if isinstance(exc, HttpProcessingError):
            _log.debug("a request that is no HTTP: %s", exc)
            said = str(exc.message).splitlines()
            refusal = Refusal(
                status,
                "malformed_request",
                f"no HTTP: {said[0]:.200}" if said else "no HTTP",
                hint="is this a client of HTTP/1.1?",
            )
        else:
            _log.error("a request failed unexpectedly", exc_info=exc)
            refusal = Refusal(500, "error", "the node failed to answer", hint="see the node's log")
        if request.writer.output_size > 0:
            raise ConnectionError("an answer was begun already")
        status, problem, headers = problem_of_refusal(refusal)
        answer = Response(
            status=status, body=encode(problem), headers={"Content-Type": MEDIA_TYPE, **headers}
        )
        answer.force_close()
        return answer

    def check(self, now_s: float, receive_s: float, stalled_s: float) -> None:
        """Cut off a head that takes too long, and a client that does not read."""
        transport = self.transport
        if transport is None:
            return
        if not self.busy and self.begun_s and now_s - self.begun_s > receive_s:
            self.refuse(
                Refusal(
                    408,
                    "request_timeout",
                    f"the head of the request did not arrive within {receive_s:g} s",
                    hint="send it faster",
                )
            )
            return
        unsent = transport.get_write_buffer_size()
        if not unsent or unsent != self.unsent:
            self.unsent, self.stalled_s = unsent, now_s
        elif now_s - self.stalled_s > stalled_s:
            _log.info("cut off a client that left %d bytes unread", unsent)
            transport.abort()


class Connections(Server):
    """All connections of a face."""

    def __init__(
        self,
        handler: Any,
        *,
        admission: Admission,
        most_connections: int,
        receive_s: float,
        stalled_s: float,
        **rest: Any,
    ) -> None:
        self.admission = admission
        super().__init__(handler, handler_cancellation=True, **rest)
        self.most_connections = most_connections
        self._receive_s = receive_s
        self._stalled_s = stalled_s
        self._timer: asyncio.TimerHandle | None = None

    def __call__(self) -> RequestHandler:
        """Make the connection of one more client."""
        return Connection(self, self._loop, **self._kwargs)

    def sweep(self) -> None:
        """Look at every connection, now and then until ``rest`` is called."""
        now_s = self._loop.time()
        for connection in self.connections:
            assert isinstance(connection, Connection)
            connection.check(now_s, self._receive_s, self._stalled_s)
        self._timer = self._loop.call_later(_SWEEP_S, self.sweep)

    def rest(self) -> None:
        """Sweep no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
