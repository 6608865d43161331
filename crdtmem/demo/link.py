"""One way from a node to another: its streams and its datagrams, at one port.

Problem: a node reaches another at one address, by TCP and by UDP; a link that delays, loses
or cuts only one of the two is no link.

Idea: a ``Relay`` and a ``DatagramRelay`` on the same port number, with one shape. Datagrams
go one way; what is answered goes the other node's own way.

Invariant: a cut cuts both, and a closed link leaves neither socket.
"""

from __future__ import annotations

import errno
from typing import Final

from crdtmem.datagram_relay import DatagramRelay
from crdtmem.relay import LinkShape, Relay

__all__ = ["Link"]

_HOST: Final = "127.0.0.1"
_TRIES: Final = 16


class Link:
    """From one node to another. Cut until ``lead_to`` says where that one listens."""

    def __init__(self, shape: LinkShape, seed: int) -> None:
        self.streams = Relay(_HOST, 0, shape, seed=seed)
        self.datagrams = DatagramRelay(_HOST, 0, shape, seed=seed)
        self.streams.cut()
        self.datagrams.cut()

    async def start(self) -> None:
        """Listen, by TCP and UDP at one number. Raises ``OSError``."""
        for tries_left in reversed(range(_TRIES)):
            port = await self.streams.start(_HOST, 0)
            try:
                await self.datagrams.start(_HOST, port)
            except OSError as error:
                await self.streams.close()
                if error.errno != errno.EADDRINUSE or not tries_left:
                    raise
            else:
                return

    @property
    def address(self) -> str:
        """Where the one node reaches the other. Raises ``Closed`` before ``start``."""
        return f"{_HOST}:{self.streams.listening_port}"

    def lead_to(self, port: int) -> None:
        """Say where the other node listens, and let everything through."""
        self.streams.port = self.datagrams.port = port
        self.heal()

    def cut(self) -> None:
        """Let nothing through: streams go silent, datagrams are lost."""
        self.streams.cut()
        self.datagrams.cut()

    def heal(self) -> None:
        """Let everything through again."""
        self.streams.heal()
        self.datagrams.heal()

    async def close(self) -> None:
        """Close both. Idempotent."""
        await self.streams.close()
        await self.datagrams.close()
