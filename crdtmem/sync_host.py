"""What synchronisation needs of the replica that it serves, and its settings.

Problem: synchronisation reads the published state, offers batches, and installs
snapshots, but it must not be able to reach past the order of effects.

Idea: a narrow protocol, implemented by the engine (and by a small host in the
tests). Everything read through it is *published*: durable and visible. Whatever
changes the state goes through the host, which turns it into a flight.

Invariants: the host calls ``Sync.published`` after every published flight, the
installed ones included; its vector never goes back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from crdtmem.batch import Batch
from crdtmem.causality import VersionVector
from crdtmem.effects import Effect
from crdtmem.inbox import Verdict
from crdtmem.install import Installation
from crdtmem.limits import Limits
from crdtmem.messages import Hello
from crdtmem.snapshot import SnapshotHeader
from crdtmem.table import State

__all__ = ["DEFAULT_SYNC", "PROTOCOL_VERSIONS", "StoredBatch", "SyncConfig", "SyncHost"]

PROTOCOL_VERSIONS: Final = (1, 1)
"""The lowest and highest version of the protocol that this program speaks."""

_MS: Final = 1_000
_SECOND: Final = 1_000_000
_KIB: Final = 1_024
_MIB: Final = 1_024 * 1_024


@dataclass(frozen=True, slots=True)
class SyncConfig:
    """How synchronisation spends time and bytes. Times are microseconds.

    ``credit_bytes``: what a peer may send before more is granted; at least two of
    the largest batches. ``read_bytes``: how much of the log one read returns.
    ``acknowledge_us``: the least time between two acknowledgements to one peer where somebody
    waits for them; ``unhurried_us``: where nobody does; ``hurry_us``: how long a peer that asked
    for haste has it. ``relayed_us``: between two tellings of what others have acknowledged;
    ``relayed_number_us``: the more of it was told, the longer. ``transfer_us``: how long a
    transfer may stand still.
    ``relay_us``: how long another peer's news may take to come directly before
    they are asked for. ``push_us``: how long what the origin itself pushes may
    stay without progress before it is asked for. ``request_us``: how long a
    request may stay without progress before another peer is asked.
    ``digest_us``: between two comparisons. ``ping_us`` and ``silence_us``: how
    often a quiet stream is probed, and when it is given up. ``hello_us``: how
    long a stranger may take to introduce itself. ``reconcile_from``: entries on
    both sides from which only the difference is transferred. ``capture_bytes``:
    published batches that a slow snapshot may fall behind. ``transfers``: how many may go out
    at a time. ``chunk_entries`` and ``turn_bytes``: what is captured at once, and
    what one turn sends before others have theirs. ``repair_dots``: how many dots one
    round of repair settles.
    """

    credit_bytes: int = 8 * _MIB
    read_bytes: int = 256 * _KIB
    acknowledge_us: int = 10 * _MS
    unhurried_us: int = 250 * _MS
    hurry_us: int = 2 * _SECOND
    relayed_us: int = _SECOND
    relayed_number_us: int = 2 * _MS
    relay_us: int = 50 * _MS
    push_us: int = 2 * _SECOND
    request_us: int = 10 * _SECOND
    digest_us: int = 5 * _SECOND
    ping_us: int = 5 * _SECOND
    silence_us: int = 20 * _SECOND
    hello_us: int = 10 * _SECOND
    transfer_us: int = 30 * _SECOND
    reconcile_from: int = 10_000
    capture_bytes: int = 32 * _MIB
    transfers: int = 4
    chunk_entries: int = 1_000
    turn_bytes: int = 64 * _KIB
    repair_dots: int = 256


DEFAULT_SYNC: Final = SyncConfig()


class StoredBatch(Protocol):
    """A batch as a store's log returns it."""

    @property
    def first_sequence(self) -> int:
        """The sequence of its first delta."""

    @property
    def last_sequence(self) -> int:
        """The sequence of its last delta."""

    @property
    def data(self) -> bytes:
        """Its bytes."""


class SyncHost(Protocol):
    """The replica as synchronisation sees it."""

    @property
    def limits(self) -> Limits:
        """The limits that bind frames and batches."""

    @property
    def state(self) -> State:
        """The published state; read only, and only within one call."""

    @property
    def replica_id(self) -> int:
        """This replica's id."""

    @property
    def tips(self) -> Mapping[int, tuple[int, bytes]]:
        """Per replica the last published sequence, and the hash of its batch."""

    @property
    def fenced(self) -> Mapping[int, str]:
        """The replicas of which nothing more is taken, for they wrote two histories, and why."""

    @property
    def cluster_id(self) -> int:
        """The cluster's id, 0 while it is not founded here."""

    @property
    def newcomer(self) -> bool:
        """Whether this replica waits for its admission: see ``sync_newcomer``."""

    def hello(self, credit_bytes: int) -> Hello:
        """Return this replica's introduction, with its published vector and tips."""

    def decode(self, data: bytes) -> Batch:
        """Decode a batch; raises ``MalformedFrame``."""

    def offer(self, batch: Batch) -> tuple[Verdict, list[Effect]]:
        """Offer a batch; it is published by a later flight if it was accepted."""

    def take_through(self, replica: int) -> int:
        """Return the highest sequence of a replica that may be taken: its cut, or what a
        fence left; a very large number for most.
        """

    def acknowledge(self, replica: int, vector: Mapping[int, int], now_us: int) -> list[Effect]:
        """Note that a replica has durably joined ``vector``."""

    def acknowledged(self) -> Mapping[int, VersionVector]:
        """Return the durable vectors known of members, for relaying."""

    def eviction_cut(self, replica: int) -> int | None:
        """Return the cut of an evicted replica, ``None`` for any other."""

    def greeted(self, hello: Hello, now_us: int, *, dialled: bool) -> list[Effect]:
        """A peer was met, and is fit to talk to; ``dialled`` tells whether we sought it."""

    def identity_questioned(self, peer: int, sequence: int, reason: str) -> list[Effect]:
        """A peer holds something under our id that we did not write: we are a copy."""

    def yields_to(self, peer: int, less: bool) -> bool:
        """Tell whether this node, not the peer, begins again where the two hold two histories.

        ``less`` says whether it would among equals; who is no member yet always does.
        """

    def fork_lost(self, replica: int, peer: int) -> list[Effect]:
        """Begin again without our history of ``replica``: the peer's is to stay."""

    def told_evicted(self, peer: int, cut: int) -> list[Effect]:
        """A peer says that this replica has been evicted, with its last valid sequence."""

    def snapshot_header(self) -> SnapshotHeader:
        """Return what a snapshot of the published state must say of itself."""

    def install(self, installation: Installation, now_us: int) -> list[Effect]:
        """Join an installation through a flight of its own."""

    def rederive(self, request: Any) -> list[Effect]:
        """Rebuild the state from the store and compare, then call ``Sync.rederived``.

        Where the published state was wrong, it is replaced before that call.
        """

    def find_evidence(self, request: Any, dots: Iterable[int]) -> list[Effect]:
        """Search the log for batches that supersede these dots; ``Sync.evidence_found``."""
