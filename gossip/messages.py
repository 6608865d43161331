"""What members say to each other: plain values, without any encoding.

Problem: news about members must be ordered without clocks, so that whoever hears it, in
whatever order, ends with the same table.

Idea: a member is a 64-bit id that is never reused. It counts its own starts in a
*generation*, persisted before it is used, and its refutations in an *incarnation*. News is
ordered by (generation, incarnation, state), states by ``State``: of two things said of the
same life, the worse wins, and only the member itself can answer with a higher incarnation.
``LEFT`` ends a generation: only a new start brings the member back, or its own denial.

Invariants: a ``Record`` is authored by its member only; everything else is hearsay.

Source: SWIM, section 4.2; the generation is chitchat's, the record's shape this project's.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

__all__ = [
    "Ack",
    "Alive",
    "Channel",
    "Coordinate",
    "Dead",
    "Message",
    "Nack",
    "Packet",
    "Ping",
    "PingRequest",
    "Profile",
    "Record",
    "Referral",
    "Stamp",
    "State",
    "Suspect",
    "User",
]


class State(IntEnum):
    """What is believed of a member; of one life the higher wins."""

    ALIVE = 0
    SUSPECT = 1
    DEAD = 2
    LEFT = 3


class Stamp(NamedTuple):
    """Which life of a member, and which word of it: ordered like news."""

    member: int
    generation: int
    incarnation: int


@dataclass(frozen=True, slots=True)
class Profile:
    """What a member says of itself, within ``Config.profile_bytes`` when encoded.

    ``gossip_address`` takes datagrams and streams of the mesh; ``stream_address`` is where the
    layer above takes its peers' streams (empty where it takes none); both are ``host:port``.
    ``protocols`` is the lowest and highest version of the layer above; ``keys`` are the ids of
    the keys that it holds, the one it seals with first; ``extra`` is anything else.
    """

    name: str
    region: str
    gossip_address: str
    stream_address: str = ""
    protocols: tuple[int, int] = (1, 1)
    software: str = ""
    keys: tuple[int, ...] = ()
    extra: bytes = b""


@dataclass(frozen=True, slots=True)
class Record:
    """A member's own word about itself."""

    member: int
    generation: int
    incarnation: int
    profile: Profile

    @property
    def stamp(self) -> Stamp:
        """The life and word that this record is."""
        return Stamp(self.member, self.generation, self.incarnation)


@dataclass(frozen=True, slots=True)
class Coordinate:
    """A place in the space of round-trip times (Vivaldi), in seconds; see ``coordinates``."""

    vector: tuple[float, ...]
    height: float
    error: float


@dataclass(frozen=True, slots=True)
class Ping:
    """Are you there? ``target`` is the member meant, 0 for whoever is at that address.

    ``sequence`` is drawn at random, so that only who has seen the ping can answer it.
    ``reply_to`` is where the answer goes; ``sent_us`` the sender's wall clock.
    """

    sequence: int
    target: int
    reply_to: str
    sent_us: int
    annotation: bytes = b""


@dataclass(frozen=True, slots=True)
class Ack:
    """I am. ``heard_us`` and ``sent_us`` are the answerer's wall clock, 0 where it was relayed."""

    sequence: int
    stamp: Stamp
    heard_us: int
    sent_us: int
    coordinate: Coordinate | None = None
    annotation: bytes = b""


@dataclass(frozen=True, slots=True)
class Nack:
    """I asked in your stead and had no answer yet; so I at least am here (Lifeguard)."""

    sequence: int


@dataclass(frozen=True, slots=True)
class PingRequest:
    """Probe ``target`` at ``address`` in my stead, and send what it says to ``reply_to``."""

    sequence: int
    target: int
    address: str
    reply_to: str


@dataclass(frozen=True, slots=True)
class Alive:
    """A member's record, passed on."""

    record: Record


@dataclass(frozen=True, slots=True)
class Suspect:
    """``accuser`` had no answer of that life."""

    stamp: Stamp
    accuser: int


@dataclass(frozen=True, slots=True)
class Dead:
    """That life is over: ``accuser`` gave up waiting; or it left, where it says so itself."""

    stamp: Stamp
    accuser: int

    @property
    def left(self) -> bool:
        """Whether it is the member's own farewell."""
        return self.accuser == self.stamp.member


class Channel(IntEnum):
    """Whom a broadcast payload is for; all channels of an origin share its numbers."""

    USER = 0
    KEYS = 1
    VIEWS = 2


@dataclass(frozen=True, slots=True)
class User:
    """A payload from ``origin``, who numbers its own, from 1, in each generation.

    On channel ``USER`` it is the layer above's; the others are the mesh's own.
    """

    origin: int
    generation: int
    number: int
    payload: bytes
    channel: Channel = Channel.USER


@dataclass(frozen=True, slots=True)
class Referral:
    """You knocked at another pool's door; of yours I know these addresses (at most eight)."""

    region: str
    addresses: tuple[str, ...]


Message = Ping | Ack | Nack | PingRequest | Alive | Suspect | Dead | User | Referral


@dataclass(frozen=True, slots=True)
class Packet:
    """One datagram's content: who sends it, the hash of its table, and messages.

    ``pool`` names the pool by a short tag: a region's, or the wide area's.
    """

    pool: str
    sender: Stamp
    table_hash: int
    messages: tuple[Message, ...]
