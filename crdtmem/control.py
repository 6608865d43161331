"""The control socket: how the command line and local clients reach a node.

Problem: a node must be reachable on its own machine by its owner and by nobody else,
also after it was killed; and two nodes must never serve one path.

Idea: a Unix domain socket, open to its owner only. Each client is a plain asyncio
``Protocol`` that cuts the stream into frames (see ``control_frames``) and carries their
payloads to and from a ``Connection``, which does the rest.

Invariants: what is kept of a stream is at most one frame and one read; a path is served
by one node at a time: its lock file says so, and what a killed node left behind is
replaced.
"""

from __future__ import annotations

import asyncio
import select
from typing import cast

from crdtmem.control_connection import Connection
from crdtmem.control_frames import FrameDecoder, frame
from crdtmem.control_parts import UNREAD_BYTES
from crdtmem.control_path import SocketPath
from crdtmem.control_service import ControlService

__all__ = ["ControlServer", "has_left"]


class _UnixCarrier(asyncio.Protocol):
    """Carries one client's payloads over a stream: see ``Carrier``."""

    def __init__(self, service: ControlService) -> None:
        self._decoder = FrameDecoder(service.frame_bytes)
        self._connection = Connection(service, self)
        self.next_payload = self._decoder.next_payload

    # ------------------------------------------------------------------ asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        # uvloop's transports are Transports in all but ancestry.
        self._transport = transport = cast("asyncio.Transport", transport)
        transport.set_write_buffer_limits(high=UNREAD_BYTES)
        self.pause_reading = transport.pause_reading
        self.resume_reading = transport.resume_reading
        self.close = transport.close
        self.abort = transport.abort
        self._connection.made()

    def connection_lost(self, error: Exception | None) -> None:
        """Tell the connection that its client is gone."""
        self._connection.ended()
        # A carrier and its connection hold each other, and the collector comes by rarely: what
        # had come of a frame goes now.
        self._decoder = FrameDecoder(0)
        self.next_payload = self._decoder.next_payload

    def data_received(self, data: bytes) -> None:
        """Take in bytes, and let the requests that they complete be handled."""
        self._decoder.feed(data)
        self._connection.received()

    def pause_writing(self) -> None:
        """Tell the connection that its client does not read."""
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        """Tell the connection that its client reads again."""
        self._connection.resume_writing()

    # ------------------------------------------------------------------ the connection's side

    @property
    def awaited_bytes(self) -> int:
        """The length of a frame that has begun to arrive."""
        return self._decoder.awaited_bytes

    @property
    def spared(self) -> int:
        """None: this is the way of the node's owner."""
        return 0

    @property
    def unread_bytes(self) -> int:
        """Bytes that were given to be sent and lie here still."""
        return self._transport.get_write_buffer_size()

    def is_gone(self) -> bool:
        """Tell whether the client has left."""
        return has_left(self._transport)

    def write(self, payload: bytes) -> None:
        """Send a payload, with its length before it."""
        self._transport.write(frame(payload))


def has_left(transport: asyncio.BaseTransport) -> bool:
    """Tell whether a client has left: the kernel knows, also behind what is unread."""
    descriptor = transport.get_extra_info("socket").fileno()
    if descriptor < 0:
        return True
    poll = select.poll()
    poll.register(descriptor, select.POLLRDHUP)
    return bool(poll.poll(0))


class ControlServer:
    """Serves a service on one path."""

    def __init__(self, path: SocketPath, service: ControlService) -> None:
        self.path = path
        self.service = service
        self._server: asyncio.AbstractServer | None = None

    async def start(self) -> None:
        """Bind and listen. Raises ``ConfigError`` where the path cannot be served."""
        listening = self.path.claim()
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(
            lambda: _UnixCarrier(self.service), sock=listening
        )

    def stop_accepting(self) -> None:
        """Accept no more clients; those that are connected stay."""
        if self._server is not None:
            self._server.close()

    async def close(self, *, timeout_s: float = 2.0) -> None:
        """Answer what can be answered, close every connection, remove the socket."""
        self.stop_accepting()
        await self.service.close(timeout_s=timeout_s)
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None
        self.path.release()
