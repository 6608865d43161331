"""One-shot streams over TCP: one frame there, one frame back, sealed.

Problem: tables are too large for datagrams, and some networks let only streams through. But a
listening port is open to everybody: scanners, the silent, the slow, the greedy.

Idea: an exchange is one connection that lives for one question and one answer; nothing is kept
between them. The opener greets with its seal's hello, and is greeted if that can be read; then
it sends its frame, and the answer ends the stream.

Invariants: at most ``ACCEPTED_STREAMS`` that others opened are open; one that sends nothing for
``SILENCE_S``, or is not done in ``LIFE_S``, is dropped; so is one that sends what its seal
refuses, or more than one frame. Lengths are checked by the seal before anything is allocated.
An exchange reports the host's refusal apart from silence.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from typing import Any, Final, cast

from gossip.errors import Rejected, TransportError
from gossip.transport.base import (
    ACCEPTED_STREAMS,
    LIFE_S,
    SILENCE_S,
    Exchanged,
    FrameSeal,
    Receiver,
    SealMaker,
    format_address,
)
from gossip.transport.resolver import Resolver

__all__ = ["Tcp"]

_BACKLOG: Final = 128
_TURNS: Final = 3


class _Stream(asyncio.Protocol):
    """What both ends have in common: a socket and its seal."""

    def __init__(self, owner: Tcp, seal: FrameSeal) -> None:
        self.owner = owner
        self.seal = seal
        self.transport: asyncio.Transport | None = None
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are Transports in all but ancestry.
        self.transport = cast("asyncio.Transport", transport)
        self.owner.alive.add(self)
        connection = transport.get_extra_info("socket")
        if connection is not None and connection.family in (socket.AF_INET, socket.AF_INET6):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def write(self, data: bytes) -> None:
        """Write, and count."""
        assert self.transport is not None
        self.owner.counters["stream bytes sent"] += len(data)
        self.transport.write(data)

    def open_frames(self, data: bytes) -> list[bytes]:
        """Take bytes from the socket; drop the stream for what the seal refuses."""
        self.owner.counters["stream bytes received"] += len(data)
        try:
            return self.seal.receive(data)
        except Rejected as error:
            self.owner.counters[f"streams dropped: {type(error).__name__}"] += 1
            self.owner.refusal = f"{self._whose()}: {error.args[0]}"
            self.drop()
            return []

    def _whose(self) -> str:
        name = None if self.transport is None else self.transport.get_extra_info("peername")
        return str(name[0]) if name else "somebody"

    def drop(self) -> None:
        """End at once."""
        if self.transport is not None:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.owner.alive.discard(self)
        if not self.ended.done():
            self.ended.set_result(None)


class _Accepted(_Stream):
    """One that somebody else opened: it brings one frame and takes one answer."""

    def __init__(self, owner: Tcp, seal: FrameSeal) -> None:
        super().__init__(owner, seal)
        self.asked = False
        self._greeted = False
        self._admitted = False
        self._heard_s = 0.0
        self._born_s = 0.0
        self._watch: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._admitted = self.owner.admits()
        if not self._admitted:
            self.drop()
            return
        loop = asyncio.get_running_loop()
        self._heard_s = self._born_s = loop.time()
        first_s = min(self.owner.silence_s, self.owner.life_s)
        self._watch = loop.call_later(first_s, self._look)

    def data_received(self, data: bytes) -> None:
        """Tell the receiver the frame, once."""
        self._heard_s = asyncio.get_running_loop().time()
        frames = self.open_frames(data)
        if self.seal.ready and not self._greeted:
            # Not sooner: a stranger learns nothing from connecting.
            self._greeted = True
            self.write(self.seal.hello())
        if not frames:
            return
        if self.asked or len(frames) > 1:
            self.owner.counters["streams dropped: too many frames"] += 1
            self.drop()
            return
        self.asked = True
        self.owner.tell(self, frames[0])

    def _look(self) -> None:
        """Drop the silent and the endless; look again when the next could be due."""
        loop = asyncio.get_running_loop()
        due_s = min(self._heard_s + self.owner.silence_s, self._born_s + self.owner.life_s)
        if loop.time() >= due_s:
            self.owner.counters["streams dropped: silent"] += 1
            self.drop()
        else:
            self._watch = loop.call_at(due_s, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the stream."""
        if self._watch is not None:
            self._watch.cancel()
        if self._admitted:
            self._admitted = False
            self.owner.ended()
        super().connection_lost(exc)


class _Opened(_Stream):
    """One that we opened: it takes our frame and brings the answer."""

    def __init__(self, owner: Tcp, seal: FrameSeal, frame: bytes) -> None:
        super().__init__(owner, seal)
        self._frame: bytes | None = frame
        self.answer: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet first."""
        super().connection_made(transport)
        self.write(self.seal.hello())

    def data_received(self, data: bytes) -> None:
        """Send the frame as soon as the seal allows it; take the first answer."""
        frames = self.open_frames(data)
        if self._frame is not None and self.seal.ready:
            frame, self._frame = self._frame, None
            self.write(self.seal.seal(frame))
        if frames and not self.answer.done():
            self.answer.set_result(frames[0])

    def connection_lost(self, exc: Exception | None) -> None:
        """Whoever waits has no answer."""
        if not self.answer.done():
            self.answer.set_result(None)
        super().connection_lost(exc)


class Tcp:
    """The stream half of ``Sockets``."""

    def __init__(
        self,
        counters: Counter[str],
        seals: SealMaker,
        *,
        accepted: int = ACCEPTED_STREAMS,
        silence_s: float = SILENCE_S,
        life_s: float = LIFE_S,
    ) -> None:
        self.counters = counters
        self.accepted = accepted
        self.silence_s = silence_s
        self.life_s = life_s
        self._seals = seals
        self._receiver: Receiver | None = None
        self._server: asyncio.Server | None = None
        self.alive: set[_Stream] = set()
        """Every stream that is connected, in either direction."""
        self.refusal = ""
        """From which host, and why, a stream was dropped last; for people."""
        self._incoming = 0
        self._resolver = Resolver()

    def serve(self, receiver: Receiver, family: int) -> None:
        """Take streams that are adopted, and open some, without listening."""
        self._receiver = receiver
        self._resolver.family = family

    def adopt(self, transport: asyncio.Transport, received: bytes) -> None:
        """Take over a connection that somebody else accepted, and what it has said so far."""
        stream = _Accepted(self, self._seals(False))
        transport.set_protocol(stream)
        stream.connection_made(transport)
        if received and not transport.is_closing():
            stream.data_received(received)

    async def start(self, host: str, port: int, receiver: Receiver) -> str:
        """Listen; return the bound address. Raises ``TransportError``."""
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(
                lambda: _Accepted(self, self._seals(False)),
                host, port, backlog=_BACKLOG, reuse_address=True,
            )  # fmt: skip
        except OSError as error:
            raise TransportError(
                f"cannot take streams at {format_address(host, port)}: {error.strerror or error}",
                hint="another process has the port, or the address is not this machine's",
                errno=error.errno,
            ) from error
        # Of the addresses of a name, those are meant that datagrams could reach from here.
        self.serve(receiver, self._server.sockets[0].family)
        bound = self._server.sockets[0].getsockname()
        return format_address(bound[0], bound[1])

    async def exchange(self, address: str, frame: bytes, timeout_us: int) -> Exchanged:
        """Ask one question. See ``Transport.exchange``."""
        loop = asyncio.get_running_loop()
        stream: _Opened | None = None
        self.counters["exchanges"] += 1

        def make() -> _Opened:
            nonlocal stream
            stream = _Opened(self, self._seals(True), frame)
            return stream

        try:
            async with asyncio.timeout(timeout_us / 1_000_000):
                host, port = await self._resolver.resolve(address)
                _, opened = await loop.create_connection(make, host, port)
                answer = await opened.answer
        except ConnectionRefusedError:
            self.counters["exchanges refused"] += 1
            return Exchanged(None, refused=True)
        except (OSError, TimeoutError, TransportError):
            answer = None
        finally:
            if stream is not None:
                # One that was never connected is closed by asyncio itself.
                stream.drop()
        if answer is None:
            self.counters["exchanges failed"] += 1
        return Exchanged(answer)

    def answer(self, stream: Any, frame: bytes) -> None:
        """Answer, and close when the answer has gone out."""
        accepted = cast("_Accepted", stream)
        if accepted.transport is not None and not accepted.transport.is_closing():
            accepted.write(accepted.seal.seal(frame))
            accepted.transport.close()

    def refuse(self, stream: Any) -> None:
        """End the stream."""
        self.counters["streams refused"] += 1
        cast("_Accepted", stream).drop()

    async def close(self) -> None:
        """Stop listening, end every stream."""
        self._receiver = None
        loop = asyncio.get_running_loop()
        if self._server is not None and isinstance(loop, asyncio.SelectorEventLoop):
            # CPython's server, once closed, loses sockets that it has accepted in that turn of
            # the loop: it must stop to accept before it is closed.
            for listening in self._server.sockets:
                loop.remove_reader(listening.fileno())
        # What has been accepted comes to life in the next turns of the loop.
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        if self._server is not None:
            self._server.close()
        for stream in list(self.alive):
            stream.drop()
        for stream in list(self.alive):
            await stream.ended
        await self._resolver.close()
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None

    # ------------------------------------------------------------------ for the streams

    def admits(self) -> bool:
        """Count a stream that somebody opened, unless there are too many."""
        if self._receiver is None or self._incoming >= self.accepted:
            self.counters["streams dropped: too many"] += 1
            return False
        self._incoming += 1
        self.counters["streams accepted"] += 1
        return True

    def ended(self) -> None:
        """Count the end of a stream that was admitted."""
        self._incoming -= 1

    def tell(self, stream: _Accepted, frame: bytes) -> None:
        """Hand the frame over."""
        if self._receiver is not None:
            self._receiver.on_frame(stream, frame)
