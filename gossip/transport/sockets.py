"""Real sockets: datagrams and streams at one port number.

Problem: a member has one address, for both; and the address that it is known by may not be the
one that this machine must dial (address translation, relays).

Idea: ``Udp`` and ``Tcp`` side by side. For "any free port" the streams choose, and the
datagrams follow; where somebody else holds that number for datagrams, it is tried again.
``routes`` maps an advertised address to the one to dial. A program that has a listener of its
own at that number takes the streams, and hands over those that are for the mesh (``adopt``).

Invariant: either both listen, or neither does.
"""

from __future__ import annotations

import asyncio
import errno
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from gossip.errors import TransportError
from gossip.transport.base import (
    ACCEPTED_STREAMS,
    LIFE_S,
    SILENCE_S,
    Exchanged,
    Receiver,
    SealMaker,
    split_address,
)
from gossip.transport.tcp import Tcp
from gossip.transport.udp import Udp

__all__ = ["Sockets"]

_TRIES: Final = 16


class Sockets:
    """A ``Transport`` over UDP and TCP.

    ``seals`` makes the seal of every stream; datagrams arrive here sealed. ``routes`` says
    where else an address is to be dialled than where it says. With ``listen_streams`` false
    only datagrams are listened for; streams come through ``adopt``.
    """

    def __init__(
        self,
        seals: SealMaker,
        *,
        routes: Mapping[str, str] | None = None,
        accepted: int = ACCEPTED_STREAMS,
        silence_s: float = SILENCE_S,
        life_s: float = LIFE_S,
        listen_streams: bool = True,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self.routes: dict[str, str] = dict(routes or {})
        self._listen_streams = listen_streams
        self._udp = Udp(self.counters)
        self._tcp = Tcp(self.counters, seals, accepted=accepted, silence_s=silence_s, life_s=life_s)

    async def start(self, listen: str, receiver: Receiver) -> str:
        """Listen for both; return the address. Raises ``TransportError``."""
        host, port = split_address(listen)
        if not self._listen_streams:
            address = await self._udp.start(host, port, receiver)
            self._tcp.serve(receiver, self._udp.family)
            return address
        tries = 1 if port else _TRIES
        while True:
            tries -= 1
            address = await self._tcp.start(host, port, receiver)
            try:
                await self._udp.start(host, split_address(address)[1], receiver)
            except BaseException as error:
                await self._tcp.close()
                taken = (
                    isinstance(error, TransportError)
                    and error.details.get("errno") == errno.EADDRINUSE
                )
                if not (taken and tries):
                    raise
            else:
                return address

    def adopt(self, transport: asyncio.Transport, received: bytes) -> None:
        """Take over an accepted connection that turned out to be for the mesh.

        ``received`` is what was read of it. Belongs to the loop's thread, like everything here.
        """
        self._tcp.adopt(transport, received)

    @property
    def refusal(self) -> str:
        """From which host, and why, a stream was dropped last; empty before the first."""
        return self._tcp.refusal

    def send(self, address: str, data: bytes) -> None:
        """Send one datagram."""
        self._udp.send(self.routes.get(address, address), data)

    async def exchange(self, address: str, frame: bytes, timeout_us: int) -> Exchanged:
        """Ask one question over a stream."""
        return await self._tcp.exchange(self.routes.get(address, address), frame, timeout_us)

    def answer(self, stream: Any, frame: bytes) -> None:
        """Answer on a stream, and end it."""
        self._tcp.answer(stream, frame)

    def refuse(self, stream: Any) -> None:
        """End a stream without an answer."""
        self._tcp.refuse(stream)

    async def close(self) -> None:
        """Close both. Idempotent."""
        await self._tcp.close()
        await self._udp.close()
