"""Two machines and the wires between them, for the tests of the network."""

from __future__ import annotations

from dataclasses import dataclass, field

from simulations.kernel import Kernel
from simulations.network import Network, Stream
from simulations.trace import Trace

__all__ = ["MS", "SECOND", "Ear", "Pair", "flips", "times_ms"]

MS = 1_000
SECOND = 1_000_000


@dataclass
class Ear:
    """An endpoint that writes down what it hears, and when."""

    kernel: Kernel
    accepts: bool = True
    streams: list[Stream] = field(default_factory=list)
    heard: list[tuple[int, bytes]] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)
    datagrams: list[tuple[int, str, bytes]] = field(default_factory=list)

    def opened(self, stream: Stream, *, initiator: bool) -> None:
        self.streams.append(stream)

    def received(self, stream: Stream, data: bytes) -> None:
        assert not self.ended, "bytes after the end"
        self.heard.append((self.kernel.elapsed_us, data))

    def lost(self, stream: Stream) -> None:
        self.ended.append(self.kernel.elapsed_us)

    def datagram(self, source: str, data: bytes) -> None:
        self.datagrams.append((self.kernel.elapsed_us, source, data))

    @property
    def text(self) -> bytes:
        return b"".join(data for _, data in self.heard)


class Pair:
    """Two machines ``a`` and ``b``, 10 ms apart, without jitter."""

    def __init__(self, seed: int = 1) -> None:
        self.kernel = Kernel(seed)
        self.trace = Trace(keep=True)
        self.network = Network(self.kernel, self.trace)
        self.a, self.b = Ear(self.kernel), Ear(self.kernel)
        self.refused = 0
        for name, ear in (("a", self.a), ("b", self.b)):
            self.network.add(name, ear, lambda *_: 10 * MS)
        self.there, self.back = self.network.link("a", "b"), self.network.link("b", "a")
        self.there.jitter_us = self.back.jitter_us = 0

    def run(self, milliseconds: float) -> None:
        self.kernel.run(self.kernel.now_us + int(milliseconds * MS))

    def refuse(self) -> None:
        self.refused += 1

    def connect(self) -> tuple[Stream, Stream]:
        self.network.connect("a", "b", self.refuse)
        self.run(20)
        return self.a.streams[-1], self.b.streams[-1]


def times_ms(ear: Ear) -> list[float]:
    return [at_us / MS for at_us, _ in ear.heard]


def flips(heard: bytes, sent: bytes) -> int:
    return sum((a ^ b).bit_count() for a, b in zip(heard, sent, strict=True))
