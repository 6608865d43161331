"""The epoch: who is a member, how far each is known to be, and what is therefore stable.

Problem: a replica may forget a removal, or anything else that only guards
against late arrivals, when nothing concurrent with it can still arrive. That is
a statement about every replica that may write; one member that is not counted,
or counted too early, brings the dead back to life.

Idea: members are state like any other. A newcomer is admitted by a record in
the system space that its sponsor writes, and it writes nothing before it has
joined that record. So whatever a newcomer writes comes causally after all that
its sponsor had joined when it admitted it: a dot that was stable without the
newcomer stays stable with it.

A dot is *stable* here when every member *j* has acknowledged a durable vector
``W_j`` that covers it, and this replica has published *j*'s own deltas up to
``W_j[j]``. The second half matters: *j* may have written something concurrent
just before it joined the dot, and that something may still be on its way. So an
acknowledgement counts only once its own part has arrived. Until then it waits,
with the one that counted last in its place; and since a busy member's newest
acknowledgement may always be ahead of us, the *first* that waits is kept until
it counts, whatever comes after it.

Proof of ``W_j`` comes from acknowledgement frames, direct or relayed, and from
batches: one of *j* shows that *j* had durably joined what it depends on.

Invariants: no counted vector's own part is beyond what is published here; what
was stable once is never taken back; a member being evicted is counted until its
cut is final (see ``eviction``).

Causal stability is Baquero, Almeida & Shoker, "Pure Operation-based Replicated
Data Types"; admission by an ordinary write follows the epochs of group
communication (Birman & Joseph, virtual synchrony) without their blocking.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from crdtmem.batch import BatchHeader
from crdtmem.causality import VersionVector
from crdtmem.entries import SEQUENCE_BITS, Entry, as_siblings
from crdtmem.errors import ConditionFailed, LimitExceeded
from crdtmem.limits import DEFAULT_LIMITS
from crdtmem.policy import SYSTEM_SPACE
from crdtmem.table import State
from crdtmem.transaction import Operation

__all__ = [
    "MEMBER_PREFIX",
    "REGISTER",
    "Epoch",
    "Member",
    "admission_operations",
    "canonical",
    "founding_operations",
    "replica_of_key",
    "replica_text",
    "system_entries",
]

REGISTER: Final = 1
"""The code of the datatype that membership records are."""

MEMBER_PREFIX: Final = "member:"


@dataclass(frozen=True, slots=True)
class Member:
    """One admitted replica, as its admission says.

    ``admissions`` are the dots of all records that admit it (two sponsors may
    do so at once), the first in canonical order first; the other fields are
    that one's. ``predecessor`` is the former id of a restored or copied
    replica, and ``predecessor_last`` the last sequence that it is known to have
    written under it.
    """

    replica: int
    region: str
    node: str
    sponsor: int
    cluster_id: int
    predecessor: int | None
    predecessor_last: int
    admissions: tuple[int, ...]
    order: int

    @property
    def is_founder(self) -> bool:
        """Whether it admitted itself, which only the founder of a cluster does."""
        return self.sponsor == self.replica


def replica_text(replica: int) -> str:
    """Return a replica id as its 16 hexadecimal digits."""
    return f"{replica:016x}"


def replica_of_key(key: str, prefix: str) -> int | None:
    """Return the replica that a system key is about, ``None`` for another kind of key."""
    return _replica_of(key[len(prefix) :]) if key.startswith(prefix) else None


def _replica_of(text: object) -> int | None:
    if type(text) is not str or len(text) != 16:
        return None
    try:
        return int(text, 16) or None
    except ValueError:
        return None


def canonical(entry: Entry) -> tuple[int, int]:
    """Return the sort key of the canonical order: HLC order, then dot."""
    return entry[2].order, entry[0]


def system_entries(state: State, prefix: str) -> Iterable[tuple[int, list[Entry]]]:
    """Yield each replica that has records under ``prefix``, with them in canonical order."""
    table = state.find(SYSTEM_SPACE, REGISTER)
    for key, slot in {} if table is None else table.slots.items():
        replica = replica_of_key(key, prefix) if key.startswith(prefix) else None
        if replica is not None:
            yield replica, sorted(as_siblings(slot), key=canonical)


def founding_operations(
    identity: tuple[int, str],
    node: str,
    *,
    predecessor: int | None = None,
    predecessor_last: int = 0,
) -> list[Operation]:
    """Return the first write of a cluster: its founder admits itself.

    ``identity`` is the founder's replica id and region. Its id names the cluster.
    ``predecessor`` is the former id of a store that was copied or restored on its own.
    """
    replica, region = identity
    return [_admission(replica, region, node, replica, replica, predecessor, predecessor_last)]


def admission_operations(
    epoch: Epoch,
    newcomer: int,
    region: str,
    node: str,
    *,
    predecessor: int | None = None,
    predecessor_last: int = 0,
    limit: int = DEFAULT_LIMITS.members,
) -> list[Operation]:
    """Return what a sponsor writes to admit a newcomer; nothing if it is a member already.

    Before it calls this, the sponsor makes sure that the newcomer holds nothing
    of an evicted replica beyond what the sponsor holds (``Evictions.admits``),
    and until it may write the newcomer takes batches from one member alone (see
    ``sync_newcomer``). Otherwise it could be beyond a cut at birth.

    Raises ``ConditionFailed`` when the sponsor is no member itself, and
    ``LimitExceeded`` when the epoch has ``limit`` members.
    """
    if newcomer in epoch.records:
        return []
    if epoch.own not in epoch.records or epoch.cluster_id is None:
        raise ConditionFailed(
            "only a member can admit another",
            hint="connect to a node that has joined the cluster",
        )
    if len(epoch.members) >= limit:
        raise LimitExceeded(
            f"the epoch has {len(epoch.members)} members, the limit is {limit}",
            hint="evict members that are gone for good, or raise limits.members",
        )
    return [
        _admission(
            newcomer, region, node, epoch.own, epoch.cluster_id, predecessor, predecessor_last
        )
    ]


def _admission(
    newcomer: int,
    region: str,
    node: str,
    sponsor: int,
    cluster_id: int,
    predecessor: int | None,
    predecessor_last: int,
) -> Operation:
    record: dict[str, Any] = {
        "cluster_id": replica_text(cluster_id),
        "node": node,
        "region": region,
        "sponsor": replica_text(sponsor),
    }
    if predecessor is not None:
        record["predecessor"] = replica_text(predecessor)
        record["predecessor_last"] = predecessor_last
    key = MEMBER_PREFIX + replica_text(newcomer)
    return Operation(SYSTEM_SPACE, REGISTER, key, "set", (record,))


def _member(replica: int, entries: list[Entry]) -> Member:
    """Read a record. What cannot be read still makes a member: leaving one out is unsafe."""
    dot, value, stamp = entries[0]
    record = value if type(value) is dict else {}
    region, node = record.get("region"), record.get("node")
    last = record.get("predecessor_last")
    sponsor = dot >> SEQUENCE_BITS
    return Member(
        replica,
        region if type(region) is str else "",
        node if type(node) is str else "",
        sponsor,
        _replica_of(record.get("cluster_id")) or sponsor,
        _replica_of(record.get("predecessor")),
        last if type(last) is int else 0,
        tuple(entry[0] for entry in entries),
        stamp.order,
    )


class _Progress:
    """What one member is known to have joined durably."""

    __slots__ = ("counted", "newest", "waiting")

    def __init__(self) -> None:
        self.newest = VersionVector()
        self.counted = VersionVector()
        self.waiting: VersionVector | None = None

    def advance(self, member: int, joined: int) -> None:
        """Count what may count, now that the member's deltas up to ``joined`` are published."""
        if self.newest.get(member, 0) <= joined:
            self.counted.join(self.newest)
            self.waiting = None
        elif self.waiting is None:
            self.waiting = self.newest.copy()
        elif self.waiting.get(member, 0) <= joined:
            self.counted.join(self.waiting)
            self.waiting = self.newest.copy()


class Epoch:
    """The members as one replica knows them, and what each has acknowledged.

    ``records`` holds everyone ever admitted, as far as is known here;
    ``settled`` those of them whose eviction is final, with their cuts, and
    ``leaving`` those whom this replica has promised to evict. The last two are
    kept by ``Evictions``.
    """

    def __init__(self, own: int) -> None:
        self.own = own
        self.records: dict[int, Member] = {}
        # Per key the slot that was read, and the member that it names.
        self._read: dict[str, tuple[Any, Member]] = {}
        self.settled: dict[int, int] = {}
        self.leaving: frozenset[int] = frozenset()
        # Whether more is known of acknowledgements than was kept: see ``kept_acknowledgements``.
        self.has_news = False
        self._progress: dict[int, _Progress] = {}
        self._stable = VersionVector()

    # ------------------------------------------------------------------ members

    def refresh(self, state: State) -> bool:
        """Read the members from the system space again; return whether they changed."""
        table = state.find(SYSTEM_SPACE, REGISTER)
        known, read = self._read, {}
        for key, slot in {} if table is None else table.slots.items():
            if not key.startswith(MEMBER_PREFIX):
                continue
            held = known.get(key)
            if held is not None and held[0] is slot:
                # Slots are never changed in place: what was read of this one still holds.
                read[key] = held
                continue
            replica = replica_of_key(key, MEMBER_PREFIX)
            if replica is not None:
                entries = sorted(as_siblings(slot), key=canonical)
                read[key] = (slot, _member(replica, entries))
        self._read = read
        records = {member.replica: member for _, member in read.values()}
        changed = records != self.records
        self.records = records
        return changed

    @property
    def members(self) -> frozenset[int]:
        """Everyone admitted, but those whose eviction is final."""
        return frozenset(self.records.keys() - self.settled.keys())

    @property
    def is_member(self) -> bool:
        """Whether this replica has joined its own admission, and so may write."""
        return self.own in self.records

    @property
    def cluster_id(self) -> int | None:
        """The founder's replica id, ``None`` before any admission was joined."""
        own = self.records.get(self.own)
        if own is not None:
            return own.cluster_id
        return min((member.cluster_id for member in self.records.values()), default=None)

    def lowest_live_member(self) -> int | None:
        """Return the member that collects: the lowest id that nobody here gives up.

        Views may differ for a while, so two may collect at once: that is harmless.
        """
        return min(self.members - self.leaving, default=None)

    def region_of(self, replica: int) -> str:
        """Return a member's region, empty where it is not known."""
        member = self.records.get(replica)
        return "" if member is None else member.region

    def regions(self) -> frozenset[str]:
        """Return the regions in which members stand that are not on their way out."""
        return frozenset(self.records[replica].region for replica in self.members - self.leaving)

    def established(self) -> frozenset[int]:
        """Return the members whose admission is stable here: nobody is unaware of them.

        As of the last call of ``stable_vector``, as in ``is_stable`` and ``successor``.
        The founder's is always, for everything in the cluster follows it.
        """
        covers = self._stable.covers
        return frozenset(
            replica
            for replica, member in self.records.items()
            if member.is_founder or any(covers(dot) for dot in member.admissions)
        )

    def successor(self, origin: int, sequence: int = 0) -> int | None:
        """Return the one replica that may rescue a lost dot of ``origin``, once it is certain.

        Of those whose admission names ``origin`` as a former id, directly or through
        others, only who had written that far under it holds the dot (a copy may hold
        less), and of these the first in canonical order; certain when that admission is
        stable, so that no earlier claim can still arrive. Where none had, as after damage
        to a disk, it is whoever had most; where nobody claims an id whose eviction is final,
        whoever holds it: what each origin dot led to is marked, so nothing is written twice.
        """
        claims = []
        for replica, member in self.records.items():
            last = None if replica in self.settled else self._last_as(replica, origin)
            if last is not None:
                missing = max(0, sequence - last)
                claims.append((missing, member.order, member.admissions[0], replica))
        if not claims:
            held = origin in self.settled and self.own in self.established()
            return self.own if held else None
        _, _, dot, replica = min(claims)
        return replica if self._stable.covers(dot) else None

    def _last_as(self, replica: int, origin: int) -> int | None:
        """Return how much a replica had written as ``origin``, ``None`` if it never was that."""
        passed: set[int] = set()
        member = self.records.get(replica)
        while member is not None and member.predecessor is not None and replica not in passed:
            if member.predecessor == origin:
                return member.predecessor_last
            passed.add(replica)
            replica = member.predecessor
            member = self.records.get(replica)
        return None

    # ------------------------------------------------------------------ acknowledgements

    def note_batch(self, header: BatchHeader) -> None:
        """Take note of a remote batch, received or published: its origin had what it follows.

        A batch lists only what changed since the one before; each part is true by
        itself, and they accumulate.
        """
        if header.replica != self.own:
            self.has_news = True
            newest = self._known(header.replica).newest
            newest.join(header.dependencies)
            if header.last > newest.get(header.replica, 0):
                newest[header.replica] = header.last

    def acknowledge(self, replica: int, vector: Mapping[int, int]) -> None:
        """Take note that ``replica`` has durably joined ``vector``.

        The vector is whole, or what changed since the same source last told of
        that replica on an unbroken stream; the replica's own part is included
        whenever it changed. Older news never undoes newer.
        """
        if replica != self.own:
            newest = self._known(replica).newest
            if not newest.dominates(vector):
                self.has_news = True
                newest.join(vector)

    def _known(self, replica: int) -> _Progress:
        progress = self._progress.get(replica)
        if progress is None:
            progress = self._progress[replica] = _Progress()
        return progress

    def acknowledged(self, replica: int) -> VersionVector:
        """Return all that a replica is known to have joined durably. Not to be changed."""
        progress = self._progress.get(replica)
        return VersionVector() if progress is None else progress.newest

    def counted(self, replica: int, own_vector: VersionVector) -> VersionVector:
        """Return the part of it that counts for stability. Not to be changed."""
        if replica == self.own:
            return own_vector
        progress = self._known(replica)
        progress.advance(replica, own_vector.get(replica, 0))
        return progress.counted

    def acknowledged_by(self, vector: Mapping[int, int]) -> set[int]:
        """Return the members that durably hold ``vector``, this one, who asks, included."""
        return {
            replica
            for replica in self.members
            if replica == self.own or self.acknowledged(replica).dominates(vector)
        }

    def regions_reached(self, vector: Mapping[int, int]) -> set[str]:
        """Return the regions in which at least one member durably holds ``vector``."""
        return {self.region_of(replica) for replica in self.acknowledged_by(vector)}

    def lag(self, replica: int, own_vector: Mapping[int, int]) -> int:
        """Return how many deltas of ``own_vector`` a replica has not acknowledged yet."""
        if replica == self.own:
            return 0
        known = self.acknowledged(replica)
        return sum(max(0, last - known.get(origin, 0)) for origin, last in own_vector.items())

    # ------------------------------------------------------------------ stability

    def stable_vector(self, own_vector: VersionVector) -> VersionVector:
        """Return what is stable here, given what is published here; each time a new one.

        It never shrinks: what was stable before a newcomer was known stays so.
        """
        if self.is_member:
            lowest = own_vector.copy()
            for replica in self.members:
                if not lowest:
                    break
                if replica != self.own:
                    lowest = lowest.meet(self.counted(replica, own_vector))
            self._stable.join(lowest)
        return self._stable.copy()

    def is_stable(self, dot: int) -> bool:
        """Tell whether a dot was stable when ``stable_vector`` was last asked for."""
        return self._stable.covers(dot)

    # ------------------------------------------------------------------ checkpoints

    def to_value(self) -> dict[str, Any]:
        """Return what is not in the state, as a storable value; losing it is only slow."""
        return {
            "acknowledged": [
                [replica, progress.newest.flat(), progress.counted.flat()]
                for replica, progress in sorted(self._progress.items())
            ],
            "stable": self._stable.flat(),
        }

    def from_value(self, value: Any) -> None:
        """Take up an exported value; raises ``ValueError`` when it is none.

        Only this replica's own may be taken up: what counts depends on what it
        has published. Nothing is changed when it raises.
        """
        try:
            stable = VersionVector.from_flat(value["stable"])
            read = [
                (replica, VersionVector.from_flat(newest), VersionVector.from_flat(counted))
                for replica, newest, counted in value["acknowledged"]
            ]
        except (TypeError, KeyError) as error:
            raise ValueError(f"no exported epoch: {error}") from error
        if not all(type(replica) is int and replica > 0 for replica, _, _ in read):
            raise ValueError("no exported epoch: replica ids are positive integers")
        self._stable.join(stable)
        for replica, newest, counted in read:
            progress = self._known(replica)
            progress.newest.join(newest)
            progress.counted.join(counted)
