"""A client's stream over a WebSocket: the same payloads, behind HTTP.

Problem: an agent in another namespace or container reaches a node by HTTP only; it should
lose nothing by it. And a node whose process stands still must not keep its client's socket
for ever, as it would where closing waits for what is unsent.

Idea: a ``Carrier`` whose binary messages are the payloads. One task writes what is queued,
one reads; while the stream pauses reading no message is taken out of the library, which
then stops reading from the socket.

Invariants: what is queued for writing is bounded by ``_HIGH_BYTES`` and one write, since
the stream is told to pause; the stream is told exactly once that the connection has ended,
within ``_CLOSE_S`` of ``abort``, and the socket is shut down then; a message that is no
bytes ends the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket as sockets
from collections import deque
from typing import Any, Final

import aiohttp

from crdtmem.client_address import Address
from crdtmem.client_stream import Stream, unreachable
from crdtmem.control_frames import ANSWER_BYTES
from crdtmem.errors import MalformedFrame, Unreachable

__all__ = ["connect_websocket"]

_HIGH_BYTES: Final = 1024 * 1024
_LOW_BYTES: Final = 256 * 1024
_CLOSE_S: Final = 1.0
_ENDS: Final = frozenset({
    aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSING, aiohttp.WSMsgType.CLOSED,
})  # fmt: skip


async def connect_websocket(address: Address, stream: Stream) -> None:
    """Connect a stream to a node's HTTP port. Raises ``Unreachable``; cancelling is clean."""
    # No time-out of the library's: whoever calls has a deadline.
    session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None, connect=None))
    try:
        socket = await session.ws_connect(
            address.socket_url,
            autoclose=False,
            max_msg_size=ANSWER_BYTES + 1024,
            timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE_S),
        )
    except BaseException as error:
        await session.close()
        if isinstance(error, aiohttp.ClientConnectorError):
            raise unreachable(str(address), error.os_error) from error
        if isinstance(error, aiohttp.WSServerHandshakeError):
            raise Unreachable(
                f"what listens at {address} answers with status {error.status}, not as a node",
                hint="start the node with --http HOST:PORT, and name that port",
            ) from error
        if isinstance(error, aiohttp.ClientError):
            raise unreachable(str(address), error) from error
        raise
    kernels = socket.get_extra_info("socket")
    if kernels is None:
        await session.close()
        raise unreachable(str(address), None)
    _WebSocketCarrier(session, socket, os.dup(kernels.fileno()), stream)


class _WebSocketCarrier:
    """Carries payloads over a WebSocket: see ``client_stream.Carrier``."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        socket: aiohttp.ClientWebSocketResponse[Any],
        descriptor: int,
        stream: Stream,
    ) -> None:
        self._session = session
        self._socket = socket
        self._stream = stream
        self._out: deque[bytes] = deque()
        self._out_bytes = 0
        self._paused = False
        self._queued = asyncio.Event()
        self._readable = asyncio.Event()
        self._readable.set()
        # The library's transport is gone before its socket is, where much lies unsent.
        self._descriptor = descriptor
        stream.made(self)
        loop = asyncio.get_running_loop()
        self._tasks = (loop.create_task(self._read_all()), loop.create_task(self._write_all()))
        self._life = loop.create_task(self._live())

    # ------------------------------------------------------------------ the stream's side

    def write(self, payload: bytes) -> None:
        """Queue a payload."""
        self._out.append(payload)
        self._out_bytes += len(payload)
        self._queued.set()
        if self._out_bytes > _HIGH_BYTES and not self._paused:
            self._paused = True
            self._stream.pause_writing()

    def pause_reading(self) -> None:
        """Take nothing more from the node."""
        self._readable.clear()

    def resume_reading(self) -> None:
        """Go on where ``pause_reading`` stopped."""
        self._readable.set()

    def abort(self) -> None:
        """End; the stream is told in a later turn of the event loop."""
        for task in self._tasks:
            task.cancel()

    # ------------------------------------------------------------------ the library's side

    async def _live(self) -> None:
        """Wait until either direction has ended, then end all of it."""
        error: BaseException | None = None
        try:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            self.abort()
            outcomes = await asyncio.gather(*self._tasks, return_exceptions=True)
            error = next((one for one in outcomes if isinstance(one, Exception)), None)
            with contextlib.suppress(TimeoutError, aiohttp.ClientError, OSError):
                async with asyncio.timeout(_CLOSE_S):
                    await self._socket.close()
        finally:
            self.abort()
            with sockets.socket(fileno=self._descriptor) as ended, contextlib.suppress(OSError):
                ended.shutdown(sockets.SHUT_RDWR)
            try:
                await self._session.close()
            finally:
                self._stream.ended(error if isinstance(error, Exception) else None)

    async def _read_all(self) -> None:
        while True:
            await self._readable.wait()
            message = await self._socket.receive()
            if message.type is aiohttp.WSMsgType.BINARY:
                self._stream.received(message.data)
            elif message.type is aiohttp.WSMsgType.ERROR:
                raise message.data
            elif message.type in _ENDS:
                return
            else:
                raise MalformedFrame("a message that is not binary", hint="is it a node?")

    async def _write_all(self) -> None:
        while True:
            await self._queued.wait()
            while self._out:
                payload = self._out.popleft()
                await self._socket.send_bytes(payload)
                self._out_bytes -= len(payload)
                if self._paused and self._out_bytes < _LOW_BYTES:
                    self._paused = False
                    self._stream.resume_writing()
            self._queued.clear()
