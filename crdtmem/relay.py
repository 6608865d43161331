"""A link between two regions, in userspace: latency, jitter, bandwidth, and a knife.

Problem: three nodes on one loopback are too near each other to show or to test
anything about regions. Shaping the kernel's queues needs root; and a link that is
cut by closing its sockets is the kindest of all failures.

Idea: a relay listens where a node believes its peer to be, and carries bytes
between the two. Each direction of each connection is a queue of chunks with the
time at which they are due: sent when the link was free (bandwidth), plus the
one-way latency, plus jitter, but never before the chunk ahead of them. What is *lost* is
sent again after a pause that doubles, as TCP does it, and holds up all behind it. The shape
may change at any time, for what is read from then on. A *cut*
direction holds what it has and says nothing: both ends keep open sockets and hear
silence, as across a lost route. After ``heal`` what was held arrives, in order, as
TCP's retransmission would bring it. ``reset`` is the other failure: every
connection is torn down at once.

Invariants: bytes are neither lost, changed nor reordered within a connection that
lives; a direction holds at most ``buffer_bytes`` and one chunk, then it stops
reading and the sender feels it; a connection that is opened across a cut is
accepted and reaches its target only when the link has healed; an end of stream
travels like bytes, behind them.

The idea of a programmable relay between real processes is toxiproxy's.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from collections import deque
from dataclasses import dataclass, field
from typing import Final, Literal

from crdtmem.errors import Closed, ConfigError

__all__ = ["BACKWARD", "BOTH", "FORWARD", "Direction", "LinkShape", "LinkTotals", "Relay"]

Direction = Literal["forward", "backward", "both"]
FORWARD: Final = "forward"
"""From the side that connects to the target."""
BACKWARD: Final = "backward"
"""From the target to the side that connects."""
BOTH: Final = "both"

_CHUNK_BYTES: Final = 64 * 1024
_CONNECTIONS: Final = 256
_END: Final = b""
"""Queued behind the last chunk: the end of the stream."""


@dataclass(frozen=True, slots=True)
class LinkShape:
    """What a link does to what it carries, per direction.

    ``latency_ms`` is one-way; each chunk is late by up to ``jitter_ms`` more; ``loss`` is the
    probability that it has to be sent again, after ``resend_ms``, doubled each time;
    ``bandwidth_bytes_per_s`` 0 is unlimited; ``buffer_bytes`` is what one direction of one
    connection may have in flight before its sender has to wait.
    """

    latency_ms: float = 0.0
    jitter_ms: float = 0.0
    bandwidth_bytes_per_s: int = 0
    buffer_bytes: int = 4 * 1024 * 1024
    loss: float = 0.0
    resend_ms: float = 200.0

    def __post_init__(self) -> None:
        if min(self.latency_ms, self.jitter_ms, self.bandwidth_bytes_per_s, self.resend_ms) < 0:
            raise ConfigError("a link's latency, jitter or bandwidth is negative", hint="use 0")
        if not 0 <= self.loss < 1:
            raise ConfigError("a link's loss is a probability below 1", hint="cut it instead")
        if self.buffer_bytes < 1:
            raise ConfigError("a link without a buffer carries nothing", hint="use 1 or more")


@dataclass(slots=True)
class LinkTotals:
    """What a relay has carried since it started."""

    connections: int = 0
    refused: int = 0
    bytes_forward: int = 0
    bytes_backward: int = 0


class _Gate:
    """Whether a direction lets bytes through, and how; shared by all its connections."""

    def __init__(self, shape: LinkShape) -> None:
        self.shape = shape
        self.is_open = asyncio.Event()
        self.is_open.set()


class _Pump:
    """One direction of one connection: reads, holds until due, writes."""

    def __init__(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        gate: _Gate,
        chance: random.Random,
    ) -> None:
        self._source = source
        self._sink = sink
        self._gate = gate
        self._chance = chance
        self._queue: deque[tuple[float, bytes]] = deque()
        self._held_bytes = 0
        self._free_at_s = 0.0
        self._last_due_s = 0.0
        self._changed = asyncio.Event()
        self.carried_bytes = 0

    async def run(self) -> None:
        """Carry until the source ends and all of it has been delivered."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._read())
            group.create_task(self._write())

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            while self._held_bytes >= self._gate.shape.buffer_bytes:
                self._changed.clear()
                await self._changed.wait()
            try:
                chunk = await self._source.read(_CHUNK_BYTES)
            except ConnectionError:
                # A reset cannot overtake what was sent before it: it travels as an end.
                chunk = _END
            self._queue.append((self._due_s(loop.time(), len(chunk)), chunk))
            self._held_bytes += len(chunk)
            self._changed.set()
            if chunk == _END:
                return

    def _due_s(self, now_s: float, size: int) -> float:
        """Return when a chunk that was read now arrives: never before the one ahead of it."""
        shape = self._gate.shape
        sent_s = max(now_s, self._free_at_s)
        if shape.bandwidth_bytes_per_s:
            sent_s += size / shape.bandwidth_bytes_per_s
        self._free_at_s = sent_s
        late_ms = shape.latency_ms + self._chance.uniform(0.0, shape.jitter_ms)
        resend_ms = shape.resend_ms
        # Drawn only where there is loss: other links keep the jitter of their seed.
        while shape.loss and self._chance.random() < shape.loss:
            late_ms += resend_ms
            resend_ms *= 2
        self._last_due_s = max(self._last_due_s, sent_s + late_ms / 1000)
        return self._last_due_s

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            while not self._queue:
                self._changed.clear()
                await self._changed.wait()
            due_s, chunk = self._queue[0]
            if (pause_s := due_s - loop.time()) > 0:
                await asyncio.sleep(pause_s)
            await self._gate.is_open.wait()
            if chunk == _END:
                if self._sink.can_write_eof():
                    self._sink.write_eof()
                return
            self._sink.write(chunk)
            await self._sink.drain()
            self._queue.popleft()
            self._held_bytes -= len(chunk)
            self.carried_bytes += len(chunk)
            self._changed.set()


@dataclass(slots=True)
class Relay:
    """Carries connections to ``host:port`` across a link of the given shape.

    Use ``async with`` or ``start`` and ``close``. ``seed`` decides the jitter.
    """

    host: str
    port: int
    shape: LinkShape = field(default_factory=LinkShape)
    seed: int = 0
    totals: LinkTotals = field(default_factory=LinkTotals)
    _gates: dict[str, _Gate] = field(init=False)
    _chance: random.Random = field(init=False)
    _server: asyncio.Server | None = field(init=False, default=None)
    _tasks: set[asyncio.Task[None]] = field(init=False, default_factory=set)

    def __post_init__(self) -> None:
        self._gates = {FORWARD: _Gate(self.shape), BACKWARD: _Gate(self.shape)}
        self._chance = random.Random(self.seed)  # noqa: S311 - jitter, reproducible on purpose

    async def __aenter__(self) -> Relay:
        await self.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> int:
        """Listen; return the port (port 0 takes any free one). Raises ``OSError``."""
        self._server = await asyncio.start_server(self._accepted, host, port, limit=_CHUNK_BYTES)
        return self.listening_port

    @property
    def listening_port(self) -> int:
        """The port to connect to. Raises ``Closed`` where the relay is not listening."""
        if self._server is None:
            raise Closed("this relay is not listening", hint="start it")
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def is_cut(self) -> bool:
        """Whether either direction is cut."""
        return not all(gate.is_open.is_set() for gate in self._gates.values())

    @property
    def connections(self) -> int:
        """How many connections are open now."""
        return len(self._tasks)

    def reshape(self, shape: LinkShape) -> None:
        """Let the link be another from now on; what is under way arrives as it was to."""
        self.shape = shape
        for gate in self._gates.values():
            gate.shape = shape

    def cut(self, direction: Direction = BOTH) -> None:
        """Let nothing through any more; every socket stays open and silent."""
        for name, gate in self._gates.items():
            if direction in (BOTH, name):
                gate.is_open.clear()

    def heal(self) -> None:
        """Let everything through again, beginning with what was held."""
        for gate in self._gates.values():
            gate.is_open.set()

    def reset(self) -> None:
        """Tear down every connection at once; what was under way is gone, as at a crash."""
        for task in list(self._tasks):
            task.cancel()

    async def close(self) -> None:
        """Stop listening and tear down what is open. Idempotent."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        self.reset()
        if self._tasks:
            await asyncio.wait(list(self._tasks))
        if server is not None:
            await server.wait_closed()

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._tasks) >= _CONNECTIONS or self._server is None:
            self.totals.refused += 1
            writer.transport.abort()
            return
        self.totals.connections += 1
        task = asyncio.get_running_loop().create_task(self._carry(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection until both directions have ended, or either breaks."""
        target: asyncio.StreamWriter | None = None
        forward: _Pump | None = None
        backward: _Pump | None = None
        orderly = False
        try:
            # A connection that is opened across a cut waits here, as its SYN would.
            for gate in self._gates.values():
                await gate.is_open.wait()
            far, target = await asyncio.open_connection(self.host, self.port, limit=_CHUNK_BYTES)
            forward = _Pump(reader, target, self._gates[FORWARD], self._chance)
            backward = _Pump(far, writer, self._gates[BACKWARD], self._chance)
            async with asyncio.TaskGroup() as group:
                group.create_task(forward.run())
                group.create_task(backward.run())
            orderly = True
        except* OSError:
            # One side is gone: the other learns of it by the reset below.
            self.totals.refused += target is None
        finally:
            if forward is not None and backward is not None:
                self.totals.bytes_forward += forward.carried_bytes
                self.totals.bytes_backward += backward.carried_bytes
            for end in (writer, target):
                if end is not None:
                    await _close(end, orderly=orderly)


async def _close(end: asyncio.StreamWriter, *, orderly: bool) -> None:
    if orderly:
        end.close()
    else:
        # A lingering time of zero makes the kernel send a reset instead of an end.
        linger = struct.pack("ii", 1, 0)
        with contextlib.suppress(OSError):
            end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        end.transport.abort()
    with contextlib.suppress(OSError):
        await end.wait_closed()
