"""What the driver asks of a transport, and what a transport tells the driver.

Problem: the mesh speaks by datagrams, which may be lost, and by streams that carry one frame
each way; the same protocol must run over sockets and, in tests, within one process.

Idea: one protocol with five verbs. Inbound things are told to one ``Receiver`` by plain calls;
outbound datagrams are fire and forget; an exchange returns its outcome and raises nothing,
because a peer that does not answer is no error of ours.

Invariants: an exchange ends within its timeout, whatever the peer does; a stream that was told
to the receiver is ended by exactly one ``answer`` or ``refuse`` (or its deadline); nothing is
told to the receiver before ``start`` has returned or after ``close`` was called.

Source: the interface follows memberlist's ``Transport``; one suite over all is chitchat's habit.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

from gossip.errors import TransportError

__all__ = [
    "ACCEPTED_STREAMS",
    "LIFE_S",
    "SILENCE_S",
    "Exchanged",
    "FrameSeal",
    "Receiver",
    "SealMaker",
    "Transport",
    "format_address",
    "split_address",
]

ACCEPTED_STREAMS: Final = 256
"""How many streams may be open at once that others opened."""

SILENCE_S: Final = 10.0
"""After so long without a byte, a stream that somebody else opened is dropped."""


LIFE_S: Final = 60.0
"""How long such a stream may take in all, however busy it is."""


class Exchanged(NamedTuple):
    """How an exchange ended: with an answer, with the host's refusal, or (neither) without word.

    ``refused`` is the word of the peer's kernel that nobody listens at that address: evidence,
    where silence is none.
    """

    frame: bytes | None
    refused: bool = False


class FrameSeal(Protocol):
    """Frames to bytes and back, for one stream in both directions; pure.

    The opener sends ``hello()`` first, the other side when it has read that. ``ready`` says that
    the other's hello was taken, so that ``seal`` may be called. ``receive`` raises ``Rejected``
    for what this side must not read.
    """

    @property
    def ready(self) -> bool:
        """Whether frames may be sealed."""

    def hello(self) -> bytes:
        """Return the first bytes to send."""

    def receive(self, data: bytes) -> list[bytes]:
        """Take bytes; return the frames that are whole. Raises ``Rejected``."""

    def seal(self, frame: bytes) -> bytes:
        """Return the bytes to send for a frame."""


SealMaker = Callable[[bool], FrameSeal]
"""Makes the seal of one stream; called with whether this side opened it."""


class Receiver(Protocol):
    """Who is told what arrives."""

    def on_datagram(self, data: bytes, source: str) -> None:
        """Take one datagram. ``source`` is where it came from, ``host:port``."""

    def on_frame(self, stream: Any, frame: bytes) -> None:
        """Take the one frame of a stream; ``answer`` or ``refuse`` it, now or later."""


class Transport(Protocol):
    """Datagrams and exchanges at one address."""

    counters: Counter[str]
    """What was sent, received, dropped and refused, by name."""

    async def start(self, listen: str, receiver: Receiver) -> str:
        """Listen at ``host:port`` (port 0: any free one); return the address that is bound.

        Raises ``TransportError`` where that is impossible.
        """

    def send(self, address: str, data: bytes) -> None:
        """Send one datagram, which may be lost without a word."""

    async def exchange(self, address: str, frame: bytes, timeout_us: int) -> Exchanged:
        """Open a stream, send one frame, take one answer. Raises nothing but cancellation."""

    def answer(self, stream: Any, frame: bytes) -> None:
        """Send the answer on a stream that was told to the receiver, and end it."""

    def refuse(self, stream: Any) -> None:
        """End such a stream without an answer."""

    async def close(self) -> None:
        """Stop listening and end every stream. Idempotent."""


def split_address(address: str) -> tuple[str, int]:
    """Split ``host:port`` or ``[ipv6]:port``. Raises ``TransportError``."""
    host, colon, digits = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if not _is_ipv6(host):
            host = ""
    elif ":" in host or any(map(str.isspace, host)):
        host = ""
    # No more than five digits are ever looked at: the text may come from anywhere.
    whole = digits.isascii() and digits.isdigit() and len(digits) <= 5 and int(digits) <= 65_535
    if not (colon and host and whole):
        raise TransportError(
            f"{address[:80]!r} is not HOST:PORT", hint="an IPv6 address goes in brackets"
        )
    return host, int(digits)


def format_address(host: str, port: int) -> str:
    """Return ``host:port``, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _is_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host.partition("%")[0])
    except ValueError:
        return False
    return True
