"""Datagrams over UDP.

Problem: packets come from anybody, and sending must neither wait nor fail loudly.

Idea: one asyncio datagram endpoint. A numeric address is sent to at once; a name whose address
is not known is asked for in the background, and the datagram follows or is dropped: the mesh
is built for loss.

Invariants: at most ``_WAITING`` datagrams wait for names; what the kernel reports of earlier
datagrams (unreachable, refused) is counted and changes nothing.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from typing import Any, Final

from gossip.errors import TransportError
from gossip.transport.base import Receiver, format_address
from gossip.transport.resolver import Resolver

__all__ = ["Udp"]

_WAITING: Final = 64
_BUFFER_BYTES: Final = 1 << 20


class Udp(asyncio.DatagramProtocol):
    """The datagram half of ``Sockets``."""

    def __init__(self, counters: Counter[str]) -> None:
        self.counters = counters
        self._receiver: Receiver | None = None
        self._endpoint: asyncio.DatagramTransport | None = None
        self._resolver = Resolver()
        self._waiting: set[asyncio.Task[None]] = set()
        self._lost: asyncio.Future[None] | None = None

    @property
    def family(self) -> int:
        """The socket's family."""
        return self._resolver.family

    async def start(self, host: str, port: int, receiver: Receiver) -> str:
        """Bind; return the bound address. Raises ``TransportError``."""
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(
                host, port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE
            )
            connection = _bound(found[0][0], found[0][4])
        except OSError as error:
            raise TransportError(
                f"cannot take datagrams at {format_address(host, port)}: {error.strerror or error}",
                hint="another process has the port, or the address is not this machine's",
                errno=error.errno,
            ) from error
        self._receiver = receiver
        self._resolver.family = connection.family
        self._lost = loop.create_future()
        endpoint, _ = await loop.create_datagram_endpoint(lambda: self, sock=connection)
        self._endpoint = endpoint
        bound = endpoint.get_extra_info("sockname")
        return format_address(bound[0], bound[1])

    def send(self, address: str, data: bytes) -> None:
        """Send, or drop and count."""
        try:
            target = self._resolver.known(address)
        except TransportError:
            self.counters["datagrams dropped: no address"] += 1
            return
        if target is not None:
            self._send_to(target, data)
        elif len(self._waiting) >= _WAITING:
            self.counters["datagrams dropped: names pending"] += 1
        else:
            task = asyncio.get_running_loop().create_task(self._send_later(address, data))
            self._waiting.add(task)
            task.add_done_callback(self._waiting.discard)

    async def close(self) -> None:
        """Unbind."""
        self._receiver = None
        waiting = list(self._waiting)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await self._resolver.close()
        if self._endpoint is not None:
            # What was handed over is handed to the kernel first: a farewell must go out.
            self._endpoint.close()
            self._endpoint = None
        if self._lost is not None:
            await self._lost
            self._lost = None

    async def _send_later(self, address: str, data: bytes) -> None:
        try:
            target = await self._resolver.resolve(address)
        except (OSError, TransportError):
            self.counters["datagrams dropped: no address"] += 1
            return
        self._send_to(target, data)

    def _send_to(self, target: tuple[Any, ...], data: bytes) -> None:
        if self._endpoint is None or self._endpoint.is_closing():
            return
        try:
            self._endpoint.sendto(data, target)
        except (OSError, ValueError):
            # uvloop raises what asyncio would report: too large, or of another family.
            self.counters["datagrams dropped: not sendable"] += 1
            return
        self.counters["datagrams sent"] += 1
        self.counters["datagram bytes sent"] += len(data)

    # ------------------------------------------------------------------ asyncio's side

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        """Tell the receiver."""
        if self._receiver is not None:
            self.counters["datagrams received"] += 1
            self.counters["datagram bytes received"] += len(data)
            self._receiver.on_datagram(data, format_address(addr[0], addr[1]))

    def error_received(self, exc: Exception) -> None:
        """Count what the kernel reports of some earlier datagram."""
        self.counters["datagram errors"] += 1

    def connection_lost(self, exc: Exception | None) -> None:
        """Let ``close`` return."""
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(None)


def _bound(family: int, address: tuple[Any, ...]) -> socket.socket:
    """Bind before the loop sees the socket: uvloop leaks the endpoint of a failed bind."""
    connection = socket.socket(family, socket.SOCK_DGRAM)
    try:
        connection.setblocking(False)
        # A burst while the loop is busy is kept by the kernel rather than lost.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        connection.bind(address)
    except BaseException:
        connection.close()
        raise
    return connection
