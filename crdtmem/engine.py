"""The engine: a replica, its membership and its synchronisation, composed into one machine.

Problem: production and the simulator must run the very same code, so everything
that decides must be in one pure object, and everything that waits, writes or
sends must be outside it.

Idea: every input is a method that returns effects; ``advance`` stages the next
flight when there is work and none is out. The runtime (asyncio, or the
simulator) calls an input, carries out the effects in order, and calls
``advance`` again. Time is an argument.

How a cluster begins: a replica writes nothing before it has joined its own
admission. A node without peers *founds* a cluster: its first delta admits
itself. A node with peers waits to be admitted by a member; when all its peers
are as new as it is, the one with the smallest id founds.

Invariants: those of ``effects``; besides, a node's first batch follows its own
admission, so that no stability is ever reached without it (see ``epoch``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from crdtmem.batch import Batch, decode_batch
from crdtmem.causality import VersionVector
from crdtmem.collector import KEYS_PER_LOOK, Collector
from crdtmem.crdt import NESTED
from crdtmem.durability import DURABILITIES, DurabilityWaits
from crdtmem.effects import Alarm, Effect, FindEvidence, Persist, Rederive, Reply
from crdtmem.errors import CrdtmemError
from crdtmem.flight import Flight, idle_flight, touches_system
from crdtmem.inbox import Verdict
from crdtmem.install import Installation, Kind
from crdtmem.kept_acknowledgements import ACKNOWLEDGED, KeptAcknowledgements
from crdtmem.limits import DEFAULT_LIMITS, Limits
from crdtmem.membership import Membership, NodeInfo
from crdtmem.messages import Hello
from crdtmem.replica import Identity, Replica
from crdtmem.retries import Retries
from crdtmem.skew import SkewWatch
from crdtmem.snapshot import SnapshotHeader
from crdtmem.sync import Sync
from crdtmem.sync_greeting import tell_evicted
from crdtmem.sync_host import DEFAULT_SYNC, PROTOCOL_VERSIONS, StoredBatch, SyncConfig
from crdtmem.table import State
from crdtmem.transaction import Transaction

__all__ = ["COLLECT_EVERY_US", "DURABILITIES", "Engine", "NodeInfo"]

COLLECT_EVERY_US: Final = 5_000_000
"""How long what may be collected waits between two looks at it, in microseconds."""


class Engine:
    """One node's machine. Every method is synchronous; time is in integer microseconds."""

    def __init__(
        self,
        identity: Identity,
        limits: Limits = DEFAULT_LIMITS,
        node: NodeInfo | None = None,
        sync: SyncConfig = DEFAULT_SYNC,
    ) -> None:
        self.identity = identity
        self.node = node or NodeInfo()
        self.replica = Replica(identity, limits)
        self.replica.flight_deltas = self.node.flight_deltas
        self.membership = Membership(self.replica, self.node)
        self.epoch = self.membership.epoch
        self.kept = KeptAcknowledgements(self.epoch)
        self.collector = Collector()
        self.retries = Retries(identity.replica)
        self.durability = DurabilityWaits(self.epoch, identity.region)
        self.skew = SkewWatch(identity.replica, self.node.skew_alarm_us)
        self.sync = Sync(self, sync)
        self.membership.is_covered = lambda: self.sync.guide.holds_all
        self.membership.is_linked = lambda replica: replica in self.sync.by_replica
        # What recovery has to say to operators, said when the engine starts.
        self.news: list[Alarm] = []
        # How much log recovery had to replay: what the next checkpoint will save.
        self.replayed_bytes = 0
        self._collect_at_us: int | None = None

    # ------------------------------------------------------------------ life

    def start(self, now_us: int, *, found: bool = False) -> list[Effect]:
        """Begin: called once, after recovery. A node without peers founds its cluster.

        ``found`` says that an operator wants this one to, whatever its store remembers.
        """
        news: list[Effect] = [*self.news]
        self.news = []
        return news + self.membership.start(now_us, found=found)

    def advance(self, now_us: int) -> list[Effect]:
        """Stage the next flight if there is work for one, or what is known is to be kept."""
        replica = self.replica
        effects = self._judge_installation(now_us) if replica.installations else []
        if replica.has_work:
            effects += self._settle(replica.stage(now_us))
        if self.kept.due and replica.halted is None:
            if replica.flight is None:
                replica.flight = idle_flight(self.state, replica.tips)
                effects.append(Persist(replica.flight))
            if effects and type(effects[-1]) is Persist:
                effects[-1].flight.metadata.update(self.kept.metadata())
        return effects

    @property
    def idle(self) -> bool:
        """Whether ``advance`` has nothing to do now."""
        return not (self.replica.has_work or self.kept.due)

    def refuse_queued(self, error: CrdtmemError) -> list[Effect]:
        """Answer everything that is not staged yet with an error."""
        return [*self.durability.refuse(error), *self._settle(self.replica.refuse_queued(error))]

    def _settle(self, effects: list[Effect]) -> list[Effect]:
        """Take in the answers to compensations: one that was refused is owed again."""
        kept: list[Effect] = []
        for effect in effects:
            if type(effect) is Reply and type(effect.ticket) is Transaction:
                if effect.error is not None:
                    self.retries.back(effect.ticket)
            else:
                kept.append(effect)
        return kept

    def refuse_everyone(self, error: CrdtmemError) -> list[Effect]:
        """Answer whoever waits for anything with an error: this engine is being closed."""
        return [*self.refuse_queued(error), *self.replica.refuse_readers(error)]

    # ------------------------------------------------------------------ commands

    def submit(
        self,
        ticket: Any,
        transaction: Transaction,
        now_us: int,
        *,
        after: Mapping[int, int] | None = None,
        deadline_us: int = 0,
    ) -> list[Effect]:
        """Queue a sealed transaction."""
        return self.replica.submit(
            ticket, transaction, now_us, after=after, deadline_us=deadline_us
        )

    def wait(
        self, ticket: Any, vector: Mapping[int, int], now_us: int, deadline_us: int
    ) -> list[Effect]:
        """Answer ``ticket`` once ``vector`` has been joined, or at the deadline."""
        return self.replica.wait(ticket, vector, now_us, deadline_us)

    def await_durability(
        self,
        ticket: Any,
        vector: Mapping[int, int],
        durability: str,
        now_us: int,
        deadline_us: int,
    ) -> list[Effect]:
        """Answer ``ticket`` once ``vector`` is durable as widely as asked, or at the deadline."""
        waits = self.durability
        effects = waits.wait(ticket, vector, durability, now_us, deadline_us, self.limits.waiters)
        return effects + (self.sync.telling.ask_for_haste(now_us) if len(waits) else [])

    def forget(self, ticket: Any) -> None:
        """Let go of one who asked to ``wait`` or for durability, and has gone."""
        self.replica.forget(ticket)
        self.durability.forget(ticket)

    def evict(self, victim: int, now_us: int, *, forced: bool = False) -> list[Effect]:
        """Propose to give a member up for good. Raises ``LocalError``s."""
        return self.membership.propose(victim, forced=forced, now_us=now_us)

    def rejoin(self) -> list[Effect]:
        """Join those who gave this replica up, and whom it gave up. Raises ``ConditionFailed``."""
        return self.membership.rejoin()

    # ------------------------------------------------------------------ flights

    def persisted(self, flight: Flight, now_us: int) -> list[Effect]:
        """Publish a durable flight: notify, then send, then answer."""
        self.retries.note(flight.batches, self.replica.state)
        effects = self._settle(self.replica.persisted(flight, now_us))
        answers = [effect for effect in effects if type(effect) is Reply]
        others = [effect for effect in effects if type(effect) is not Reply]
        return [*others, *self._published(flight, now_us), *answers]

    def persist_failed(self, flight: Flight, error: CrdtmemError) -> list[Effect]:
        """Forget a flight that is known not to be durable."""
        if ACKNOWLEDGED in flight.metadata:
            self.kept.failed()
        return self._settle(self.replica.failed(flight, error))

    def _published(self, flight: Flight, now_us: int) -> list[Effect]:
        """React to what has just become visible: send it, and do what follows from it."""
        system_changed = flight.installation is not None
        for batch in flight.batches:
            self.epoch.note_batch(batch.header)
            if batch.header.replica != self.replica_id:
                self.skew.note(batch, now_us)
            system_changed |= touches_system(batch)
        self.kept.note(now_us)
        if system_changed:
            self.sync.telling.hurry_all(now_us)
        effects = self.sync.published(flight.batches, now_us)
        effects += self.membership.published(system_changed, now_us)
        effects += self._met(now_us)
        for transaction in self.retries.due(self.replica.state):
            transaction.seal(self.limits)
            effects += self._settle(self.replica.submit(transaction, transaction, now_us))
        if self.replica.collectible:
            self.collector.take_over(self.replica.collectible)
        self._look_again(now_us)
        return effects + (self.durability.check(now_us) if len(self.durability) else [])

    # ------------------------------------------------------------------ streams

    def connected(self, peer: Any, now_us: int, *, initiator: bool) -> list[Effect]:
        """A stream to a peer is open."""
        return self.sync.connected(peer, now_us, initiator=initiator)

    def receive(self, peer: Any, data: bytes, now_us: int) -> list[Effect]:
        """Bytes came from a peer."""
        return self.sync.receive(peer, data, now_us)

    def disconnected(self, peer: Any, now_us: int) -> list[Effect]:
        """A stream is gone."""
        return self.sync.disconnected(peer, now_us)

    def log_read(
        self, request: Any, result: Sequence[StoredBatch] | CrdtmemError, now_us: int
    ) -> list[Effect]:
        """The answer to a ``ReadLog`` effect."""
        return self.sync.log_read(request, result, now_us)

    # ------------------------------------------------------------------ time

    def handle_timeout(self, now_us: int) -> list[Effect]:
        """Do what is due."""
        effects = self.replica.handle_timeout(now_us)
        effects += self.sync.handle_timeout(now_us)
        self.kept.handle_timeout(now_us)
        if self.skew.is_due(now_us):
            effects += self.skew.look(self.sync.clock_offsets_us(), now_us)
        if len(self.durability):
            effects += self.durability.check(now_us)
        if self._collect_at_us is not None and self._collect_at_us <= now_us:
            effects += self._collect(now_us)
        return effects

    def _collect(self, now_us: int) -> list[Effect]:
        """Write what drops stable removals, baselines and the like, a bounded number of keys."""
        effects: list[Effect] = []
        made: list[Transaction] = []
        if self.replica.halted is None:
            made = self.collector.transactions(self.epoch, self.replica.state, self.replica.policy)
        for transaction in made:
            # What a replica asks of itself is not sealed: see the collector.
            effects += self.replica.submit(None, transaction, now_us)
        # Nothing to write, and nothing left to look at: only news can change that.
        idle = not made and len(self.collector) <= KEYS_PER_LOOK
        self._collect_at_us = None if idle else now_us + COLLECT_EVERY_US
        return effects

    def _look_again(self, now_us: int) -> None:
        """Let what may be collected be looked at: something was published or acknowledged."""
        if self._collect_at_us is None and len(self.collector):
            self._collect_at_us = now_us + COLLECT_EVERY_US

    def next_deadline_us(self) -> int | None:
        """Return when ``handle_timeout`` has something to do, or ``None``."""
        next_us = self.sync.next_deadline_us()
        for time_us in (
            self.replica.next_deadline_us(),
            self.kept.next_deadline_us(),
            self.durability.next_deadline_us() if len(self.durability) else None,
            self._collect_at_us,
        ):
            if time_us is not None and (next_us is None or time_us < next_us):
                next_us = time_us
        return next_us

    # ------------------------------------------------------------------ what sync needs: SyncHost

    @property
    def limits(self) -> Limits:
        """The limits that bind frames, batches and local writes."""
        return self.replica.limits

    @property
    def state(self) -> State:
        """The published state."""
        return self.replica.state

    @property
    def replica_id(self) -> int:
        """This replica's id."""
        return self.identity.replica

    @property
    def tips(self) -> Mapping[int, tuple[int, bytes]]:
        """Per replica the last published sequence, and the hash of its batch."""
        return self.replica.tips

    @property
    def cluster_id(self) -> int:
        """The cluster's id, 0 while it is not founded here."""
        return self.membership.founding or self.epoch.cluster_id or 0

    @property
    def newcomer(self) -> bool:
        """Whether this replica waits for its admission, and so takes from one member only."""
        return not self.replica.writable

    def hello(self, credit_bytes: int) -> Hello:
        """Return this replica's introduction."""
        node = self.node
        return Hello(
            cluster=node.cluster,
            cluster_id=self.cluster_id,
            versions=PROTOCOL_VERSIONS,
            replica=self.replica_id,
            node=node.name,
            region=self.identity.region,
            boot=node.boot,
            vector=self.state.vector,
            hashes={replica: tip[1] for replica, tip in self.tips.items()},
            credit_bytes=credit_bytes,
            address=node.address,
            predecessor=node.predecessor or 0,
            predecessor_last=node.predecessor_last,
            peers=node.peers,
        )

    def decode(self, data: bytes) -> Batch:
        """Decode a batch; raises ``MalformedFrame``."""
        return decode_batch(data, known_fields=NESTED)

    def offer(self, batch: Batch) -> tuple[Verdict, list[Effect]]:
        """Offer a batch to the inbox."""
        if self.replica.halted is not None:
            # What comes after a cut was written without what this replica holds.
            return Verdict.BEYOND_CUT, []
        return self.replica.offer(batch)

    def take_through(self, replica: int) -> int:
        """Return the highest sequence of a replica that may be taken."""
        if self.replica.halted is not None:
            return self.state.vector.get(replica, 0)
        return self.membership.take_through(replica, self.state.vector)

    def acknowledge(self, replica: int, vector: Mapping[int, int], now_us: int) -> list[Effect]:
        """Note that a replica has durably joined ``vector``."""
        effects = self.membership.acknowledge(replica, vector, now_us)
        self._look_again(now_us)
        effects += self._met(now_us)
        self.kept.note(now_us)
        return effects + (self.durability.check(now_us) if len(self.durability) else [])

    def _met(self, now_us: int) -> list[Effect]:
        """Say to those whom we are linked to what has just been found out about them."""
        effects = self.sync.part(now_us)
        for gone in self.epoch.settled:
            session = self.sync.by_replica.get(gone)
            if session is not None:
                effects += tell_evicted(self, session)
        return effects

    def acknowledged(self) -> Mapping[int, VersionVector]:
        """Return the durable vectors known of members, for relaying."""
        epoch = self.epoch
        return {
            member: epoch.acknowledged(member) for member in epoch.members if member != epoch.own
        }

    def eviction_cut(self, replica: int) -> int | None:
        """Return the cut of an evicted replica, ``None`` for any other."""
        return self.epoch.settled.get(replica)

    def greeted(self, hello: Hello, now_us: int, *, dialled: bool) -> list[Effect]:
        """A peer was met, and is fit to talk to."""
        return self.membership.greeted(hello, now_us, dialled=dialled)

    def identity_questioned(self, peer: int, sequence: int, reason: str) -> list[Effect]:
        """A peer holds something under our id that we did not write: we are a copy."""
        return self.membership.questioned(f"{reason}, at sequence {sequence} ({peer:016x})")

    @property
    def fenced(self) -> Mapping[int, str]:
        """The replicas that wrote two histories."""
        return self.replica.inbox.fenced

    def yields_to(self, peer: int, less: bool) -> bool:
        """Of two who hold two histories of a third: tell whether we begin again."""
        return self.membership.yields_to(peer, less)

    def fork_lost(self, replica: int, peer: int) -> list[Effect]:
        """Begin again without our history of a replica."""
        return self.membership.fork_lost(replica, peer)

    def told_evicted(self, peer: int, cut: int) -> list[Effect]:
        """A peer says that this replica has been evicted, with its last valid sequence."""
        return self.membership.told_evicted(peer, cut)

    def install(self, installation: Installation, now_us: int) -> list[Effect]:
        """Join an installation through a flight of its own, unless it reaches beyond a cut."""
        return self.replica.install(installation)

    def _judge_installation(self, now_us: int) -> list[Effect]:
        """Refuse what reaches beyond a cut, or goes on with another history than is held here: at
        the last moment, for it may have waited for a flight."""
        replica, evictions = self.replica, self.membership.evictions
        installation = replica.installations[0]
        if replica.flight is not None:
            return []
        is_correction = installation.kind is Kind.CORRECTION
        forked = 0 if is_correction else self.membership.lost_below(installation.header.vector)
        if not forked and evictions.may_join(installation.header.vector):
            evictions.note_cuts(installation.header.cuts)
            return []
        replica.installations.popleft()
        peer = self.sync.inbound.source
        if not is_correction:
            self.sync.inbound.rejected(now_us)
            self.sync.guide.turn_away()
        if not forked:
            message = "a snapshot reaches beyond the cut of an eviction under way; not taken yet"
            return [Alarm("snapshot refused", message, {})]
        details = {"replica": forked, "peer": peer}
        message = f"a snapshot goes on with another history of {forked:016x} than is held here"
        lost = self.fork_lost(forked, peer) if self.yields_to(peer, True) else []
        return [Alarm("snapshot refused", message, details), *lost]

    def rederive(self, request: Any) -> list[Effect]:
        """Ask for the state to be rebuilt from the store and compared."""
        return [Rederive(request)]

    def find_evidence(self, request: Any, dots: Iterable[int]) -> list[Effect]:
        """Ask for a search of the log for batches that supersede these dots."""
        return [FindEvidence(request, frozenset(dots))]

    # ------------------------------------------------------------------ checkpoints

    def snapshot_header(self) -> SnapshotHeader:
        """Return what a checkpoint or a snapshot must say besides the entries."""
        replica, evictions = self.replica, self.membership.evictions
        return SnapshotHeader(
            vector=replica.state.vector.copy(),
            tips=dict(replica.tips),
            clock=(replica.clock.order, replica.clock.physical_us),
            cuts={**evictions.told_cuts, **self.epoch.settled},
            fenced=dict(replica.inbox.fenced),
            operations=replica.operations.listed(),
            extra={"epoch": self.epoch.to_value()},
        )

    def load_header(self, header: SnapshotHeader) -> None:
        """Take up what a checkpoint of this very replica said, before its log is replayed."""
        replica = self.replica
        replica.state.vector = header.vector.copy()
        replica.tips = dict(header.tips)
        replica.clock.recover(*header.clock)
        self.membership.evictions.note_cuts(header.cuts)
        replica.inbox.fenced.update(header.fenced)
        for identity, first, count in header.operations:
            replica.operations.learn(identity, first, count)
        epoch = header.extra.get("epoch")
        if epoch is not None:
            self.epoch.from_value(epoch)
