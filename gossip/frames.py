"""What members say over streams: one frame asks, one frame answers; plain values.

Problem: tables, views and key rings do not fit into datagrams, and comparing them must cost
next to nothing where they are equal, which is nearly always.

Idea: a comparison starts with a hash; only where it differs a summary of stamps is sent, and
then only the records that differ.

    asks            is answered by
    ``Compare``     ``Summary``: empty, with an empty ring, where both hashes are equal
    ``Records``     ``Records``: those that were wanted
    ``PingFrame``   ``AckFrame``: the answerer's own record, which thereby proves it
    ``ViewRequest`` ``View``
    any             ``Referral``, at the wrong pool's door

Invariant: every frame says who sends it, of which life, for which pool.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from gossip.messages import Ack, Ping, Record, Referral, Stamp, State

__all__ = [
    "AckFrame",
    "Announcement",
    "Body",
    "Compare",
    "Frame",
    "PingFrame",
    "Records",
    "Summary",
    "View",
    "ViewRequest",
]


@dataclass(frozen=True, slots=True)
class Compare:
    """Do our tables and key rings differ? ``ring_hash`` is 0 where nothing is sealed."""

    table_hash: int
    ring_hash: int = 0


@dataclass(frozen=True, slots=True)
class Summary:
    """All that the answerer holds, without profiles, where the tables differ; else nothing.

    ``table_hash`` is the answerer's; ``ring`` its key ring (``Keyring.state``) where that
    differs.
    """

    table_hash: int
    entries: tuple[tuple[Stamp, State], ...] = ()
    ring: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Records:
    """Records that the other lacks or holds an older word of, and the members ``wants``
    whose records should come back. ``ring`` is the sender's key ring where they differ."""

    entries: tuple[tuple[Record, State], ...] = ()
    wants: tuple[int, ...] = ()
    ring: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class PingFrame:
    """A probe where datagrams may be blocked; or the question for a member's own record."""

    ping: Ping


@dataclass(frozen=True, slots=True)
class AckFrame:
    """The answer to a ``PingFrame``, with the answerer's record at first hand."""

    ack: Ack
    record: Record


@dataclass(frozen=True, slots=True)
class ViewRequest:
    """What has changed in ``region`` since number ``since`` of that author's life?

    ``author`` and ``generation`` are 0, and ``since`` too, where no view is held.
    """

    region: str
    author: int = 0
    generation: int = 0
    since: int = 0


@dataclass(frozen=True, slots=True)
class View:
    """A region as its gateway ``author`` sees it, numbered within its ``generation``.

    ``since`` 0 is a whole view; otherwise ``entries`` are the changes after that number, and
    ``gone`` the members no longer listed. ``view_hash`` is that of the whole view.
    """

    region: str
    author: int
    generation: int
    number: int
    since: int
    view_hash: int
    entries: tuple[tuple[Record, State], ...] = ()
    gone: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Announcement:
    """A gateway's word that its view of ``region`` is at ``number``; the payload of a
    broadcast on channel ``VIEWS``, not a frame."""

    region: str
    author: int
    generation: int
    number: int
    view_hash: int


Body = Compare | Summary | Records | PingFrame | AckFrame | ViewRequest | View | Referral


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame: the pool, who sends it, and what it says."""

    pool: str
    sender: Stamp
    body: Body
