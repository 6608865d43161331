"""The messages with which replicas meet, exchange batches and compare, every field checked.

Problem: a peer's bytes must not reach a state machine before their shape is
certain, and two versions of this program must be able to talk while a cluster
is being upgraded.

Idea: a message is a frozen dataclass with a code, a method that gives its
fields as plain values, and one that takes them back and checks each. The table
of all messages is ``frames.MESSAGES``. Codes from ``OPTIONAL_FROM`` on are
optional by agreement: who does not know one skips it, so that a minor version
may add some.

Invariants: ``parse`` returns a message whose every field has its stated type and
range, or raises ``ValueError`` or ``TypeError``; vectors and ranges are in their
canonical form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Final, Self

from crdtmem.causality import VersionVector
from crdtmem.message_shapes import (
    Message,
    array,
    byte_string,
    byte_strings,
    check,
    dot_range,
    flat,
    number,
    pair,
    positive,
    sized,
    text,
    vector_in,
)

__all__ = [
    "MAGIC",
    "OPTIONAL_FROM",
    "Acknowledge",
    "Batches",
    "Credit",
    "Digest",
    "Evicted",
    "Gap",
    "Hears",
    "Hello",
    "Hurry",
    "Ping",
    "Pong",
    "Prune",
    "Refuse",
    "Request",
]

MAGIC: Final = "crdtmem"
OPTIONAL_FROM: Final = 64

# ------------------------------------------------------------------ meeting


@dataclass(frozen=True, slots=True)
class Hello(Message):
    """The first message of either side: who speaks, what it can, and what it has.

    ``versions`` is the lowest and highest protocol version; ``cluster_id`` 0 while
    not founded; ``boot`` counts the starts of this store; ``hashes`` holds, per
    replica of ``vector``, the hash of its last batch; ``credit_bytes`` is what the
    other may send before more is granted; ``address`` where others may connect;
    ``peers`` how many peers are configured.
    """

    CODE: ClassVar[int] = 1

    cluster: str
    cluster_id: int
    versions: tuple[int, int]
    replica: int
    node: str
    region: str
    boot: int
    vector: VersionVector
    hashes: dict[int, bytes]
    credit_bytes: int
    address: str = ""
    predecessor: int = 0
    predecessor_last: int = 0
    peers: int = 0

    def body(self) -> tuple[Any, ...]:
        """Return the magic word, then the fields; hashes in the order of the vector."""
        return (
            MAGIC,
            self.versions,
            self.cluster,
            self.cluster_id,
            self.replica,
            self.node,
            self.region,
            self.boot,
            self.vector.flat(),
            [self.hashes.get(replica, b"") for replica in sorted(self.vector)],
            self.credit_bytes,
            self.address,
            self.predecessor,
            self.predecessor_last,
            self.peers,
        )

    @classmethod
    def parse(cls, parts: tuple[Any, ...]) -> Self:
        """Check; fields that a later version appends are ignored, so that it may add some."""
        magic, versions, cluster, cluster_id, replica, node, region, boot, *rest = parts
        vector, hashes, credit_bytes, address, predecessor, predecessor_last = rest[:6]
        (peers,) = rest[6:7] or (0,)
        check(magic == MAGIC, "the magic word")
        lowest, highest = versions
        check(0 < number(lowest) <= number(highest), "the versions")
        covered = vector_in(vector)
        check(len(array(hashes)) == len(covered), "the hashes")
        check(all(len(byte_string(item)) in (0, 16) for item in hashes), "the hashes")
        named = zip(sorted(covered), hashes, strict=True)
        return cls(
            text(cluster),
            number(cluster_id),
            (lowest, highest),
            positive(replica),
            text(node),
            text(region),
            number(boot),
            covered,
            {name: item for name, item in named if item},
            number(credit_bytes),
            text(address),
            number(predecessor),
            number(predecessor_last),
            number(peers),
        )


@dataclass(frozen=True, slots=True)
class Refuse(Message):
    """The stream is closed, and why: the code and words of an error."""

    CODE: ClassVar[int] = 2

    code: str
    message: str

    @classmethod
    def parse(cls, parts: tuple[Any, ...]) -> Self:
        """Check the fields."""
        code, message = parts
        return cls(text(code), text(message))


@dataclass(frozen=True, slots=True)
class Evicted(Message):
    """The receiver has been evicted; dots beyond ``cut`` are not taken from it."""

    CODE: ClassVar[int] = 11

    cut: int

    @classmethod
    def parse(cls, parts: tuple[Any, ...]) -> Self:
        """Check the field."""
        (cut,) = parts
        return cls(number(cut))


@dataclass(frozen=True, slots=True)
class Ping(Message):
    """Asks for a ``Pong``; ``sent_us`` is the sender's clock."""

    CODE: ClassVar[int] = 9

    sent_us: int

    @classmethod
    def parse(cls, parts: tuple[Any, ...]) -> Self:
        """Check the field."""
        (sent_us,) = parts
        return cls(number(sent_us))


@dataclass(frozen=True, slots=True)
class Pong(Message):
    """The ping's ``sent_us``, and the answerer's own clock at that moment."""

    CODE: ClassVar[int] = 10

    sent_us: int
    clock_us: int

    @classmethod
    def parse(cls, parts: tuple[Any, ...]) -> Self:
        """Check the fields."""
        sent_us, clock_us = parts
        return cls(number(sent_us), number(clock_us))


# ------------------------------------------------------------------ batches


@dataclass(frozen=True, slots=True)
class Batches(Message):
    """Encoded batches, as they were written; takes credit."""

    CODE: ClassVar[int] = 3

    batches: tuple[bytes, ...]

    def body(self) -> tuple[Any, ...]:
        """Return the list."""
        return (self.batches,)

    @classmethod
    def parse(cls, parts: tuple[Any, ...]) -> Self:
        """Check the list; what is in a batch is checked when it is decoded."""
        (batches,) = parts
        return cls(byte_strings(batches))


@dataclass(frozen=True, slots=True)
class Acknowledge(Message):
    """What the sender has durably joined since it last said so, and what others told it."""

    CODE: ClassVar[int] = 4

    changed: VersionVector
    relayed: dict[int, VersionVector]

    def body(self) -> tuple[Any, ...]:
        """Return both as flat lists."""
        others = [[replica, flat(self.relayed[replica])] for replica in sorted(self.relayed)]
        return self.changed.flat(), others

    @classmethod
    def parse(cls, parts: tuple[Any, ...]) -> Self:
        """Check both."""
        changed, relayed = parts
        pairs = [pair(item) for item in array(relayed)]
        others = {positive(replica): vector_in(flat) for replica, flat in pairs}
        return cls(vector_in(changed), others)


@dataclass(frozen=True, slots=True)
class Request(Message):
    """Asks for batches: ``(replica, first sequence, last sequence)`` each."""

    CODE: ClassVar[int] = 5

    ranges: tuple[tuple[int, int, int], ...]

    @classmethod
    def parse(cls, parts: tuple[Any, ...]) -> Self:
        """Check the ranges."""
        (ranges,) = parts
        return cls(tuple([dot_range(item) for item in array(ranges)]))


@dataclass(frozen=True, slots=True)
class Gap(Message):
    """The answer to a request below the log: it begins at ``floor`` for that replica."""

    CODE: ClassVar[int] = 6

    replica: int
    floor: int

    @classmethod
    def parse(cls, parts: tuple[Any, ...]) -> Self:
        """Check the fields."""
        replica, floor = parts
        return cls(positive(replica), number(floor))


@dataclass(frozen=True, slots=True)
class Credit(Message):
    """The receiver may send so many bytes more."""

    CODE: ClassVar[int] = 7

    granted_bytes: int

    @classmethod
    def parse(cls, parts: tuple[Any, ...]) -> Self:
        """Check the field."""
        (granted_bytes,) = parts
        return cls(positive(granted_bytes))


@dataclass(frozen=True, slots=True)
class Digest(Message):
    """The hash of the sender's vector, and the digest of its live dots at that vector.

    ``tips_hash`` tells whether equal vectors stand for the same deltas.
    """

    CODE: ClassVar[int] = 8

    vector_hash: bytes
    digest: bytes
    tips_hash: bytes

    @classmethod
    def parse(cls, parts: tuple[Any, ...]) -> Self:
        """Check the fields."""
        vector_hash, digest, tips_hash = parts
        return cls(sized(vector_hash, 8), sized(digest, 16), sized(tips_hash, 8))


# ------------------------------------------------------------------ optional


@dataclass(frozen=True, slots=True)
class Hurry(Message):
    """Somebody waits at the sender for what others have: it is to be told without delay."""

    CODE: ClassVar[int] = 64


@dataclass(frozen=True, slots=True)
class Hears(Message):
    """Whose acknowledgements the sender now hears itself, and whose no longer.

    What it hears itself need not be passed on to it.
    """

    CODE: ClassVar[int] = 65

    gained: frozenset[int]
    lost: frozenset[int]

    def body(self) -> tuple[Any, ...]:
        """Return both in ascending order."""
        return sorted(self.gained), sorted(self.lost)

    @classmethod
    def parse(cls, parts: tuple[Any, ...]) -> Self:
        """Check both lists."""
        gained, lost = parts
        return cls(frozenset(map(positive, array(gained))), frozenset(map(positive, array(lost))))


@dataclass(frozen=True, slots=True)
class Prune(Message):
    """Whose deltas the receiver shall no longer pass on to the sender unasked.

    They come to it another way. A ``Request`` for some of them takes that back.
    """

    CODE: ClassVar[int] = 66

    origins: frozenset[int]

    def body(self) -> tuple[Any, ...]:
        """Return them in ascending order."""
        return (sorted(self.origins),)

    @classmethod
    def parse(cls, parts: tuple[Any, ...]) -> Self:
        """Check the list."""
        (origins,) = parts
        return cls(frozenset(map(positive, array(origins))))
