"""Streams to peers: TCP connections that the engine reads from and writes to.

Problem: links break, peers restart, and a peer that stops reading must cost
this node neither memory nor attention.

Idea: this is the thin edge under ``sync``, which decides everything: a stream
that opens, brings bytes or ends is told to the engine, and the engine's
``Send`` and ``Disconnect`` effects are carried out. The listener takes what
comes; every configured peer has a task that dials it, and dials again with a
doubling, jittered pause for as long as the node runs. Where two nodes dial each
other, ``sync`` keeps one of the two streams; the other's dialler then waits until
a stream ends.

Invariants: what is written to a stream and not yet taken is bounded: ``sync``
grants itself no more than the peer's credit, and a stream whose buffer passes
``buffer_bytes`` all the same is dropped; every stream that was announced as
connected is announced as disconnected once; a handshake that does not begin
within ``_SILENT_S`` is dropped, so that a port scanner holds nothing.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

from crdtmem.effects import Disconnect, Send
from crdtmem.errors import ConfigError, CrdtmemError, Overloaded, Unreachable
from crdtmem.runtime import Runtime
from crdtmem.settings import Settings, parse_address
from crdtmem.sync_greeting import DUPLICATE
from crdtmem.sync_session import SessionInfo
from crdtmem.wall import now_us

__all__ = ["PeerStreams"]

_DIAL_S: Final = 5.0
_SILENT_S: Final = 10.0
_STEADY_S: Final = 10.0
_INCOMING: Final = 2_000
_log = logging.getLogger("crdtmem.peers")


class _Stream(asyncio.Protocol):
    """One TCP stream, in either direction."""

    def __init__(self, streams: PeerStreams, number: int, dialled: str | None) -> None:
        self._streams = streams
        self.number = number
        self.dialled = dialled
        self.address = dialled or ""
        self.connected_at_us = now_us()
        self.received_bytes = 0
        self.sent_bytes = 0
        self.error: str | None = None
        self.duplicate = False
        self.open = False
        self.ended = asyncio.Event()
        self._silence: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Prepare the socket, and tell the engine."""
        # uvloop's transports are Transports in all but ancestry.
        self._transport = transport = cast("asyncio.Transport", transport)
        _prepare(transport.get_extra_info("socket"))
        transport.set_write_buffer_limits(high=self._streams.buffer_bytes)
        name = transport.get_extra_info("peername")
        if self.dialled is None and name:
            self.address = f"{name[0]}:{name[1]}"
        # Open before it is announced: the engine's first effect is to send.
        self.open = True
        if not self._streams.opened(self):
            self.open = False
            transport.abort()
            return
        loop = asyncio.get_running_loop()
        self._silence = loop.call_later(_SILENT_S, self._still_silent)

    def data_received(self, data: bytes) -> None:
        """Hand bytes to the engine."""
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None
        self.received_bytes += len(data)
        if self.open:
            self._streams.received(self, data)

    def _still_silent(self) -> None:
        self._silence = None
        self.drop(Unreachable("the peer said nothing", hint="is it a node of this cluster?"))

    def pause_writing(self) -> None:
        """Drop a peer that takes nothing, although it granted credit."""
        self.drop(
            Overloaded(
                f"the peer left over {self._streams.buffer_bytes} bytes untaken",
                hint="it will connect again and ask for what it lacks",
            )
        )

    def connection_lost(self, error: Exception | None) -> None:
        """Tell the engine."""
        if self._silence is not None:
            self._silence.cancel()
        if self.error is None and error is not None:
            self.error = str(error)
        self._streams.lost(self)
        self.ended.set()

    def send(self, data: bytes) -> None:
        """Write bytes."""
        self.sent_bytes += len(data)
        self._transport.write(data)

    def drop(self, error: CrdtmemError) -> None:
        """End the stream at once, and remember why."""
        if self.error is None:
            self.error = str(error)
            _log.info("stream to %s dropped: %s", self.address, error)
        self._transport.abort()

    def finish(self, error: CrdtmemError) -> None:
        """End the stream after what is written has gone out: it may say why."""
        if self.error is None:
            self.error = str(error)
            self.duplicate = error.details.get("reason") == DUPLICATE
            level = logging.DEBUG if self.duplicate else logging.INFO
            _log.log(level, "stream to %s ended: %s", self.address, error)
        self._transport.close()


def _prepare(connection: Any) -> None:
    """Small frames leave at once; a peer that vanished is noticed within a minute."""
    if connection is None or connection.family not in (socket.AF_INET, socket.AF_INET6):
        return
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, seconds in (("TCP_KEEPIDLE", 20), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, option):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), seconds)


class _Dialled:
    """What is known of one configured peer."""

    __slots__ = ("address", "attempts", "error", "stream")

    def __init__(self, address: str) -> None:
        self.address = address
        self.attempts = 0
        self.error: str | None = None
        self.stream: _Stream | None = None


class PeerStreams:
    """All streams of one node, and the effects that concern them."""

    def __init__(self, settings: Settings, runtime: Runtime) -> None:
        self._settings = settings
        self._runtime = runtime
        self._streams: dict[int, _Stream] = {}
        self._numbers = 0
        self._server: asyncio.AbstractServer | None = None
        self._dialled = [_Dialled(address) for address in settings.peers]
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = False
        self._paused = False
        self._one_ended = asyncio.Event()
        self._random = random.Random()  # noqa: S311 - jitter
        self.buffer_bytes = settings.streams.credit_window_bytes + 2 * settings.limits.frame_bytes
        self.address = settings.listen

    async def start(self) -> None:
        """Listen, and begin to dial. Raises ``ConfigError`` where it cannot listen."""
        handlers: dict[type, Callable[[Any], None]] = {
            Send: self._send,
            Disconnect: self._disconnect,
        }
        self._runtime.handlers.update(handlers)
        host, port = parse_address(self._settings.listen, lowest_port=0)
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(
                lambda: self._new(None), host, port, reuse_address=True
            )
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {self._settings.listen}: {error.strerror or error}",
                hint="another process has the port, or the address is not this machine's",
            ) from error
        bound = self._server.sockets[0].getsockname()
        self.address = f"[{bound[0]}]:{bound[1]}" if ":" in bound[0] else f"{bound[0]}:{bound[1]}"
        self._tasks = [loop.create_task(self._keep_dialling(peer)) for peer in self._dialled]

    def stop_accepting(self) -> None:
        """Take and seek no more streams; those that are open stay."""
        self._closing = True
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()

    def pause(self) -> None:
        """End every stream, and let none stay until ``resume``: the engine is being replaced."""
        self._paused = True
        for stream in list(self._streams.values()):
            stream.drop(Unreachable("the node goes on under a new replica id"))

    def resume(self) -> None:
        """Take streams again; those to configured peers are dialled as ever."""
        self._paused = False

    async def close(self) -> None:
        """End every stream. Idempotent."""
        self.stop_accepting()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        streams = list(self._streams.values())
        for stream in streams:
            stream.drop(Unreachable("the node stops"))
        for stream in streams:
            await stream.ended.wait()
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None

    def status(self) -> list[dict[str, Any]]:
        """Return one plain map per configured peer, and per stream that came in."""
        met = {info.peer: info for info in self._runtime.engine.sync.info()}
        rows = []
        for peer in self._dialled:
            row = _describe(peer.stream, met)
            row |= {"address": peer.address, "configured": True, "attempts": peer.attempts}
            row["error"] = row["error"] or peer.error
            rows.append(row)
        rows += [
            _describe(stream, met) for stream in self._streams.values() if stream.dialled is None
        ]
        return rows

    # ------------------------------------------------------------------ streams

    def _new(self, dialled: str | None) -> _Stream:
        self._numbers += 1
        return _Stream(self, self._numbers, dialled)

    async def _keep_dialling(self, peer: _Dialled) -> None:
        """Keep a stream to one configured peer, for as long as the node runs."""
        host, port = parse_address(peer.address)
        loop = asyncio.get_running_loop()
        shortest_ms = self._settings.reconnect.minimum_ms
        pause_ms = shortest_ms
        while not self._closing:
            peer.attempts += 1
            began_s = loop.time()
            try:
                async with asyncio.timeout(_DIAL_S):
                    _, stream = await loop.create_connection(
                        lambda: self._new(peer.address), host, port
                    )
                peer.stream, peer.error = stream, None
                await stream.ended.wait()
                peer.error = None if stream.duplicate else stream.error
                if stream.duplicate:
                    # The peer's own stream to us stays: knock again when one has ended.
                    await self._one_ended.wait()
            except (OSError, TimeoutError) as error:
                peer.error = str(error) or "no answer"
            peer.stream = None
            if loop.time() - began_s > _STEADY_S:
                pause_ms = shortest_ms
            await asyncio.sleep(pause_ms * self._random.uniform(0.5, 1.0) / 1_000)
            pause_ms = min(2 * pause_ms, self._settings.reconnect.maximum_ms)

    def opened(self, stream: _Stream) -> bool:
        """Announce a stream; tells whether it may stay."""
        if self._closing or self._paused or len(self._streams) >= _INCOMING:
            return False
        self._streams[stream.number] = stream
        initiator = stream.dialled is not None
        runtime, engine = self._runtime, self._runtime.engine
        runtime.attempt(
            lambda: engine.connected(stream.number, runtime.now_us(), initiator=initiator)
        )
        return True

    def received(self, stream: _Stream, data: bytes) -> None:
        """Hand bytes to the engine."""
        runtime, engine = self._runtime, self._runtime.engine
        if not runtime.closed:
            runtime.attempt(lambda: engine.receive(stream.number, data, runtime.now_us()))

    def lost(self, stream: _Stream) -> None:
        """Announce the end of a stream, if its beginning was."""
        if self._streams.pop(stream.number, None) is None:
            return
        stream.open = False
        if not stream.duplicate:
            # Wakes those who wait now, and nobody later.
            self._one_ended.set()
            self._one_ended.clear()
        runtime, engine = self._runtime, self._runtime.engine
        if not runtime.closed:
            runtime.attempt(lambda: engine.disconnected(stream.number, runtime.now_us()))

    # ------------------------------------------------------------------ effects

    def _send(self, effect: Send) -> None:
        stream = self._streams.get(effect.peer)
        if stream is not None and stream.open:
            stream.send(effect.frame)

    def _disconnect(self, effect: Disconnect) -> None:
        stream = self._streams.get(effect.peer)
        if stream is not None:
            stream.finish(effect.error)


def _describe(stream: _Stream | None, met: Mapping[int, SessionInfo]) -> dict[str, Any]:
    """Return what operators are told of one stream; ``replica`` is empty until it is greeted."""
    info = None if stream is None else met.get(stream.number)
    return {
        "address": "" if stream is None else stream.address,
        "configured": False,
        "connected": stream is not None and stream.open and info is not None,
        "attempts": 0,
        "error": None if stream is None else stream.error,
        "replica": "" if info is None else f"{info.replica:016x}",
        "node": "" if info is None else f"{info.region}/{info.node}",
        "round_trip_us": None if info is None else info.round_trip_us,
        "clock_offset_us": None if info is None else info.clock_offset_us,
        "queued_bytes": 0 if info is None else info.queued_bytes,
        "received_bytes": 0 if stream is None else stream.received_bytes,
        "sent_bytes": 0 if stream is None else stream.sent_bytes,
    }
