"""Where the transports' suite runs: memory, sockets on asyncio's loop, sockets on uvloop's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import uvloop

from gossip.transport.base import Transport
from gossip.transport.memory import MemoryTransport, Network
from gossip.transport.sockets import Sockets
from tests.gossip.plain_frames import PlainFrames

__all__ = ["SITES", "Listener", "Place", "Site"]


class Listener:
    """A receiver that keeps what it is told, and answers frames as it is asked to."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.address = ""
        self.datagrams: list[tuple[bytes, str]] = []
        self.frames: list[bytes] = []
        self.streams: list[Any] = []
        self.reply: Callable[[bytes], bytes | None] = lambda frame: b"re: " + frame
        self.silent = False

    def on_datagram(self, data: bytes, source: str) -> None:
        self.datagrams.append((data, source))

    def on_frame(self, stream: Any, frame: bytes) -> None:
        self.frames.append(frame)
        self.streams.append(stream)
        if self.silent:
            return
        answer = self.reply(frame)
        if answer is None:
            self.transport.refuse(stream)
        else:
            self.transport.answer(stream, answer)


class Place:
    """One network, on which transports are made."""

    def __init__(self, make: Callable[..., Transport], host: str) -> None:
        self.host = host
        self._make = make
        self._made: list[Transport] = []

    def transport(self, **bounds: Any) -> Transport:
        transport = self._make(**bounds)
        self._made.append(transport)
        return transport

    async def listener(self, listen: str | None = None, **bounds: Any) -> Listener:
        listener = Listener(self.transport(**bounds))
        listen = f"{self.host}:0" if listen is None else listen
        listener.address = await listener.transport.start(listen, listener)
        return listener

    async def close(self) -> None:
        for transport in self._made:
            await transport.close()


@dataclass(frozen=True)
class Site:
    """How to run a body over one kind of transport."""

    place: Callable[[], Place]
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None

    def run(self, body: Callable[[Place], Awaitable[None]]) -> None:
        async def bounded() -> None:
            place = self.place()
            try:
                async with asyncio.timeout(30):
                    await body(place)
            finally:
                await place.close()

        with asyncio.Runner(loop_factory=self.loop_factory) as runner:
            runner.run(bounded())


def _memory() -> Place:
    network = Network(Random(7))
    return Place(lambda **bounds: MemoryTransport(network, **bounds), "memory")


def _sockets() -> Place:
    return Place(lambda **bounds: Sockets(PlainFrames, **bounds), "127.0.0.1")


SITES = {
    "memory": Site(_memory),
    "sockets": Site(_sockets, asyncio.new_event_loop),
    "sockets-uvloop": Site(_sockets, uvloop.new_event_loop),
}
