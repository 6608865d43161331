"""What the mesh asks of the world, in the order in which it must happen.

Idea: the protocol is a pure machine; each input returns a list of these, and a driver
(asyncio, or a simulator) carries them out in list order. There is no timer effect: after
every input the driver asks ``next_deadline_us``.

The form follows foca's runtime (caio) and etcd/raft's ``Ready``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gossip.messages import Channel, Record, State

__all__ = [
    "Annotated",
    "Answer",
    "Deliver",
    "Effect",
    "Exchange",
    "KeyringChanged",
    "MemberChanged",
    "Outlived",
    "Remember",
    "SendDatagram",
    "Warn",
]


@dataclass(frozen=True, slots=True)
class SendDatagram:
    """Send one datagram; it may be lost. ``address`` is ``host:port``, the host perhaps a name."""

    address: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Exchange:
    """Open a stream, send one frame, take one answer; tell ``exchanged(number, …)`` within
    ``timeout_us``, whatever happens, once."""

    number: int
    address: str
    frame: bytes
    timeout_us: int


@dataclass(frozen=True, slots=True)
class Answer:
    """Send the one answer on the stream whose frame was given to ``receive_stream``, and end it."""

    stream: Any
    frame: bytes


@dataclass(frozen=True, slots=True)
class MemberChanged:
    """A member is new, changed its state, or changed what it says of itself.

    ``previous`` is ``None`` for one that was not known. ``gone`` says that it was reaped or
    forgotten: it is no longer listed.
    """

    record: Record
    state: State
    previous: State | None
    gone: bool = False


@dataclass(frozen=True, slots=True)
class Annotated:
    """A member's annotation is not what it was: it came on a probe or an answer of its own."""

    member: int
    annotation: bytes


@dataclass(frozen=True, slots=True)
class Deliver:
    """A payload that ``origin`` broadcast, once per member and payload (best effort).

    A pool hands over what came on every channel; a node only what is the layer above's.
    """

    origin: int
    payload: bytes
    channel: Channel = Channel.USER


@dataclass(frozen=True, slots=True)
class Outlived:
    """A life of one's own id is over that was later than one's own, or equal and lived elsewhere:
    whoever knows of it refuses this one.

    Begin again above ``generation``, as ``succession.Succession`` says, once that is durable. Where
    it is not ``over``, it was heard of just now as one that goes on, elsewhere.
    """

    generation: int
    over: bool = True


@dataclass(frozen=True, slots=True)
class Remember:
    """Keep these bytes durably when convenient; give them back at the next start."""

    peers: bytes


@dataclass(frozen=True, slots=True)
class KeyringChanged:
    """Keep the key ring (``Keyring.dump``) durably, and readable by its owner only."""

    dump: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Warn:
    """Something that an operator should see: a stable name, a sentence, plain details."""

    name: str
    message: str
    details: dict[str, Any] = field(default_factory=dict)


Effect = (
    SendDatagram
    | Exchange
    | Answer
    | MemberChanged
    | Outlived
    | Annotated
    | Deliver
    | Remember
    | KeyringChanged
    | Warn
)
