"""A network within one process, with faults that are asked for by name.

Problem: tests of the driver need loss, cuts and silence on demand, on real asyncio time, which
real sockets on one machine do not offer.

Idea: a ``Network`` maps addresses to transports. Datagrams and frames are delivered by the event
loop, never within the call that sent them, as with sockets. What is cut stays silent: an
exchange over a cut runs into its timeout; only an address where nobody listens is refused.

Invariants: as ``base`` states them. Randomness is given, so that a run's losses are its seed's.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random
from typing import Any, cast

from gossip.errors import TransportError
from gossip.transport.base import (
    ACCEPTED_STREAMS,
    Exchanged,
    Receiver,
    format_address,
    split_address,
)

__all__ = ["MemoryTransport", "Network"]


class Network:
    """Who listens where, and what is wrong between them.

    ``loss`` is the part of the datagrams that vanish; ``latency_s`` is one way;
    ``datagrams_blocked`` lets only streams through.
    """

    def __init__(self, chance: Random, *, loss: float = 0.0, latency_s: float = 0.0) -> None:
        self.loss = loss
        self.latency_s = latency_s
        self.datagrams_blocked = False
        self._chance = chance
        self._listening: dict[str, MemoryTransport] = {}
        self._cuts: set[tuple[str, str]] = set()
        self._ports = 1_024

    def cut(self, source: str, target: str, *, one_way: bool = False) -> None:
        """Let nothing through from ``source`` to ``target`` (nor back, unless ``one_way``)."""
        self._cuts.add((source, target))
        if not one_way:
            self._cuts.add((target, source))

    def heal(self) -> None:
        """Undo every cut."""
        self._cuts.clear()

    def listen(self, address: str, transport: MemoryTransport) -> str:
        """Take an address. Raises ``TransportError`` where it is taken."""
        host, port = split_address(address)
        while not port:
            self._ports += 1
            if format_address(host, self._ports) not in self._listening:
                port = self._ports
        bound = format_address(host, port)
        if bound in self._listening:
            raise TransportError(f"{bound} is taken", hint="choose another port, or 0")
        self._listening[bound] = transport
        return bound

    def leave(self, address: str) -> None:
        """Give an address up."""
        self._listening.pop(address, None)

    def at(self, address: str) -> MemoryTransport | None:
        """Return who listens there."""
        return self._listening.get(address)

    def passes(self, source: str, target: str, *, datagram: bool) -> bool:
        """Whether what is sent now arrives."""
        if (source, target) in self._cuts:
            return False
        if not datagram:
            return True
        return not self.datagrams_blocked and self._chance.random() >= self.loss


class _Question:
    """A stream as its taker sees it."""

    __slots__ = ("asker", "outcome")

    def __init__(self, asker: str) -> None:
        self.asker = asker
        self.outcome: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()

    def end(self, frame: bytes | None) -> None:
        if not self.outcome.done():
            self.outcome.set_result(frame)


class MemoryTransport:
    """A ``Transport`` within one ``Network``."""

    def __init__(self, network: Network, *, accepted: int = ACCEPTED_STREAMS) -> None:
        self.counters: Counter[str] = Counter()
        self.address = ""
        self._network = network
        self._accepted = accepted
        self._receiver: Receiver | None = None
        self._questions: set[_Question] = set()

    async def start(self, listen: str, receiver: Receiver) -> str:
        """Take the address. Raises ``TransportError``."""
        self.address = self._network.listen(listen, self)
        self._receiver = receiver
        return self.address

    def send(self, address: str, data: bytes) -> None:
        """Deliver later, or never."""
        if self._receiver is None:
            return
        try:
            split_address(address)
        except TransportError:
            self.counters["datagrams dropped: no address"] += 1
            return
        self.counters["datagrams sent"] += 1
        self.counters["datagram bytes sent"] += len(data)
        if self._network.passes(self.address, address, datagram=True):
            self._later(self._deliver, address, bytes(data))

    async def exchange(self, address: str, frame: bytes, timeout_us: int) -> Exchanged:
        """Ask one question. See ``Transport.exchange``."""
        self.counters["exchanges"] += 1
        outcome = Exchanged(None)
        try:
            async with asyncio.timeout(timeout_us / 1_000_000):
                outcome = await self._ask(address, bytes(frame))
        except TimeoutError:
            self.counters["exchanges timed out"] += 1
        if outcome.refused:
            self.counters["exchanges refused"] += 1
        elif outcome.frame is None:
            self.counters["exchanges failed"] += 1
        return outcome

    async def _ask(self, address: str, frame: bytes) -> Exchanged:
        network = self._network
        if self._receiver is None:
            return Exchanged(None)
        if not network.passes(self.address, address, datagram=False):
            # Silence, until whoever waits has waited long enough.
            await asyncio.get_running_loop().create_future()
        taker = network.at(address)
        if taker is None:
            return Exchanged(None, refused=_is_address(address))
        question = _Question(self.address)
        if not taker.take(question):
            return Exchanged(None)
        self._later(taker.hear, question, frame)
        try:
            answer = await question.outcome
        finally:
            taker.ended(question)
        if not network.passes(address, self.address, datagram=False):
            await asyncio.get_running_loop().create_future()
        return Exchanged(answer)

    def answer(self, stream: Any, frame: bytes) -> None:
        """Answer, and end the stream."""
        question = cast("_Question", stream)
        if question in self._questions:
            self._later(question.end, bytes(frame))

    def refuse(self, stream: Any) -> None:
        """End the stream."""
        self.counters["streams refused"] += 1
        cast("_Question", stream).end(None)

    async def close(self) -> None:
        """Give the address up, and end what is open."""
        self._receiver = None
        self._network.leave(self.address)
        for question in list(self._questions):
            question.end(None)

    # ------------------------------------------------------------------ the other side

    def take(self, question: _Question) -> bool:
        """Count a stream that somebody opened, unless there are too many."""
        if len(self._questions) >= self._accepted:
            self.counters["streams dropped: too many"] += 1
            return False
        self._questions.add(question)
        self.counters["streams accepted"] += 1
        return True

    def ended(self, question: _Question) -> None:
        """Forget a stream."""
        self._questions.discard(question)

    def hear(self, question: _Question, frame: bytes) -> None:
        """Hand a frame over."""
        if self._receiver is None:
            question.end(None)
        else:
            self._receiver.on_frame(question, frame)

    def _deliver(self, address: str, data: bytes) -> None:
        target = self._network.at(address)
        if target is not None and target._receiver is not None:
            target.counters["datagrams received"] += 1
            target.counters["datagram bytes received"] += len(data)
            target._receiver.on_datagram(data, self.address)

    def _later(self, call: Any, *arguments: Any) -> None:
        loop = asyncio.get_running_loop()
        if self._network.latency_s:
            loop.call_later(self._network.latency_s, call, *arguments)
        else:
            loop.call_soon(call, *arguments)


def _is_address(address: str) -> bool:
    try:
        split_address(address)
    except TransportError:
        return False
    return True
