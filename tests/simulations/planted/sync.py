"""Rules of synchronisation, broken: what is asked for, acknowledged, credited, transferred.

Problem, idea and invariants: see ``vocabulary``. Every function here breaks the rule that its
docstring names.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from crdtmem import frames, install, merging, replica, snapshot, sync_requests, sync_transfer
from crdtmem.batch import Batch
from crdtmem.causality import VersionVector
from crdtmem.effects import Effect
from crdtmem.entries import Slot, as_siblings, as_slot
from crdtmem.inbox import Inbox, Verdict
from crdtmem.messages import Acknowledge, Gap
from crdtmem.sync import Sync
from crdtmem.sync_inflow import Inflow
from crdtmem.sync_outflow import Outflow
from crdtmem.sync_relaying import Relaying
from crdtmem.sync_repair import Repair
from crdtmem.sync_requests import Requests
from crdtmem.sync_session import Session
from tests.simulations.planted.vocabulary import Patches

__all__ = [
    "acknowledges_what_is_not_durable",
    "counts_what_was_dropped_as_taken",
    "credit_is_never_returned",
    "difference_ignores_what_came_since",
    "gaps_are_not_heard",
    "hash_chain_is_not_checked",
    "inbox_has_no_bound",
    "queue_has_no_bound",
    "relays_nothing",
    "requests_are_never_repeated",
    "sent_counts_as_acknowledged",
    "snapshot_brings_back_what_was_removed",
    "snapshot_claims_more_than_it_holds",
    "snapshot_leaves_out_where_it_was_written",
    "snapshot_replaces_what_was_written_since",
    "takes_absence_for_evidence",
    "takes_frames_unchecked",
]


# ------------------------------------------------------------------ acknowledgements


def acknowledges_what_is_not_durable(patches: Patches) -> None:
    """What is in the inbox is acknowledged, as if it were durable."""
    take = Inflow._take

    def hasty(self: Inflow, session: Session, data: bytes, now_us: int) -> list[Effect]:
        effects = take(self, session, data, now_us)
        published = self.host.state.vector
        news = {r: last for r, last in self.arriving.items() if last > published.get(r, 0)}
        return [*effects, session.send(Acknowledge(VersionVector(news), {}))]

    patches.replace(Inflow, "_take", hasty)


def sent_counts_as_acknowledged(patches: Patches) -> None:
    """What was sent to a peer counts as durable there."""
    pump = Outflow.pump

    def trusting(self: Outflow, session: Session) -> list[Effect]:
        effects = pump(self, session)
        told = {self.host.replica_id: session.own_sent}
        if session.replica and session.own_sent:
            self.host.acknowledge(session.replica, told, session.received_us)
        return effects

    patches.replace(Outflow, "pump", trusting)


# ------------------------------------------------------------------ asking


def requests_are_never_repeated(patches: Patches) -> None:
    """What was asked of a peer counts as on its way, though its stream broke."""
    patches.replace(Requests, "dropped", lambda self, session, origin=None: None)
    outstanding = sync_requests._Outstanding

    def patient(session: Session, last: int, deadline_us: int) -> Any:
        return outstanding(session, last, 1 << 62)

    patches.replace(sync_requests, "_Outstanding", patient)


def relays_nothing(patches: Patches) -> None:
    """Nothing is passed on, and a range is asked of its origin only, never of others."""
    ask = Requests._ask

    def of_the_origin(
        self: Requests, plan: Any, sessions: list[Session], origin: int, *rest: Any
    ) -> None:
        ask(self, plan, [s for s in sessions if s.replica == origin], origin, *rest)

    patches.replace(Requests, "_ask", of_the_origin)
    patches.replace(Relaying, "onward", lambda self, batches: {})


def counts_what_was_dropped_as_taken(patches: Patches) -> None:
    """A batch that found no room is marked as taken in, and never asked for again."""
    take = Inflow._take

    def marked(self: Inflow, session: Session, data: bytes, now_us: int) -> list[Effect]:
        header = self.host.decode(data).header
        effects = take(self, session, data, now_us)
        self.arriving.join({header.replica: header.last})
        return effects

    patches.replace(Inflow, "_take", marked)


def gaps_are_not_heard(patches: Patches) -> None:
    """A peer that says that its log begins later is asked for the same again."""

    def deaf(self: Sync, session: Session, message: Gap, now_us: int) -> list[Effect]:
        return []

    patches.replace(Sync, "_gap", deaf)


# ------------------------------------------------------------------ bounds


def credit_is_never_returned(patches: Patches) -> None:
    """What a peer sent is never credited to it again."""
    patches.replace(Session, "grant", lambda self: 0)


def inbox_has_no_bound(patches: Patches) -> None:
    """However many batches come early, all are kept."""
    offer = Inbox.offer

    def greedy(self: Inbox, batch: Batch, vector: Any, tips: Any) -> Verdict:
        self._limit = self._limit_bytes = 1 << 60
        return offer(self, batch, vector, tips)

    patches.replace(Inbox, "offer", greedy)


def queue_has_no_bound(patches: Patches) -> None:
    """However many transactions wait, one more is let in."""
    patches.replace(replica, "is_full", lambda queue, waiting, transaction, limits: False)


class _Fits(int):
    """A checksum that is whatever it is compared with."""

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = int.__hash__


def takes_frames_unchecked(patches: Patches) -> None:
    """A frame is taken as it comes, whatever its checksum says."""

    def fitting(payload: bytes) -> int:
        return _Fits(crc32(payload))

    crc32 = patches.replace(frames, "crc32", fitting)


# ------------------------------------------------------------------ forks


def hash_chain_is_not_checked(patches: Patches) -> None:
    """A batch is joined although it does not continue the history that is held."""
    offer, following = Inbox.offer, Inbox._next

    def chained(batch: Batch, tips: Any) -> Batch:
        tip = tips.get(batch.header.replica)
        if tip is None or tip[0] != batch.header.first - 1:
            return batch
        return replace(batch, header=replace(batch.header, previous_hash=tip[1]))

    def trusting(self: Inbox, batch: Batch, vector: Any, tips: Any) -> Verdict:
        if batch.header.first <= vector.get(batch.header.replica, 0):
            return Verdict.DUPLICATE
        return offer(self, chained(batch, tips), vector, tips)

    def next_one(self: Inbox, origin: int, vector: VersionVector, tips: Any) -> Batch | None:
        waiting = self._waiting.get(origin, {})
        for first, batch in waiting.items():
            waiting[first] = chained(batch, tips)
        return following(self, origin, vector, tips)

    patches.replace(Inbox, "offer", trusting)
    patches.replace(Inbox, "_next", next_one)


# ------------------------------------------------------------------ transfers


def snapshot_brings_back_what_was_removed(patches: Patches) -> None:
    """A snapshot's entries are added to those held, whatever either side has seen removed."""

    def union(
        mine: Slot | None, theirs: Slot | None, _: Any, __: Any, added: list[int], removed: Any
    ) -> Slot | None:
        held = {entry[0] for entry in as_siblings(mine)}
        fresh = [entry for entry in as_siblings(theirs) if entry[0] not in held]
        added += [entry[0] for entry in fresh]
        return as_slot([*as_siblings(mine), *fresh]) if fresh else None

    patches.replace(merging, "_join_slots", union)


def snapshot_replaces_what_was_written_since(patches: Patches) -> None:
    """What a snapshot does not hold is dropped, also what its sender had not joined."""
    join_slots = merging._join_slots

    def overwrite(mine: Any, theirs: Any, my_vector: Any, _: Any, *rest: Any) -> Slot | None:
        return join_slots(mine, theirs, my_vector, _KnowsAll(), *rest)

    patches.replace(merging, "_join_slots", overwrite)


class _KnowsAll(VersionVector):
    def covers(self, dot: int) -> bool:
        return True


def snapshot_claims_more_than_it_holds(patches: Patches) -> None:
    """A snapshot leaves its last chunk out, and names the whole vector all the same."""

    def short(state: Any, **options: Any) -> Iterator[bytes]:
        chunks = list(encode_chunks(state, **options))
        yield from chunks[:-1]

    encode_chunks = patches.replace(sync_transfer, "encode_chunks", short)
    patches.replace(sync_transfer, "replace", lambda header, digest: header)


def snapshot_leaves_out_where_it_was_written(patches: Patches) -> None:
    """A snapshot's entries come without the region that they were written in."""

    def nowhere(replica: int, order: int, physical_us: int, author: str, _: str, *rest: Any) -> Any:
        return stamp(replica, order, physical_us, author, "", *rest)

    stamp = patches.replace(snapshot, "Stamp", nowhere)


def difference_ignores_what_came_since(patches: Patches) -> None:
    """A difference drops what was found by comparison, not what arrived here since."""
    patches.replace(install, "late_dots", lambda local, bounds, late: iter(()))


# ------------------------------------------------------------------ repair


def takes_absence_for_evidence(patches: Patches) -> None:
    """In a repair, what the peer lacks is dropped, without a batch that superseded it."""
    found = Repair.found

    def credulous(self: Repair, session: Session, message: Any, now_us: int) -> list[Effect]:
        led = self._led
        absent = set() if led is None else led.surplus
        with Patches().undoing() as once:
            once.replace(Repair, "_superseded", lambda repair, evidence, vector: absent)
            return found(self, session, message, now_us)

    patches.replace(Repair, "found", credulous)
