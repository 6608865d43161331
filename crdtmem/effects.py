"""What a pure machine asks the world to do, and the order in which it must be done.

The order is the contract, and it is the whole durability story:

1. ``Persist(flight)`` comes alone. Until the machine has been told
   ``persisted(flight)``, nothing that the flight holds is visible to any
   reader, sent to any peer, notified or acknowledged.
2. What ``persisted`` returns is then carried out in list order: ``Notify``
   before the ``Send``s, ``Reply`` last. A crash between any two of these is
   harmless: the flight is durable, and peers ask for what they miss.
3. After ``persist_failed`` the flight is gone as if it had never been staged;
   its transactions are answered with the error; the store is reopened and read
   back before another sequence is allocated.

A runtime carries out effects in list order; the simulator does too, and may
crash between any two. The form follows etcd/raft's ``Ready`` and foca's runtime.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crdtmem.errors import CrdtmemError

if TYPE_CHECKING:
    from crdtmem.batch import Batch
    from crdtmem.flight import Flight

__all__ = [
    "Alarm",
    "Disconnect",
    "Effect",
    "FindEvidence",
    "Notify",
    "Persist",
    "ReadLog",
    "Rederive",
    "Reply",
    "Retire",
    "Send",
    "SetTimer",
]


@dataclass(frozen=True, slots=True)
class Persist:
    """Write the flight's batches and metadata in one durable commit, then say how it went."""

    flight: Flight


@dataclass(frozen=True, slots=True)
class Notify:
    """Published batches, in publication order, for subscribers; none where a state was joined."""

    batches: list[Batch]


@dataclass(frozen=True, slots=True)
class Reply:
    """The outcome of a command: ``result``, or the ``error`` that refused it."""

    ticket: Any
    result: Any = None
    error: CrdtmemError | None = None


@dataclass(frozen=True, slots=True)
class Send:
    """Send one frame to a peer's stream."""

    peer: Any
    frame: bytes


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Close a peer's stream, for the reason given."""

    peer: Any
    error: CrdtmemError


@dataclass(frozen=True, slots=True)
class ReadLog:
    """Read stored batches for a peer's request; answer with ``log_read``.

    ``request`` is opaque; ``replica``, ``first`` and ``last`` name sequences.
    """

    request: Any
    replica: int
    first: int
    last: int
    limit_bytes: int


@dataclass(frozen=True, slots=True)
class Rederive:
    """Rebuild the state from the store and compare; answer with ``rederived``.

    Where the published state was wrong, it is replaced before the answer.
    """

    request: Any


@dataclass(frozen=True, slots=True)
class FindEvidence:
    """Find the stored batches that supersede any of these dots; answer ``evidence_found``."""

    request: Any
    dots: frozenset[int]


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Call ``handle_timeout`` at that time (microseconds), or sooner."""

    at_us: int


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something that an operator must see: a stable name and what it means."""

    name: str
    message: str
    details: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Retire:
    """Mark the store durably: its replica id is not to be used again.

    At the next start a new id is drawn, and what lies beyond ``cuts`` (replica to
    last valid sequence) is set aside, to be listed and rescued.
    """

    reason: str
    cuts: dict[int, int]


Effect = (
    Persist
    | Notify
    | Reply
    | Send
    | Disconnect
    | ReadLog
    | SetTimer
    | Alarm
    | Retire
    | Rederive
    | FindEvidence
)
