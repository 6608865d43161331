"""Opening a stream to an address, whatever carries it.

Problem: a Unix socket is at hand in any Python; a WebSocket is a library of its own, whose
import alone takes longer than a read.

Idea: one function that connects and greets. The carrier over a Unix socket is here: it cuts
the stream of bytes into frames; the one over a WebSocket is imported when the first address
asks for it.

Invariants: within the time-out it returns a greeted stream or raises ``CrdtmemError``, and
then nothing is left open, also when it is cancelled.
"""

from __future__ import annotations

import asyncio
from typing import Final, cast

from crdtmem.client_address import Address
from crdtmem.client_stream import Stream, unreachable
from crdtmem.control_frames import ANSWER_BYTES, FrameDecoder, frame
from crdtmem.errors import CrdtmemError

__all__ = ["open_stream"]

_ANSWER_LIMIT: Final = ANSWER_BYTES + 1024


async def open_stream(address: Address, *, timeout_ms: int, patience_ms: int) -> Stream:
    """Connect and greet. Raises ``Unreachable``, or what the node refuses with.

    ``patience_ms``: how long a silence ends the connection while calls are open.
    """
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + timeout_ms / 1_000
    stream = Stream(str(address), patience_ms=patience_ms)
    try:
        async with asyncio.timeout_at(deadline_s):
            if address.path:
                await loop.create_unix_connection(lambda: _UnixCarrier(stream), address.path)
            else:
                from crdtmem.client_websocket import connect_websocket

                await connect_websocket(address, stream)
    except (OSError, TimeoutError) as error:
        raise unreachable(str(address), error) from error
    await stream.greet(deadline_s)
    return stream


class _UnixCarrier(asyncio.Protocol):
    """Carries payloads over a stream of bytes: see ``client_stream.Carrier``."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._decoder = FrameDecoder(_ANSWER_LIMIT)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        # uvloop's transports are Transports in all but ancestry.
        self._transport = transport = cast("asyncio.Transport", transport)
        self._stream.made(self)

    def data_received(self, data: bytes) -> None:
        """Hand on the payloads that these bytes complete."""
        self._decoder.feed(data)
        try:
            while (payload := self._decoder.next_payload()) is not None and not self._stream.lost:
                self._stream.received(payload)
        except CrdtmemError as error:
            self._stream.failed(error)

    def pause_writing(self) -> None:
        """The node does not read."""
        self._stream.pause_writing()

    def resume_writing(self) -> None:
        """It reads again."""
        self._stream.resume_writing()

    def connection_lost(self, error: Exception | None) -> None:
        """The connection is no more."""
        self._stream.ended(error)

    def write(self, payload: bytes) -> None:
        """Send a payload, with its length before it."""
        self._transport.write(frame(payload))

    def pause_reading(self) -> None:
        """Take nothing more from the node."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Go on where ``pause_reading`` stopped."""
        self._transport.resume_reading()

    def abort(self) -> None:
        """End at once."""
        self._transport.abort()
