"""A small cluster without sockets, disks or time: replicas that hand each other batches.

Problem: whether a rule of membership holds is a question about the order in which batches and
acknowledgements arrive, so a test must be able to choose that order and nothing else may.

Idea: a ``Node`` is what an engine composes (replica, epoch, evictions, collector, retries), with
a list for a log and a commit that always works. Nothing moves between nodes but by ``pull`` (all
that one lacks of the other's log, and its acknowledgement), ``take`` (one batch) and ``hear`` (an
acknowledgement alone). Time is a counter.

Invariants: after every call nothing is queued and no flight is out; batches cross as bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from crdtmem.batch import Batch, decode_batch
from crdtmem.causality import VersionVector
from crdtmem.collector import Collector
from crdtmem.crdt import DATATYPES, NESTED
from crdtmem.effects import Alarm, Persist, Reply
from crdtmem.entries import pack_dot
from crdtmem.epoch import Epoch, admission_operations, founding_operations
from crdtmem.eviction import Evictions, Halt, SetCut
from crdtmem.inbox import Verdict
from crdtmem.limits import DEFAULT_LIMITS
from crdtmem.policy import SYSTEM_SPACE
from crdtmem.replica import Committed, Identity, Replica
from crdtmem.retries import Retries
from crdtmem.transaction import Operation, Options, Transaction

__all__ = ["SPACE", "Cluster", "Node", "act"]

SPACE = ("notes",)


def act(datatype: str, key: str, name: str, *arguments: Any, **options: Any) -> Operation:
    """Return one operation on a key of the space that the tests use."""
    given = Options(**options) if options else None
    return Operation(SPACE, DATATYPES[datatype].code, key, name, arguments, given)


class Node:
    """One replica, and what an engine would compose with it."""

    def __init__(self, cluster: Cluster, name: str, number: int) -> None:
        self.cluster = cluster
        self.name = name
        self.id = number
        self.replica = Replica(Identity(number, f"region-{name}"), DEFAULT_LIMITS)
        self.compose()
        self.log: dict[int, list[Batch]] = {}
        # What was joined when each batch of its own was written, by first sequence.
        self.pasts: dict[int, VersionVector] = {}
        self.sponsor: Node | None = None
        self.halted: Halt | None = None
        self.alarms: list[Alarm] = []
        self.collected = 0

    def compose(self) -> None:
        """Make the machines; tests of broken rules replace one."""
        self.epoch = Epoch(self.id)
        self.evictions = Evictions(self.id)
        self.collector = Collector()
        self.retries = Retries(self.id)

    def __repr__(self) -> str:
        return f"Node({self.name})"

    # ------------------------------------------------------------------ writing

    @property
    def vector(self) -> VersionVector:
        return self.replica.state.vector

    def write(self, *operations: Operation, author: str = "", retry: bytes | None = None) -> int:
        """Write one transaction; returns its first dot. Raises what refused it."""
        transaction = Transaction(author=author, operation_id=retry)
        for operation in operations:
            transaction.add(operation)
        return self.commit(transaction.seal(DEFAULT_LIMITS)).first

    def commit(self, transaction: Transaction) -> Committed:
        """Write a sealed transaction, and settle; returns its outcome, or raises the refusal."""
        ticket = object()
        effects = self.replica.submit(ticket, transaction, self.cluster.tick())
        effects += self.settle()
        (reply,) = (e for e in effects if isinstance(e, Reply) and e.ticket is ticket)
        if reply.error is not None:
            raise reply.error
        assert isinstance(reply.result, Committed)
        return reply.result

    def settle(self) -> list[Any]:
        """Commit flight after flight until nothing is left to do; returns all effects."""
        seen: list[Any] = []
        while self.replica.has_work:
            effects = self.replica.stage(self.cluster.tick())
            seen += effects
            flights = [effect.flight for effect in effects if isinstance(effect, Persist)]
            if not flights:
                break
            (flight,) = flights
            self.retries.note(flight.batches, self.replica.state)
            for batch in flight.batches:
                if batch.header.replica == self.id:
                    self.pasts[batch.header.first] = flight.dependencies.copy()
            seen += self.replica.persisted(flight, self.cluster.tick())
            for batch in flight.batches:
                self.log.setdefault(batch.header.replica, []).append(batch)
                self.epoch.note_batch(batch.header)
            if any(s.space == SYSTEM_SPACE for batch in flight.batches for s in batch.segments):
                self.epoch.refresh(self.replica.state)
                self.evictions.refresh(self.replica.state)
            for transaction in self.retries.due(self.replica.state):
                self._queue(transaction.seal(DEFAULT_LIMITS))
            self._react()
        return seen

    def _queue(self, transaction: Transaction) -> None:
        self.replica.submit(None, transaction, self.cluster.tick())

    def _react(self) -> None:
        operations, consequences = self.evictions.react(self.epoch, self.vector)
        for consequence in consequences:
            if isinstance(consequence, SetCut):
                self.replica.inbox.set_cut(consequence.replica, consequence.last)
            elif isinstance(consequence, Halt):
                self.halted = consequence
                self.replica.halt(consequence.reason)
            else:
                self.alarms.append(consequence)
        if operations:
            transaction = Transaction()
            for operation in operations:
                transaction.add(operation)
            self._queue(transaction)

    # ------------------------------------------------------------------ receiving

    def take(self, batch: Batch, source: Node | None = None) -> Verdict | None:
        """Offer one batch, as it comes from ``source``; ``None`` where the node does not listen."""
        if self.halted is not None or not self._listens_to(source):
            return None
        verdict, _ = self.replica.offer(decode_batch(batch.data, known_fields=NESTED))
        self.settle()
        return verdict

    def _listens_to(self, source: Node | None) -> bool:
        return self.epoch.is_member or self.sponsor is None or source in {None, self.sponsor}

    def hear(self, other: Node) -> None:
        """Learn the other's durable vector."""
        if self.halted is None:
            self.epoch.acknowledge(other.id, other.vector)
            self._react()
            self.settle()

    def lacking(self, other: Node, origins: Iterable[Node] = ()) -> list[Batch]:
        """Return the batches of the other's log that are beyond this node's vector."""
        wanted = {origin.id for origin in origins} or other.log.keys()
        return [
            batch
            for origin in sorted(wanted)
            for batch in other.log.get(origin, [])
            if batch.header.last > self.vector.get(origin, 0)
        ]

    def pull(self, other: Node, *origins: Node) -> None:
        """Take all that the other has and the rules let in, then its acknowledgement."""
        if not origins:
            self.hear(other)
        for batch in self.lacking(other, origins):
            self.take(batch, other)
        if not origins:
            self.hear(other)

    # ------------------------------------------------------------------ members

    def admit(
        self, newcomer: Node, *, predecessor: int | None = None, predecessor_last: int = 0
    ) -> None:
        """Sponsor a newcomer: it listens to this node alone until it has joined its admission."""
        assert self.evictions.admits(newcomer.vector, self.vector) is None
        newcomer.sponsor = self
        operations = admission_operations(
            self.epoch,
            newcomer.id,
            newcomer.replica.identity.region,
            newcomer.name,
            predecessor=predecessor,
            predecessor_last=predecessor_last,
        )
        if operations:
            self.write(*operations)

    def evict(self, victim: Node, *, forced: bool = False) -> None:
        operations = self.evictions.propose(self.epoch, self.vector, victim.id, forced=forced)
        if operations:
            self.write(*operations)

    def collect(self) -> int:
        """Run one round of collection; returns how many keys were written."""
        self.collector.take_over(self.replica.collectible)
        transactions = self.collector.transactions(
            self.epoch, self.replica.state, self.replica.policy
        )
        for transaction in transactions:
            self.commit(transaction)
        written = sum(len(transaction.steps) for transaction in transactions)
        self.collected += written
        return written

    def stable(self) -> VersionVector:
        return self.epoch.stable_vector(self.vector)

    # ------------------------------------------------------------------ reading

    def value(self, datatype: str, key: str) -> Any:
        return self.replica.read(SPACE, DATATYPES[datatype].code, key, self.cluster.now).value

    def last_dot(self) -> int:
        return pack_dot(self.id, self.vector[self.id])


class Cluster:
    """Nodes by name. The first founds the cluster and sponsors the others."""

    def __init__(self, names: str = "abc", kind: type[Node] = Node) -> None:
        self.now = 1_000_000
        self.kind = kind
        self.nodes: dict[str, Node] = {}
        first: Node | None = None
        for name in names:
            node = self.node(name)
            if first is None:
                first = node
                node.write(*founding_operations(node.replica.identity, name))
            else:
                first.admit(node)
                node.pull(first)
        self.sync()

    def __getitem__(self, name: str) -> Node:
        return self.nodes[name]

    def tick(self) -> int:
        self.now += 1
        return self.now

    def node(self, name: str) -> Node:
        """Return a new node that is no member yet."""
        node = self.nodes[name] = self.kind(self, name, 0x100 + len(self.nodes))
        return node

    def sync(self, names: str = "") -> None:
        """Let the named nodes pull from each other until nothing moves any more."""
        group = [self.nodes[name] for name in names or self.nodes]
        before: Any = None
        while before != (before := [self._place(node) for node in group]):
            for node in group:
                for other in group:
                    if node is not other:
                        node.pull(other)

    @staticmethod
    def _place(node: Node) -> Any:
        known = [(r, node.epoch.acknowledged(r).flat()) for r in sorted(node.epoch.records)]
        return node.vector.flat(), known, dict(node.epoch.settled), node.halted is None
