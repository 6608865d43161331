"""Streams to peers: who is dialled, what is listened to, and the engine's effects on them.

Problem: links break, peers restart and move, and a peer that stops reading must cost this
node neither memory nor attention.

Idea: this is the thin edge under ``sync``, which decides everything: a stream that opens,
brings bytes or ends is told to the engine, and the engine's ``Send`` and ``Disconnect``
effects are carried out. The listener takes what comes. Every target (those that the
settings name, and those that the mesh finds: see ``links``) has a task that dials it, and
dials again with a doubling, jittered pause for as long as it is one. Where two nodes dial
each other, ``sync`` keeps one of the two streams; the other's dialler then waits until a
stream ends.

Invariants: what is written to a stream and not yet taken is bounded: ``sync`` grants itself
no more than the peer's credit, and a stream whose buffer passes ``buffer_bytes`` all the
same is dropped; at most ``_CONNECTIONS`` are open, proven or not; a connection that does
not prove itself and begin within ``peer_stream.SILENT_S`` is dropped, so that a port
scanner holds nothing; no stream outlives the removal of the key that seals it.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from crdtmem.effects import Disconnect, Send
from crdtmem.errors import ConfigError, Unreachable
from crdtmem.peer_stream import PeerStream
from crdtmem.runtime import Runtime
from crdtmem.settings import Settings, parse_address
from crdtmem.sync_session import SessionInfo
from crdtmem.wall import now_us
from gossip.keyring import Keyring
from gossip.stream_seal import EMBEDDER, SALT_BYTES, StreamSeal

__all__ = ["PeerStreams"]

_DIAL_S: Final = 5.0
_STEADY_S: Final = 10.0
_FLUSH_S: Final = 2.0
_CONNECTIONS: Final = 2_000
_RECORD_BYTES: Final = 1 << 20

Adopter = Callable[[asyncio.Transport, bytes], None]


class _Target:
    """Somebody to have a stream with; ``replica`` is 0 where only the address is known."""

    __slots__ = ("address", "attempts", "error", "replica", "stream", "task")

    def __init__(self, address: str, replica: int = 0) -> None:
        self.address = address
        self.replica = replica
        self.attempts = 0
        self.error: str | None = None
        self.stream: PeerStream | None = None
        self.task: asyncio.Task[None] | None = None


class PeerStreams:
    """All streams of one node, and the effects that concern them."""

    def __init__(self, settings: Settings, runtime: Runtime, ring: Keyring | None = None) -> None:
        """``ring`` is ``None`` for plain text."""
        self._settings = settings
        self._runtime = runtime
        self._ring = ring
        self._streams: dict[int, PeerStream] = {}
        self._connections: set[PeerStream] = set()
        self._numbers = 0
        self._server: asyncio.AbstractServer | None = None
        self._configured = [_Target(address) for address in settings.peers]
        self._found: dict[int, _Target] = {}
        self._routes = dict(route.split("=", 1) for route in settings.mesh.routes)
        self._ending: set[asyncio.Task[None]] = set()
        self._closing = False
        self._paused = False
        self._one_ended = asyncio.Event()
        self._random = random.Random()  # noqa: S311 - jitter
        self.buffer_bytes = settings.streams.credit_window_bytes + 2 * settings.limits.frame_bytes
        self.address = settings.listen
        # Who takes connections that are for the mesh; who is told that a peer came or went.
        self.adopter: Adopter | None = None
        self.on_change: Callable[[], None] = lambda: None

    # ------------------------------------------------------------------ life

    async def listen(self) -> None:
        """Listen. Raises ``ConfigError`` where that is impossible."""
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

    async def unlisten(self) -> None:
        """Give the port up again: its number is not free for datagrams."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._server = None

    def start(self) -> None:
        """Begin to dial those that the settings name."""
        for target in self._configured:
            self._seek(target)

    def stop_accepting(self) -> None:
        """Take and seek no more streams; those that are open stay."""
        self._closing = True
        if self._server is not None:
            self._server.close()
        for target in (*self._configured, *self._found.values()):
            self._stop_seeking(target)

    def pause(self) -> None:
        """End every stream, and let none stay until ``resume``: the engine is being replaced."""
        self._paused = True
        for stream in list(self._streams.values()):
            stream.drop(Unreachable("the node goes on under a new replica id"))

    def resume(self) -> None:
        """Take streams again; targets are dialled as ever."""
        self._paused = False

    async def close(self) -> None:
        """End every stream. Idempotent."""
        self.stop_accepting()
        await asyncio.gather(*self._ending, return_exceptions=True)
        connections = list(self._connections)
        for stream in connections:
            stream.end_after_all(Unreachable("the node stops"))
        ends = [asyncio.ensure_future(stream.ended.wait()) for stream in connections]
        if ends:
            await asyncio.wait(ends, timeout=_FLUSH_S)
        for stream in connections:
            if not stream.ended.is_set():
                stream.drop(Unreachable("the node stops"))
        await asyncio.gather(*ends)
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None

    # ------------------------------------------------------------------ targets

    def dial(self, targets: Mapping[int, str]) -> None:
        """Have a dialler for each of these replicas, at these addresses, and for no others
        that the mesh found. Streams that are open stay."""
        for replica, target in list(self._found.items()):
            if targets.get(replica) != target.address:
                self._stop_seeking(target)
                del self._found[replica]
        if self._closing:
            return
        for replica, address in targets.items():
            if replica not in self._found:
                self._found[replica] = target = _Target(address, replica)
                self._seek(target)

    def hang_up(self, replicas: Collection[int]) -> None:
        """End the streams with these replicas; no stream to a configured peer is among them."""
        if not replicas:
            return
        kept = {target.stream for target in self._configured}
        for replica, session in list(self._runtime.engine.sync.by_replica.items()):
            stream = self._streams.get(session.peer)
            if replica in replicas and stream is not None and stream not in kept:
                stream.finish(Unreachable("the mesh asks for no stream between us"))

    def end_removed_keys(self) -> None:
        """End the streams that are sealed with a key that was removed; they are opened anew."""
        live = set() if self._ring is None else set(self._ring.ids)
        for stream in list(self._streams.values()):
            if stream.key is not None and stream.key not in live:
                stream.finish(Unreachable("the key that sealed this stream was removed"))

    def _seek(self, target: _Target) -> None:
        target.task = asyncio.get_running_loop().create_task(self._keep_dialling(target))
        self._ending.add(target.task)
        target.task.add_done_callback(self._ending.discard)

    @staticmethod
    def _stop_seeking(target: _Target) -> None:
        if target.task is not None:
            target.task.cancel()

    def status(self) -> list[dict[str, Any]]:
        """Return one plain map per target, and per stream that came in."""
        met = {info.peer: info for info in self._runtime.engine.sync.info()}
        rows = []
        for peer in (*self._configured, *self._found.values()):
            if peer.stream is None and peer.replica in self._runtime.engine.sync.by_replica:
                # It dialled us: the row of that stream says all there is.
                continue
            row = _describe(peer.stream, met)
            row |= {"address": peer.address, "attempts": peer.attempts}
            row["configured"] = peer in self._configured
            row["error"] = row["error"] or peer.error
            rows.append(row)
        targets = {peer.stream for peer in (*self._configured, *self._found.values())}
        rows += [
            _describe(stream, met) for stream in self._streams.values() if stream not in targets
        ]
        return rows

    # ------------------------------------------------------------------ streams

    def seal(self, *, initiator: bool) -> StreamSeal:
        """Return a fresh seal for one stream."""
        return StreamSeal(
            self._settings.cluster,
            self._ring,
            secrets.token_bytes(SALT_BYTES),
            initiator=initiator,
            purpose=EMBEDDER,
            frame_bytes=self._settings.limits.frame_bytes + _RECORD_BYTES,
            wall_us=now_us(),
        )

    def admits(self, stream: PeerStream) -> bool:
        """Count a connection, unless there are too many or the node stops."""
        if self._closing or len(self._connections) >= _CONNECTIONS:
            return False
        self._connections.add(stream)
        return True

    def adopt(self, transport: asyncio.Transport, received: bytes) -> bool:
        """Hand a connection that is for the mesh over to it."""
        if self.adopter is None:
            return False
        self.adopter(transport, received)
        return True

    def _new(self, dialled: str | None) -> PeerStream:
        self._numbers += 1
        return PeerStream(self, self._numbers, dialled)

    async def _keep_dialling(self, target: _Target) -> None:
        """Keep a stream to one target, for as long as it is one."""
        loop = asyncio.get_running_loop()
        shortest_ms = self._settings.reconnect.minimum_ms
        pause_ms = shortest_ms
        while not self._closing:
            if target.replica and target.replica in self._runtime.engine.sync.by_replica:
                # The peer's own stream to us stays: look again when one has ended.
                await self._one_ended.wait()
                continue
            target.attempts += 1
            began_s = loop.time()
            try:
                host, port = parse_address(self._routes.get(target.address, target.address))
                async with asyncio.timeout(_DIAL_S):
                    _, stream = await loop.create_connection(
                        lambda: self._new(target.address), host, port
                    )
                target.stream, target.error = stream, None
                await stream.ended.wait()
                target.error = None if stream.duplicate else stream.error
                if stream.duplicate:
                    # The peer's own stream to us stays: knock again when one has ended.
                    await self._one_ended.wait()
            except (OSError, TimeoutError, ValueError) as error:
                # ValueError: what a member advertises need be no address, and no name.
                target.error = str(error) or "no answer"
            target.stream = None
            if loop.time() - began_s > _STEADY_S:
                pause_ms = shortest_ms
            await asyncio.sleep(pause_ms * self._random.uniform(0.5, 1.0) / 1_000)
            pause_ms = min(2 * pause_ms, self._settings.reconnect.maximum_ms)

    def opened(self, stream: PeerStream) -> bool:
        """Announce a proven stream; tells whether it may stay."""
        if self._closing or self._paused:
            return False
        self._streams[stream.number] = stream
        initiator = stream.dialled is not None
        runtime, engine = self._runtime, self._runtime.engine
        runtime.attempt(
            lambda: engine.connected(stream.number, runtime.now_us(), initiator=initiator)
        )
        return True

    def received(self, stream: PeerStream, data: bytes) -> None:
        """Hand bytes to the engine."""
        runtime, engine = self._runtime, self._runtime.engine
        if runtime.closed:
            return
        runtime.attempt(lambda: engine.receive(stream.number, data, runtime.now_us()))
        if not stream.greeted:
            session = engine.sync.sessions.get(stream.number)
            if session is not None and session.open:
                stream.greeted = True
                self.on_change()

    def lost(self, stream: PeerStream) -> None:
        """Announce the end of a stream, if its beginning was."""
        self._connections.discard(stream)
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
        if stream.greeted:
            self.on_change()

    # ------------------------------------------------------------------ effects

    def _send(self, effect: Send) -> None:
        stream = self._streams.get(effect.peer)
        if stream is not None and stream.open:
            stream.send(effect.frame)

    def _disconnect(self, effect: Disconnect) -> None:
        stream = self._streams.get(effect.peer)
        if stream is not None:
            stream.finish(effect.error)


def _describe(stream: PeerStream | None, met: Mapping[int, SessionInfo]) -> dict[str, Any]:
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
