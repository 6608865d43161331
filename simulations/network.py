"""The network between simulated nodes: slow, narrow, broken, and sometimes lying.

Problem: replication is written for streams that break and come late; a simulation
whose links are clean, or whose faults are not what TCP and UDP really do, proves
little.

Idea: between two machines lies one ``Link`` per direction, with latency, jitter,
bandwidth, loss and switches for faults. A *stream* runs over both directions of a
pair: bytes come in order, in pieces, late; loss is a retransmission's delay, a cut
holds bytes back until it heals (as TCP does), a crash resets. A *datagram* is lost,
doubled, reordered, cut off at the MTU, for itself. Corruption, duplication and replay
happen on streams too: what middleboxes and bad memory have done to real ones.

Invariants: an intact stream delivers each byte once and in order; who crashed hears
nothing more; all chance is drawn from the kernel, per link.

Sources: the faults are those that Jepsen, FoundationDB and TigerBeetle inject; the
delay of a lost segment is TCP's minimal retransmission timeout (RFC 6298).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from itertools import count
from operator import itemgetter
from typing import Final, Protocol
from zlib import crc32

from simulations.kernel import Kernel
from simulations.trace import Trace

__all__ = ["Endpoint", "Link", "Network", "Stream"]

_RETRANSMIT_US: Final = 200_000
_RETRANSMISSIONS: Final = 15
_PIECE_BYTES: Final = 64 * 1024
_REMEMBERED: Final = 8


def _everywhere(_here: str, _there: str) -> int:
    return 1_000


class Endpoint(Protocol):
    """A machine, as the network sees it."""

    @property
    def accepts(self) -> bool:
        """Whether it takes streams and datagrams now."""

    def opened(self, stream: Stream, *, initiator: bool) -> None:
        """A stream is open."""

    def received(self, stream: Stream, data: bytes) -> None:
        """Bytes came."""

    def lost(self, stream: Stream) -> None:
        """A stream ended."""

    def datagram(self, source: str, data: bytes) -> None:
        """A datagram came."""


class Link:
    """One direction between two machines, and what is wrong with it.

    ``loss``, ``burst_loss``, ``corrupt``, ``duplicate``, ``replay`` and ``reorder`` are
    probabilities per piece or datagram; ``bytes_per_s`` 0 is unlimited. A burst begins
    with probability ``burst`` and ends with one in ten. ``cut`` lets nothing through;
    ``clogged_until_us`` holds everything back until then; ``streams`` and ``datagrams``
    say what kind of traffic passes at all.
    """

    __slots__ = (
        "burst", "burst_loss", "bursting", "bytes_per_s", "clogged_until_us", "corrupt", "cut",
        "datagrams", "duplicate", "free_at_us", "jitter_us", "latency_us", "loss", "mtu_bytes",
        "random", "reorder", "replay", "streams",
    )  # fmt: skip

    def __init__(self, kernel: Kernel, name: str, latency_us: int) -> None:
        self.random = kernel.random(f"link/{name}")
        self.latency_us = latency_us
        self.jitter_us = latency_us // 20
        self.bytes_per_s = 0
        self.loss = self.burst = self.burst_loss = 0.0
        self.corrupt = self.duplicate = self.replay = self.reorder = 0.0
        self.bursting = False
        self.cut = False
        self.clogged_until_us = 0
        self.streams = self.datagrams = True
        self.mtu_bytes = 1_500
        self.free_at_us = 0

    def is_lost(self) -> bool:
        """Draw whether one piece or datagram is lost."""
        if self.burst:
            if self.bursting:
                self.bursting = self.random.random() >= 0.1
            else:
                self.bursting = self.random.random() < self.burst
            if self.bursting and self.random.random() < self.burst_loss:
                return True
        return bool(self.loss) and self.random.random() < self.loss

    def delay_us(self, now_us: int, size: int) -> int:
        """Return how long this much takes from now, queueing included."""
        waits_us = 0
        if self.bytes_per_s:
            begins_us = max(now_us, self.free_at_us)
            self.free_at_us = begins_us + size * 1_000_000 // self.bytes_per_s
            waits_us = self.free_at_us - now_us
        if self.jitter_us:
            waits_us += int(self.random.random() * self.jitter_us)
        if now_us < self.clogged_until_us:
            waits_us += self.clogged_until_us - now_us
        return self.latency_us + waits_us


class _Pipe:
    """One direction of one stream. Pieces are numbered: a cut may hold back one that was
    sent before another that got through, and must not change their order.
    """

    __slots__ = (
        "arrived_us", "early", "held", "link", "next_in", "next_out", "recent", "unread_bytes",
    )  # fmt: skip

    def __init__(self, link: Link) -> None:
        self.link = link
        self.arrived_us = 0
        self.unread_bytes = 0
        self.next_out = self.next_in = 0
        self.held: dict[int, bytes | None] = {}
        self.early: dict[int, bytes | None] = {}
        self.recent: deque[bytes] = deque(maxlen=_REMEMBERED)


class Stream:
    """One end of a connection: what a node holds, sends on and closes."""

    __slots__ = ("_network", "_pipe", "number", "open", "other", "owner", "owner_name")

    other: Stream

    def __init__(
        self, network: Network, number: int, owner_name: str, owner: Endpoint, pipe: _Pipe
    ) -> None:
        self._network = network
        self._pipe = pipe
        self.number = number
        self.owner_name = owner_name
        self.owner = owner
        self.open = True

    @property
    def peer_name(self) -> str:
        """The machine at the other end."""
        return self.other.owner_name

    @property
    def unread_bytes(self) -> int:
        """How much was sent from here and has not arrived."""
        return self._pipe.unread_bytes

    def send(self, data: bytes) -> None:
        """Send bytes; nothing happens on a stream that has ended."""
        if self.open:
            self._network._send(self, data)

    def close(self) -> None:
        """End it, after what was sent has arrived."""
        if self.open:
            self.open = False
            self._network._enqueue(self, None)
            self._network._ended(self)

    def abort(self) -> None:
        """End it at once; the other end hears of it if anything gets through."""
        self.close()


class Network:
    """All links, streams and datagrams of a world."""

    def __init__(self, kernel: Kernel, trace: Trace) -> None:
        self.kernel = kernel
        self.trace = trace
        self.endpoints: dict[str, Endpoint] = {}
        self.links: dict[tuple[str, str], Link] = {}
        self.streams: dict[int, Stream] = {}
        self._holding: dict[int, Stream] = {}
        self.sent_bytes = 0
        self.messages = 0
        self._numbers = count(1)
        self._latency_of: Callable[[str, str], int] = _everywhere

    def add(
        self, name: str, endpoint: Endpoint, latency_of: Callable[[str, str], int] | None = None
    ) -> None:
        """Connect a machine to all others, at the latency that ``latency_of(a, b)`` gives."""
        if latency_of is not None:
            self._latency_of = latency_of
        self.endpoints[name] = endpoint

    def link(self, here: str, there: str) -> Link:
        """Return one direction between two machines; made when it is first asked for."""
        link = self.links.get((here, there))
        if link is None:
            link = Link(self.kernel, f"{here}>{there}", self._latency_of(here, there))
            self.links[here, there] = link
        return link

    # ------------------------------------------------------------------ faults

    def cut(self, here: Iterable[str], there: Iterable[str], *, one_way: bool = False) -> None:
        """Let nothing through from one group to the other (and back, unless ``one_way``)."""
        there = list(there)
        for a in here:
            for b in there:
                if a != b:
                    self.link(a, b).cut = True
                    if not one_way:
                        self.link(b, a).cut = True
                    self.trace.note(self.kernel.now_us, "cut", a, b, int(one_way))

    def heal(self, here: Iterable[str], there: Iterable[str]) -> None:
        """Let everything through again between two groups, both ways."""
        there = list(there)
        for a in here:
            for b in there:
                if a != b and (self.link(a, b).cut or self.link(b, a).cut):
                    self.link(a, b).cut = self.link(b, a).cut = False
                    self.trace.note(self.kernel.now_us, "heal", a, b)
        self.flush()

    def flush(self) -> None:
        """Send on what streams held back, where it may pass now: after any change of links."""
        for stream in list(self._holding.values()):
            pipe = stream._pipe
            if not pipe.link.cut and pipe.link.streams:
                del self._holding[stream.number]
                held = sorted(pipe.held.items(), key=itemgetter(0))
                pipe.held.clear()
                for number, data in held:
                    self._schedule(stream, pipe, number, data)

    def reset(self, name: str, *, silent: bool = False) -> None:
        """End all streams of a machine that crashed; ``silent``: as in a power cut.

        The machine itself hears nothing.
        """
        for stream in list(self.streams.values()):
            if stream.owner_name == name and stream.open:
                stream.open = False
                self._ended(stream)
                if not silent:
                    self._enqueue(stream, None)

    def break_streams(self, here: str, there: str) -> None:
        """Break the open streams between two machines; each end hears of it at once."""
        for stream in list(self.streams.values()):
            if stream.open and (stream.owner_name, stream.peer_name) == (here, there):
                other = stream.other
                for end in (stream, other):
                    if end.open:
                        end.open = False
                        self._ended(end)
                        if end.owner.accepts:
                            end.owner.lost(end)

    # ------------------------------------------------------------------ streams

    def connect(self, here: str, there: str, refused: Callable[[], None]) -> None:
        """Open a stream; ``opened`` is called on both sides after a round trip, or ``refused``."""
        out, back = self.link(here, there), self.link(there, here)
        trip_us = out.delay_us(self.kernel.now_us, 60) + back.delay_us(self.kernel.now_us, 60)
        self.kernel.after(trip_us, self._connected, here, there, refused)

    def _connected(self, here: str, there: str, refused: Callable[[], None]) -> None:
        out, back = self.link(here, there), self.link(there, here)
        ours, theirs = self.endpoints[here], self.endpoints[there]
        passes = not (out.cut or back.cut) and out.streams and back.streams
        if not passes or not ours.accepts or not theirs.accepts or out.is_lost() or back.is_lost():
            refused()
            return
        near = Stream(self, next(self._numbers), here, ours, _Pipe(out))
        far = Stream(self, next(self._numbers), there, theirs, _Pipe(back))
        near.other, far.other = far, near
        self.streams[near.number], self.streams[far.number] = near, far
        self.trace.note(self.kernel.now_us, "connect", here, there, near.number)
        theirs.opened(far, initiator=False)
        if near.open:
            ours.opened(near, initiator=True)

    def _send(self, stream: Stream, data: bytes) -> None:
        self.sent_bytes += len(data)
        self.messages += 1
        stream._pipe.unread_bytes += len(data)
        if len(data) <= _PIECE_BYTES:
            self._enqueue(stream, data)
            return
        for begin in range(0, len(data), _PIECE_BYTES):
            self._enqueue(stream, data[begin : begin + _PIECE_BYTES])

    def _enqueue(self, stream: Stream, data: bytes | None) -> None:
        pipe, link = stream._pipe, stream._pipe.link
        number = pipe.next_out
        pipe.next_out = number + 1
        if link.cut or not link.streams:
            self._hold(stream, number, data)
        else:
            self._schedule(stream, pipe, number, data)

    def _hold(self, stream: Stream, number: int, data: bytes | None) -> None:
        stream._pipe.held[number] = data
        self._holding[stream.number] = stream

    def _schedule(self, stream: Stream, pipe: _Pipe, number: int, data: bytes | None) -> None:
        now_us, link = self.kernel.now_us, pipe.link
        due_us = now_us + link.delay_us(now_us, len(data) if data else 40)
        if link.loss or link.burst:
            for _ in range(_RETRANSMISSIONS):
                if not link.is_lost():
                    break
                due_us += _RETRANSMIT_US + link.latency_us
        if due_us < pipe.arrived_us:
            due_us = pipe.arrived_us
        pipe.arrived_us = due_us
        self.kernel.at(due_us, self._arrive, stream, pipe, number, data)

    def _arrive(self, stream: Stream, pipe: _Pipe, number: int, data: bytes | None) -> None:
        link = pipe.link
        if link.cut or not link.streams:
            self._hold(stream, number, data)
            return
        if number != pipe.next_in:
            pipe.early[number] = data
            return
        pipe.next_in = number + 1
        self._deliver(stream, pipe, data)
        while pipe.early and pipe.next_in in pipe.early:
            data = pipe.early.pop(pipe.next_in)
            pipe.next_in += 1
            self._deliver(stream, pipe, data)

    def _deliver(self, stream: Stream, pipe: _Pipe, data: bytes | None) -> None:
        link, other = pipe.link, stream.other
        if data is None:
            if other.open:
                other.open = False
                self._ended(other)
                if other.owner.accepts:
                    other.owner.lost(other)
            return
        pipe.unread_bytes -= len(data)
        if not other.open or not other.owner.accepts:
            return
        self.trace.note(
            self.kernel.now_us, "bytes", other.owner_name, stream.owner_name, crc32(data)
        )
        if link.corrupt or link.duplicate or link.replay:
            for piece in self._harmed(link, pipe, data):
                if other.open:
                    other.owner.received(other, piece)
            return
        other.owner.received(other, data)

    def _harmed(self, link: Link, pipe: _Pipe, data: bytes) -> list[bytes]:
        """Return what arrives of a piece where bytes are harmed, doubled and played back."""
        pieces, chance = [data], link.random
        if link.replay:
            if pipe.recent and chance.random() < link.replay:
                pieces.append(chance.choice(pipe.recent))
            pipe.recent.append(data)
        if chance.random() < link.duplicate:
            pieces.append(data)
        if data and chance.random() < link.corrupt:
            at = chance.randrange(len(data))
            flipped = data[at] ^ (1 << chance.randrange(8))
            pieces[0] = data[:at] + bytes((flipped,)) + data[at + 1 :]
        return pieces

    def _ended(self, stream: Stream) -> None:
        self.streams.pop(stream.number, None)

    # ------------------------------------------------------------------ datagrams

    def send_datagram(self, here: str, there: str, data: bytes) -> None:
        """Send a datagram: lost, late, doubled, out of order or harmed, as its link has it."""
        link, now_us = self.link(here, there), self.kernel.now_us
        self.sent_bytes += len(data)
        self.messages += 1
        if link.cut or not link.datagrams or len(data) > link.mtu_bytes or link.is_lost():
            return
        chance = link.random
        if link.corrupt and data and chance.random() < link.corrupt:
            at = chance.randrange(len(data))
            data = data[:at] + bytes((data[at] ^ (1 << chance.randrange(8)),)) + data[at + 1 :]
        copies = 2 if link.duplicate and chance.random() < link.duplicate else 1
        if link.replay and chance.random() < link.replay:
            self.kernel.after(
                10 * link.latency_us + 1_000_000, self._arrive_datagram, here, there, data
            )
        for _ in range(copies):
            delay_us = link.delay_us(now_us, len(data))
            if link.reorder and chance.random() < link.reorder:
                delay_us += int(chance.random() * 4 * link.latency_us)
            self.kernel.after(delay_us, self._arrive_datagram, here, there, data)

    def _arrive_datagram(self, here: str, there: str, data: bytes) -> None:
        endpoint = self.endpoints[there]
        if endpoint.accepts and not self.link(here, there).cut:
            self.trace.note(self.kernel.now_us, "datagram", there, here, crc32(data))
            endpoint.datagram(here, data)
