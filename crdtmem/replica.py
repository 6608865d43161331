"""One replica, as a pure state machine: queue, stage, persist, publish.

Problem: local writes must be acknowledged only when durable, remote batches
joined only when their causes are, reads must never wait for either, and all of
it must be testable without a clock, a disk or a network.

Idea: one *flight* at a time. ``stage`` gathers the remote batches that are ready
and the queued transactions into an overlay; the runtime makes the flight
durable; ``persisted`` publishes it and says whom to tell. While a flight is out,
readers see the state before it, and new work queues for the next: that queue is
what makes the group commit.

Invariants:

* nothing staged is visible, sent, notified or answered before ``persisted``;
* sequences are allocated at staging and reused only after a commit that the
  store, read back, is known not to hold;
* an ``Observed`` or a required ``Context`` is covered before its transaction is
  staged, or the transaction is refused at its deadline;
* every queue is bounded; at the bound a caller gets ``Overloaded``, and a peer's
  batch is forgotten, to be asked for again.

The flight is etcd/raft's ``Ready`` with the group commit of a database log.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Final, NamedTuple

from crdtmem.batch import Batch, SpaceName
from crdtmem.causality import Context, VersionVector
from crdtmem.clock import HybridClock
from crdtmem.codec import pack, unpack
from crdtmem.crdt import DATATYPES_BY_CODE
from crdtmem.derived import KnownOperations, collectible_keys
from crdtmem.effects import Alarm, Effect, Notify, Persist, Reply, SetTimer
from crdtmem.entries import pack_dot, unpack_dot
from crdtmem.errors import (
    CrdtmemError,
    ForkDetected,
    LocalError,
)
from crdtmem.evaluation import carry_out_all
from crdtmem.expiry import ExpiryQueue
from crdtmem.flight import FLIGHT_DELTAS, Flight, LocalBatch, StagedTransaction, touches_system
from crdtmem.inbox import NO_TIP, Inbox, Tip, Verdict, written_elsewhere
from crdtmem.install import Installation, InstallationStage
from crdtmem.limits import Limits
from crdtmem.policy import SYSTEM_SPACE
from crdtmem.quotas import begin_watch
from crdtmem.read_side import ReadSide
from crdtmem.staging import TransactionStage
from crdtmem.table import Overlay
from crdtmem.transaction import Transaction
from crdtmem.waiting import (
    Pending,
    TransactionQueue,
    WaitingRoom,
    is_full,
    no_longer_writes,
    not_a_member,
    not_covered,
    overloaded,
)

__all__ = ["Committed", "Identity", "Replica"]

_BATCH_SOFT_BYTES: Final = 1 << 20
_order_of: Final = itemgetter(0)


class Identity(NamedTuple):
    """Who writes: the replica's id, and the region that it stands in."""

    replica: int
    region: str


@dataclass(frozen=True, slots=True)
class Committed:
    """What a durable transaction returns: its context, results per operation, and dots."""

    context: Context
    results: list[Any]
    first: int
    count: int
    repeated: bool = False


class Replica(ReadSide):
    """The state machine. Every method is synchronous; time is in integer microseconds."""

    def __init__(self, identity: Identity, limits: Limits) -> None:
        super().__init__()
        self.identity = identity
        self.limits = limits
        self.clock = HybridClock()
        self.tips: dict[int, Tip] = {}
        self.inbox = Inbox(
            early_batches=limits.early_batches_per_peer, early_bytes=16 * limits.batch_bytes
        )
        self.halted: str | None = None
        self.flight_deltas = FLIGHT_DELTAS
        # Before it is a member a replica joins, but does not write: see ``engine``.
        self.writable = True
        self.flight: Flight | None = None
        self.expiry = ExpiryQueue()
        self.collectible: dict[tuple[SpaceName, int], set[str]] = {}
        self._queue = TransactionQueue()
        self._waiting = WaitingRoom()
        self.installations: deque[Installation] = deque()
        self._stage: InstallationStage | None = None
        self.operations = KnownOperations()
        self._dependencies_sent: VersionVector = VersionVector()

    # ------------------------------------------------------------------ commands

    def submit(
        self,
        ticket: Any,
        transaction: Transaction,
        now_us: int,
        *,
        after: Mapping[int, int] | None = None,
        deadline_us: int = 0,
        first: bool = False,
    ) -> list[Effect]:
        """Queue a sealed transaction; it is answered by a ``Reply`` to ``ticket``.

        ``after`` is a vector that must be joined first; it and the transaction's
        ``Observed`` are waited for until ``deadline_us`` (0: not at all). ``first``
        puts it before everything that is queued.
        """
        if self.halted is not None:
            return [Reply(ticket, error=no_longer_writes(self.halted))]
        # What the replica asks of itself has nobody who would ask again.
        if ticket is not None and is_full(self._queue, self._waiting, transaction, self.limits):
            return [Reply(ticket, error=overloaded())]
        pending = Pending(ticket, transaction, deadline_us, after or {})
        pending.gather_needs()
        if not pending.covered(self.state.vector):
            if deadline_us <= now_us:
                return [Reply(ticket, error=not_covered())]
            if ticket is not None and self._waiting.is_crowded(transaction, self.limits):
                return [Reply(ticket, error=overloaded())]
            self._waiting.park(pending)
            return [SetTimer(deadline_us)]
        if first:
            self._queue.appendleft(pending)
        else:
            self._queue.append(pending)
        return []

    def wait(
        self, ticket: Any, vector: Mapping[int, int], now_us: int, deadline_us: int
    ) -> list[Effect]:
        """Answer ``ticket`` once ``vector`` has been joined and published, or at the deadline."""
        if self.state.vector.dominates(vector):
            return [Reply(ticket, self.context)]
        if deadline_us <= now_us:
            return [Reply(ticket, error=not_covered())]
        if self._waiting.readers >= self.limits.waiters:
            return [Reply(ticket, error=overloaded())]
        self._waiting.expect(ticket, vector, deadline_us)
        return []

    def forget(self, ticket: Any) -> None:
        """Answer ``ticket`` no more: whoever asked ``wait`` has gone."""
        self._waiting.forget(ticket)

    def install(self, installation: Installation) -> list[Effect]:
        """Queue another replica's state, or a difference to it, to be joined as a whole."""
        self.installations.append(installation)
        return []

    def offer(self, batch: Batch) -> tuple[Verdict, list[Effect]]:
        """Take in a remote batch; joined by a later flight. A fork fences and alarms."""
        tips, vector = self.tips, self.state.vector
        own = self.identity.replica
        if batch.header.replica == own and batch.header.last > vector.get(own, 0):
            return Verdict.FENCED, [written_elsewhere(batch)]
        try:
            return self.inbox.offer(batch, vector, tips), []
        except ForkDetected as fork:
            return Verdict.FENCED, [Alarm("fork", str(fork), fork.details)]

    @property
    def has_work(self) -> bool:
        """Whether ``stage`` may have something to do (and no flight is out)."""
        # Asked after every turn. What is in the inbox has bytes, and those are counted already.
        if self.flight is not None:
            return False
        return bool((self.writable and len(self._queue)) or self.inbox.size or self.installations)

    # ------------------------------------------------------------------ staging

    def stage(self, now_us: int) -> list[Effect]:
        """Stage the next flight: ``[Persist]``, or answers only, or nothing."""
        if self.flight is not None:
            return []
        if self.installations:
            return self._stage_installation(now_us)
        flight = Flight(Overlay(self.state), self.state.vector.copy())
        tips = dict(self.tips)
        effects: list[Effect] = []
        try:
            for batch in self.inbox.take_ready(flight.vector, tips, self.flight_deltas):
                for segment in batch.segments:
                    flight.overlay.join(segment)
                flight.batches.append(batch)
                flight.weight += batch.header.count
                if touches_system(batch):
                    # What it demands, a halt even, comes before what follows: enough for now.
                    flight.weight = self.flight_deltas
                    break
        except ForkDetected as fork:
            effects.append(Alarm("fork", str(fork), fork.details))
        for batch in flight.batches:
            self.clock.receive(max(map(_order_of, batch.transactions)))
        if self._queue and self.writable:
            self._stage_local(flight, tips, now_us)
        effects += [Reply(ticket, error=error) for ticket, error in flight.refused]
        flight.refused = []
        if flight.batches:
            flight.tips = tips
            self.flight = flight
            return [*effects, Persist(flight)]
        return effects + self._answers(flight)

    def _stage_installation(self, now_us: int) -> list[Effect]:
        """Do a slice of staging it; until the last, ask for another turn."""
        installation, stage = self.installations[0], self._stage
        if stage is None or not stage.stands_on(installation, self.state):
            stage = self._stage = InstallationStage(installation, self.state)
        self.flight = stage.step(self.tips)
        if self.flight is not None:
            self._stage = None
        return [SetTimer(now_us) if self.flight is None else Persist(self.flight)]

    def _stage_local(self, flight: Flight, tips: dict[int, Tip], now_us: int) -> None:
        replica = self.identity.replica
        remote = VersionVector(flight.vector)
        remote.pop(replica, None)
        self.operations.expect(flight.batches)
        batch: LocalBatch | None = None
        while self._queue and flight.weight < self.flight_deltas:
            pending = self._queue.popleft()
            stamps = self.clock.tick(now_us)
            if batch is None:
                next_sequence = flight.vector.get(replica, 0) + 1
                batch = LocalBatch(replica, self.identity.region, next_sequence, stamps)
            if not self._stage_transaction(flight, batch, pending, stamps):
                # It does not fit beside what the batch holds: it begins the next one.
                self._queue.appendleft(pending)
            elif batch.size <= _BATCH_SOFT_BYTES:
                continue
            self._close(flight, batch, tips, remote)
            batch = None
        if batch is not None:
            self._close(flight, batch, tips, remote)
        if flight.local:
            flight.metadata["clock"] = pack((self.clock.order, self.clock.physical_us))

    def _close(
        self, flight: Flight, batch: LocalBatch, tips: dict[int, Tip], remote: VersionVector
    ) -> None:
        if batch.next == batch.first:
            return
        replica = self.identity.replica
        changed = {
            other: last for other, (_, last) in remote.beyond(self._dependencies_sent).items()
        }
        previous_hash = tips.get(replica, NO_TIP)[1]
        closed = batch.close(previous_hash, changed)
        flight.dependencies = remote
        self._dependencies_sent = remote
        flight.vector[replica] = closed.header.last
        tips[replica] = (closed.header.last, closed.hash)
        flight.batches.append(closed)

    def _stage_transaction(
        self, flight: Flight, batch: LocalBatch, pending: Pending, stamps: tuple[int, int]
    ) -> bool:
        """Stage, refuse or recognise a transaction; ``False`` if the batch lacks the room."""
        transaction = pending.transaction
        identity = transaction.operation_id
        known = None if identity is None else self.operations.find(identity)
        if known is not None:
            first, count = known
            flight.repeated.append(StagedTransaction(pending, [], first, count))
            return True
        if not batch.has_room(transaction.weight, transaction.size, self.limits):
            return False
        stage = TransactionStage(batch, flight.overlay, transaction, stamps)
        first = batch.next
        # Nobody asks the replica itself what its quota is.
        quotas = self._policies.quotas if pending.ticket is not None else None
        watch = begin_watch(flight, stage, quotas) if quotas else None
        try:
            results = carry_out_all(stage, self.policy, self.limits)
            if watch is not None:
                watch.judge(stage)
            if not stage.finish(self.limits):
                stage.take_back()
                return False
        except LocalError as error:
            stage.take_back()
            flight.refused.append((pending.ticket, error))
            return True
        if watch is not None:
            watch.note()
        count = batch.next - first
        flight.weight += count + 1
        dot = pack_dot(self.identity.replica, first)
        staged = StagedTransaction(pending, results, dot, count)
        flight.local.append(staged)
        if identity is not None and count:
            # Known from staging on, so that two copies in one flight count once. What changed
            # nothing has no delta to be known by, and is simply done again.
            self.operations.learn(identity, dot, count)
        return True

    # ------------------------------------------------------------------ publishing

    def persisted(self, flight: Flight, now_us: int) -> list[Effect]:
        """Publish a durable flight: state, notifications, then answers."""
        assert flight is self.flight
        self.flight = None
        flight.overlay.publish()
        self.state.vector = flight.vector
        self.tips = flight.tips
        effects: list[Effect] = []
        if flight.installation is not None:
            self.installations.popleft()
            self.note_installed(flight.installation)
        for batch in flight.batches:
            self._note_published(batch)
        if flight.batches or flight.installation is not None:
            effects.append(Notify(flight.batches))
        effects += self._answers(flight)
        effects += self._wake(now_us)
        return effects

    def failed(self, flight: Flight, error: CrdtmemError) -> list[Effect]:
        """Forget a flight that is known not to be durable; its callers get the error."""
        assert flight is self.flight
        self.flight = None
        own = self.identity.replica
        self.inbox.give_back([b for b in flight.batches if b.header.replica != own])
        for staged in flight.local:
            if staged.transaction.operation_id is not None:
                self.operations.forget(staged.transaction.operation_id)
        self._dependencies_sent = VersionVector()
        # What the replica asked of itself has nobody who would ask again.
        for staged in reversed(flight.local):
            if staged.ticket is None:
                self._queue.appendleft(Pending(None, staged.transaction))
        return [
            Reply(staged.ticket, error=error)
            for staged in (*flight.local, *flight.repeated)
            if staged.ticket is not None
        ]

    def note_installed(self, installation: Installation) -> None:
        """Keep what is derived from an installation, as from a published batch."""
        self.clock.receive(installation.header.clock[0])
        for identity, first, count in installation.header.operations:
            self.operations.learn(identity, first, count)
        for place, keys in installation.collectible.items():
            self.collectible.setdefault(place, set()).update(keys)
        for batch in installation.batches:
            self._note_published(batch)
        self._policies.note_all()

    def _note_published(self, batch: Batch) -> None:
        """Keep what is derived from a published batch: policies, operation ids, expiries."""
        own = batch.header.replica == self.identity.replica
        for segment in batch.segments:
            if segment.space == SYSTEM_SPACE:
                self._policies.note(segment.keys)
            kind = DATATYPES_BY_CODE[segment.datatype]
            if kind.collectible and kind.leaves_behind(segment):
                keys = (segment.keys,) if type(segment.keys) is str else segment.keys
                place = (segment.space, segment.datatype)
                self.collectible.setdefault(place, set()).update(keys)
            if own and segment.stamp.expires_at_us is not None:
                self.expiry.note(segment)
        self.operations.note(batch)

    def _answers(self, flight: Flight) -> list[Reply]:
        context = Context(flight.vector)
        replies = [
            Reply(staged.ticket, Committed(context, staged.results, staged.first, staged.count))
            for staged in flight.local
        ]
        for staged in flight.repeated:
            # The first copy's dots may not have arrived here: name them all the same.
            origin, first = unpack_dot(staged.first)
            done = context.merge(Context({origin: first + staged.count - 1}))
            answer = Committed(done, [], staged.first, staged.count, True)
            replies.append(Reply(staged.ticket, answer))
        return replies

    def _wake(self, now_us: int) -> list[Effect]:
        """Let those go on whose dots have arrived; refuse those whose deadline has passed."""
        ready, effects = self._waiting.wake(self.state.vector, now_us)
        self._queue.extend(ready)
        while not self.writable and self._queue and self._queue.deadline_us <= now_us:
            effects.append(Reply(self._queue.popleft().ticket, error=not_a_member()))
        return effects

    def handle_timeout(self, now_us: int) -> list[Effect]:
        """Refuse what waited past its deadline, and queue removals of what expired here."""
        effects = self._wake(now_us)
        expired = self.expiry.due(now_us, self.state)
        if expired is not None and self.halted is None:
            self._queue.append(Pending(None, expired))
        return effects

    def next_deadline_us(self) -> int | None:
        """Return when ``handle_timeout`` has something to do, or ``None``."""
        if self.writable and not len(self._waiting):
            return self.expiry.next_us()
        times = self._waiting.deadlines_us()
        if self._queue and not self.writable:
            times.append(self._queue.deadline_us)
        expiry_us = self.expiry.next_us()
        if expiry_us is not None:
            times.append(expiry_us)
        return min(times, default=None)

    def halt(self, reason: str) -> list[Effect]:
        """Stop writing under this id, for good; queued writes are refused."""
        self.halted = reason
        refused = self.refuse_queued(no_longer_writes(reason))
        self._queue = TransactionQueue()
        return [*refused, Alarm("halted", reason, {})]

    def queues(self) -> dict[str, int]:
        """Return how much waits, by kind: for operators."""
        return {
            "transactions": len(self._queue),
            "transaction_bytes": self._queue.size + self._waiting.size,
            "waiting": len(self._waiting),
            "early_batches": len(self.inbox),
        }

    def refuse_queued(self, error: CrdtmemError) -> list[Effect]:
        """Answer every transaction that is not staged yet with an error.

        What the replica asked of itself, without a ticket, stays queued.
        """
        waiting = [*self._queue.take(), *self._waiting.take_parked()]
        self._queue.extend(item for item in waiting if item.ticket is None)
        return [Reply(item.ticket, error=error) for item in waiting if item.ticket is not None]

    def refuse_readers(self, error: CrdtmemError) -> list[Reply]:
        """Answer everyone who waits for a context with an error."""
        return self._waiting.refuse_readers(error)

    # ------------------------------------------------------------------ recovery

    def recover_batch(self, batch: Batch) -> None:
        """Join a stored batch again, in arrival order, before anything else happens."""
        overlay = Overlay(self.state)
        for segment in batch.segments:
            overlay.join(segment)
        overlay.publish(digests=False)
        header = batch.header
        if header.last > self.state.vector.get(header.replica, 0):
            self.state.vector[header.replica] = header.last
            self.tips[header.replica] = (header.last, batch.hash)
        self.clock.receive(max(map(_order_of, batch.transactions)))
        self._note_published(batch)

    def recover_installation(self, installation: Installation) -> None:
        """Install again what was installed before the restart."""
        overlay = installation.overlay(self.state)
        overlay.publish()
        self.tips = installation.tips(self.tips)
        self.state.vector = installation.vector(self.state.vector)
        self.note_installed(installation)

    def recovered(self, metadata: Mapping[str, bytes]) -> None:
        """Finish a recovery: digests, policies, the clock's last stamps, and what is to be done."""
        self.state.rebuild_derived()
        stamps = metadata.get("clock")
        if stamps is not None:
            order, physical_us = unpack(stamps)
            self.clock.recover(order, physical_us)
        self._policies.note_all()
        self.collectible = collectible_keys(self.state)
        self.expiry.recover(self.state, self.identity.replica)
