"""The control protocol over a WebSocket: for clients that speak HTTP, in any language.

Problem: a Unix socket is out of reach for a browser, another container or another language's
library; yet what goes on over it must be one implementation, with the same bounds.

Idea: a WebSocket cuts its stream into messages already, so each binary message, in either
direction, is the payload of one frame (see ``control_frames``): an array of messages, without
the length before it. A ``Connection`` does the rest, as on the Unix socket.

A message is weighed from when its length is told, and not read while there is no room for
it: see ``metering``.

Invariants: at most two messages that found room, one read, and ``UNREAD_BYTES`` of answers and
one more, are kept for a client; a message that is text or too large ends the connection; no
compression, whose ratio is in the sender's hands.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from aiohttp import ClientError, WSCloseCode, WSMsgType, web

from crdtmem.admission import SMALL_BYTES
from crdtmem.control import has_left
from crdtmem.control_connection import Connection
from crdtmem.control_parts import UNREAD_BYTES
from crdtmem.control_service import ControlService
from crdtmem.errors import MalformedFrame
from crdtmem.server.connection import Connection as HttpConnection
from crdtmem.server.exchange import Exchange
from crdtmem.server.negotiation import MSGPACK
from crdtmem.server.routing import Route

__all__ = ["ROUTES", "serve_socket"]

_SPARED: Final = 64
_FAREWELL_S: Final = 2.0
"""How long a client may take to agree to the end."""


async def serve_socket(service: ControlService, request: web.BaseRequest) -> web.WebSocketResponse:
    """Make a WebSocket of a request, and serve its client until either side ends.

    Raises ``HTTPBadRequest`` where the request asks for no WebSocket.
    """
    # A byte more than is allowed: what reaches this bound is refused.
    socket = web.WebSocketResponse(
        max_msg_size=service.frame_bytes + 1, compress=False, timeout=_FAREWELL_S
    )
    client = request.protocol
    assert isinstance(client, HttpConnection)
    client.meter(service.frame_bytes)
    await socket.prepare(request)
    await _WebSocketCarrier(service, client, socket).serve()
    return socket


class _WebSocketCarrier:
    """Carries one client's payloads over a WebSocket: see ``Carrier``."""

    def __init__(
        self, service: ControlService, client: HttpConnection, socket: web.WebSocketResponse
    ) -> None:
        self._client = client
        self._socket = socket
        self._received: bytes | None = None
        self._readable = asyncio.Event()
        self._readable.set()
        self._unsent: deque[bytes] = deque()
        self._unsent_bytes = 0
        self._congested = False
        self._something_to_do = asyncio.Event()
        self._closing = False
        self._connection = Connection(service, self)

    async def serve(self) -> None:
        """Carry payloads until either side ends."""
        reader = asyncio.create_task(self._read_all())
        writer = asyncio.create_task(self._write_all())
        self._connection.made()
        self._client.on_message_bytes = self._message_bytes_came
        self._message_bytes_came()
        try:
            done, _ = await asyncio.wait({reader, writer}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            if self._closing and not reader.done():
                # Nobody may be receiving while the two sides say farewell.
                reader.cancel()
                await asyncio.wait({reader})
                await self._socket.close(code=WSCloseCode.GOING_AWAY)
        finally:
            reader.cancel()
            writer.cancel()
            self._client.on_message_bytes = None
            self._connection.ended()
            await asyncio.wait({reader, writer})
            # A carrier and its connection hold each other, and the collector comes by rarely:
            # what had come of a message goes now.
            self._received = None
            self._unsent.clear()
            del self._socket

    async def _read_all(self) -> None:
        """Hand on what comes, as far as there is room; returns when the client has left."""
        while True:
            message = await self._socket.receive()
            if message.type is WSMsgType.BINARY:
                # One message more is taken than there is room for: it may be the last one.
                await self._readable.wait()
                self._received = message.data
                del message  # It is not to lie here while the next one is waited for.
                self._connection.received()
            elif message.type is WSMsgType.TEXT:
                self._connection.refuse(
                    MalformedFrame(
                        "the control protocol has no text messages", hint="send binary ones"
                    )
                )
            else:
                return

    def _message_bytes_came(self) -> None:
        """Let room be asked for, when a message turns out to be large."""
        if self._client.awaited_bytes > SMALL_BYTES:
            self._connection.received()

    async def _write_all(self) -> None:
        """Send what is to be sent, as fast as it is read; returns when asked to close."""
        while True:
            while self._unsent:
                payload = self._unsent.popleft()
                try:
                    await self._socket.send_bytes(payload)
                except (ClientError, ConnectionError):
                    return  # The client is gone.
                self._unsent_bytes -= len(payload)
                if self._congested and self._unsent_bytes <= UNREAD_BYTES // 4:
                    self._congested = False
                    self._connection.resume_writing()
            if self._closing:
                return
            self._something_to_do.clear()
            await self._something_to_do.wait()

    # ------------------------------------------------------------------ the connection's side

    @property
    def awaited_bytes(self) -> int:
        """The size of a message that has begun to arrive; the largest there is, if in pieces."""
        return self._client.awaited_bytes

    @property
    def spared(self) -> int:
        """So many that the owner of the node finds a place, whoever came by HTTP."""
        return _SPARED

    @property
    def unread_bytes(self) -> int:
        """Bytes that were given to be sent and lie here still."""
        return self._unsent_bytes

    def is_gone(self) -> bool:
        """Tell whether the client has left."""
        transport = self._client.transport
        return transport is None or transport.is_closing() or has_left(transport)

    def next_payload(self) -> bytes | None:
        """Return the message that has come, once."""
        payload, self._received = self._received, None
        return payload

    def write(self, payload: bytes) -> None:
        """Send a payload when the client has read those before it."""
        self._unsent.append(payload)
        self._unsent_bytes += len(payload)
        self._something_to_do.set()
        if self._unsent_bytes > UNREAD_BYTES and not self._congested:
            self._congested = True
            self._connection.pause_writing()

    def pause_reading(self) -> None:
        """Take no more messages; those that come wait in the kernel."""
        self._readable.clear()
        self._client.hold()

    def resume_reading(self) -> None:
        """Take messages again."""
        self._readable.set()
        self._client.let_go()

    def close(self) -> None:
        """End once everything has been sent."""
        self._closing = True
        # The client's farewell is to be heard.
        self.resume_reading()
        self._something_to_do.set()

    def abort(self) -> None:
        """End at once."""
        self.close()
        transport = self._client.transport
        if transport is not None:
            transport.abort()


async def _socket(exchange: Exchange) -> web.StreamResponse:
    """Serve the control protocol."""
    return await serve_socket(exchange.face.node.service, exchange.request)


ROUTES: Final = (
    Route(
        "GET", "/v1/socket", "socket", "Open the control protocol as a WebSocket.", _socket,
        tag="feeds", status=101, media=MSGPACK,
        description="The quick way in: requests in batches, answered in any order. Each binary "
        "message is one frame's payload.",
    ),
)  # fmt: skip
