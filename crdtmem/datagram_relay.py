"""The datagrams of a link between two regions: late, sometimes lost, and cut with the rest.

Problem: nodes find each other by datagrams, so a link that shapes and cuts their streams
only would be half a link.

Idea: a relay listens by UDP beside ``relay.Relay``, on the same port number, and passes what
comes to its target. It works one way: members answer to the address that a peer advertises,
which each node reaches through a relay of its own (``mesh.routes``). Each datagram travels
by itself: jitter reorders, a cut loses, and so does a full buffer.

Invariants: a datagram arrives whole, unchanged and at most once; at most ``buffer_bytes`` are
under way, what comes beyond is dropped and counted; after ``close`` nothing is sent any more.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any, Final

from crdtmem.errors import Closed, ConfigError
from crdtmem.relay import LinkShape

__all__ = ["DatagramRelay", "DatagramTotals"]

_MS: Final = 1_000


@dataclass(slots=True)
class DatagramTotals:
    """What became of the datagrams that a relay was given since it started."""

    carried: int = 0
    carried_bytes: int = 0
    lost: int = 0
    cut: int = 0
    overflowed: int = 0


@dataclass(slots=True)
class DatagramRelay:
    """Carries datagrams to ``host:port`` across a link of the given shape.

    ``loss_percent`` of them (0 to 100) never arrive. ``seed`` decides which, and the jitter.
    Use ``start`` and ``close``. Raises ``ConfigError`` for a loss out of its range.
    """

    host: str
    port: int
    shape: LinkShape = field(default_factory=LinkShape)
    seed: int = 0
    loss_percent: float = 0.0
    totals: DatagramTotals = field(default_factory=DatagramTotals)
    is_cut: bool = False
    _chance: random.Random = field(init=False)
    _transport: asyncio.DatagramTransport | None = field(init=False, default=None)
    _held_bytes: int = field(init=False, default=0)
    _free_at_s: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        if not 0 <= self.loss_percent <= 100:
            raise ConfigError("a link's loss is not within 0 to 100 percent", hint="use 0")
        self._chance = random.Random(self.seed)  # noqa: S311 - jitter and loss, reproducible

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> int:
        """Listen; return the port (port 0 takes any free one). Raises ``OSError``."""
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(
            lambda: _Receiver(self), local_addr=(host, port)
        )
        self._transport = transport
        return self.listening_port

    @property
    def listening_port(self) -> int:
        """The port to send to. Raises ``Closed`` where the relay is not listening."""
        if self._transport is None:
            raise Closed("this relay is not listening", hint="start it")
        port: int = self._transport.get_extra_info("sockname")[1]
        return port

    def cut(self) -> None:
        """Lose everything from now on, what is under way included."""
        self.is_cut = True

    def heal(self) -> None:
        """Carry again. What was lost stays lost."""
        self.is_cut = False

    async def close(self) -> None:
        """Stop listening, and drop what is under way. Idempotent."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()

    def carry(self, data: bytes) -> None:
        """Take a datagram that came in; it leaves when it is due, if it does."""
        if self.is_cut:
            self.totals.cut += 1
            return
        if self._chance.random() * 100 < self.loss_percent:
            self.totals.lost += 1
            return
        if self._held_bytes + len(data) > self.shape.buffer_bytes:
            self.totals.overflowed += 1
            return
        self._held_bytes += len(data)
        loop = asyncio.get_running_loop()
        loop.call_at(self._due_s(loop.time(), len(data)), self._arrive, data)

    def _due_s(self, now_s: float, size: int) -> float:
        shape = self.shape
        sent_s = max(now_s, self._free_at_s)
        if shape.bandwidth_bytes_per_s:
            sent_s += size / shape.bandwidth_bytes_per_s
        self._free_at_s = sent_s
        return sent_s + (shape.latency_ms + self._chance.uniform(0.0, shape.jitter_ms)) / _MS

    def _arrive(self, data: bytes) -> None:
        self._held_bytes -= len(data)
        if self._transport is None:
            return
        if self.is_cut:
            self.totals.cut += 1
            return
        self.totals.carried += 1
        self.totals.carried_bytes += len(data)
        self._transport.sendto(data, (self.host, self.port))


class _Receiver(asyncio.DatagramProtocol):
    """Hands what the socket brings to the relay. Errors of single datagrams are losses."""

    def __init__(self, relay: DatagramRelay) -> None:
        self._relay = relay

    def datagram_received(self, data: bytes, source: tuple[Any, ...]) -> None:
        """Take a datagram."""
        del source
        self._relay.carry(data)
