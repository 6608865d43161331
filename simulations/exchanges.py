"""One question, one answer: the short streams of the mesh, over a world's links.

Problem: a pool compares its tables, proves who is reachable and gives an absentee its keys over
streams that live for one question; what may go wrong on the way decides who is declared dead.

Idea: an exchange is three journeys over the two links between two machines: a connection, which
a host that is up without the process refuses; the question; the answer. Both ends seal with the
production ``StreamSeal``, so that who lacks the key, or whose bytes were harmed, fails as it does
in production. What may not pass now is sent again, as TCP does, until the asker's time is up.

Invariants: the asker is told exactly once, by the end of its time; a process is asked only in
the life in which it took the connection; all chance is the links'.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol, cast
from zlib import crc32

from gossip.errors import Rejected
from gossip.stream_seal import StreamSeal
from simulations.network import Link, Network

__all__ = ["Exchange", "Host"]

_RETRANSMIT_US: Final = 200_000
_HANDSHAKE_BYTES: Final = 60

Told = Callable[[bytes | None, bool], None]
"""Takes the answer, or ``None``; and whether the host said that nobody listens there."""


class Host(Protocol):
    """A machine, as far as it takes exchanges."""

    @property
    def accepts(self) -> bool:
        """Whether a process listens there."""

    @property
    def dark(self) -> bool:
        """Whether even the host is gone, so that nobody is left to refuse."""

    @property
    def life(self) -> object:
        """What is another object in every life."""

    def stream_seal(self) -> StreamSeal:
        """Return a fresh seal for a stream that somebody opened."""

    def asked(self, exchange: Exchange, frame: bytes) -> None:
        """Take a question; ``answer`` or ``refuse`` it, sooner or later, or never."""


class Exchange:
    """One exchange, from the connection to the answer."""

    def __init__(
        self, network: Network, here: str, there: str, seal: StreamSeal, told: Told
    ) -> None:
        self.here = here
        self.there = there
        self._network = network
        self._near = seal
        self._far: StreamSeal | None = None
        self._told: Told | None = told
        self._life: object = None

    def begin(self, frame: bytes, timeout_us: int) -> None:
        """Connect, and ask."""
        self._network.kernel.after(timeout_us, self._end, None)
        if self.there in self._network.endpoints:
            self._out(bytes(_HANDSHAKE_BYTES), lambda _: self._reached(frame))

    def answer(self, frame: bytes) -> None:
        """Answer it."""
        if self._far is not None:
            self._back(self._far.seal(frame), self._answered)

    def refuse(self) -> None:
        """End it without an answer."""
        self._back(b"", lambda _: self._end(None))

    # ------------------------------------------------------------------ at the far end

    def _host(self) -> Host:
        return cast("Host", self._network.endpoints[self.there])

    def _reached(self, frame: bytes) -> None:
        host = self._host()
        if host.accepts:
            self._life = host.life
            self._far = host.stream_seal()
            self._back(self._far.hello(), lambda hello: self._connected(hello, frame))
        elif not host.dark:
            self._back(b"", lambda _: self._end(None, refused=True))

    def _arrived(self, data: bytes) -> None:
        host, far = self._host(), self._far
        assert far is not None, "only who was reached is asked"
        if not host.accepts or host.life is not self._life:
            self.refuse()
            return
        try:
            frames = far.receive(data)
        except Rejected:
            self.refuse()
            return
        network = self._network
        for frame in frames[:1]:
            network.trace.note(
                network.kernel.now_us, "exchange", self.there, self.here, crc32(frame)
            )
            host.asked(self, frame)

    # ------------------------------------------------------------------ at the near end

    def _connected(self, hello: bytes, frame: bytes) -> None:
        try:
            self._near.receive(hello)
        except Rejected:
            self._end(None)
            return
        # A hello that was harmed may promise more than there is: then nothing more happens.
        if self._near.ready:
            self._out(self._near.hello() + self._near.seal(frame), self._arrived)

    def _answered(self, data: bytes) -> None:
        try:
            frames = self._near.receive(data)
        except Rejected:
            frames = []
        self._end(frames[0] if frames else None)

    def _end(self, answer: bytes | None, *, refused: bool = False) -> None:
        told, self._told = self._told, None
        if told is not None:
            told(answer, refused)

    # ------------------------------------------------------------------ on the way

    def _out(self, data: bytes, then: Callable[[bytes], None]) -> None:
        self._send(self._network.link(self.here, self.there), data, then)

    def _back(self, data: bytes, then: Callable[[bytes], None]) -> None:
        self._send(self._network.link(self.there, self.here), data, then)

    def _send(self, link: Link, data: bytes, then: Callable[[bytes], None]) -> None:
        """Let bytes arrive, or try again for as long as anybody waits."""
        kernel = self._network.kernel
        self._network.sent_bytes += len(data)
        if link.cut or not link.streams or link.is_lost():
            kernel.after(_RETRANSMIT_US + link.latency_us, self._again, link, data, then)
            return
        if link.corrupt and data and link.random.random() < link.corrupt:
            at = link.random.randrange(len(data))
            data = data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]
        kernel.after(link.delay_us(kernel.now_us, len(data)), self._deliver, link, data, then)

    def _again(self, link: Link, data: bytes, then: Callable[[bytes], None]) -> None:
        if self._told is not None:
            self._send(link, data, then)

    def _deliver(self, link: Link, data: bytes, then: Callable[[bytes], None]) -> None:
        if self._told is None:
            return
        if link.cut or not link.streams:
            self._send(link, data, then)
        else:
            then(data)
