"""One replica driven by hand: no loop, no disk, no clock but the one that a test sets.

``KernelNode`` plays the runtime: it submits, stages, and decides what becomes of each
flight (``land``, ``fail``, or left in the air). What it exchanges with another node goes
through bytes, as it would over a stream.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from typing import Any

from crdtmem.batch import Batch, decode_batch
from crdtmem.crdt import DATATYPES, NESTED
from crdtmem.effects import Alarm, Effect, Notify, Persist, Reply, SetTimer
from crdtmem.entries import pack_dot
from crdtmem.errors import CrdtmemError, StoreFailed
from crdtmem.flight import Flight
from crdtmem.inbox import Verdict
from crdtmem.limits import DEFAULT_LIMITS, Limits
from crdtmem.reading import Reading
from crdtmem.replica import Committed, Identity, Replica
from crdtmem.transaction import Operation, Options, Transaction

__all__ = [
    "NOW_US",
    "SPACE",
    "KernelNode",
    "operation",
    "puts",
    "settle",
    "siblings",
    "transaction_of",
]

SPACE = ("notes",)
NOW_US = 1_700_000_000_000_000
REGISTER = DATATYPES["register"].code


def operation(
    datatype: str, key: str, name: str, *arguments: Any, space: Any = SPACE, **options: Any
) -> Operation:
    """Return one operation; ``options`` are those of ``Options``."""
    chosen = Options(**options) if options else None
    return Operation(space, DATATYPES[datatype].code, key, name, arguments, chosen)


def puts(items: dict[str, Any], *, space: Any = SPACE, **shared: Any) -> Transaction:
    """Return a transaction of plain register writes."""
    transaction = Transaction(**shared)
    for key, value in items.items():
        transaction.put(space, REGISTER, key, value)
    return transaction


class KernelNode:
    """A replica and what its runtime would hold: replies, notifications, alarms, a log."""

    def __init__(
        self, replica: int = 1, region: str = "eu", limits: Limits = DEFAULT_LIMITS
    ) -> None:
        self.replica = Replica(Identity(replica, region), limits)
        self.now_us = NOW_US
        self.replies: dict[Any, Reply] = {}
        self.order: list[tuple[str, Any]] = []
        self.alarms: list[Alarm] = []
        self.log: list[Batch] = []
        self.flight: Flight | None = None
        self._tickets = count(1)

    # ------------------------------------------------------------------ the runtime's part

    def apply(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Reply):
                assert effect.ticket not in self.replies, "answered twice"
                if effect.ticket is not None:
                    self.replies[effect.ticket] = effect
                self.order.append(("reply", effect.ticket))
            elif isinstance(effect, Notify):
                self.order.append(("notify", [batch.header.last for batch in effect.batches]))
            elif isinstance(effect, Persist):
                assert self.flight is None
                self.flight = effect.flight
                self.order.append(("persist", len(effect.flight.batches)))
            elif isinstance(effect, Alarm):
                self.alarms.append(effect)
            else:
                # Whoever plays time here asks for the next deadline itself.
                assert isinstance(effect, SetTimer)

    def submit(self, transaction: Transaction, **more: Any) -> int:
        """Queue a transaction; returns its ticket."""
        ticket = next(self._tickets)
        transaction.seal(self.replica.limits)
        self.apply(self.replica.submit(ticket, transaction, self.now_us, **more))
        return ticket

    def stage(self) -> Flight | None:
        """Stage a flight, if there is work for one."""
        self.apply(self.replica.stage(self.now_us))
        return self.flight

    def land(self) -> None:
        """Let the flight that is out be durable."""
        assert self.flight is not None
        flight, self.flight = self.flight, None
        self.log += flight.batches
        self.apply(self.replica.persisted(flight, self.now_us))

    def fail(self, error: CrdtmemError | None = None) -> None:
        """Let the flight that is out be lost."""
        assert self.flight is not None
        flight, self.flight = self.flight, None
        self.apply(self.replica.failed(flight, error or StoreFailed("the disk said no")))

    def run(self) -> None:
        """Stage and land until nothing is left to do."""
        seen = -1
        while self.stage() is not None or len(self.alarms) > seen:
            seen = len(self.alarms)
            if self.flight is not None:
                self.land()

    # ------------------------------------------------------------------ the caller's part

    def commit(self, *steps: Operation | Transaction, **more: Any) -> Committed:
        """Commit one transaction, given whole or as operations; raises what refused it."""
        if len(steps) == 1 and isinstance(steps[0], Transaction):
            transaction = steps[0]
        else:
            shared = ("author", "trust", "operation_id", "metadata")
            transaction = Transaction(**{k: more.pop(k) for k in shared if k in more})
            for step in steps:
                assert isinstance(step, Operation)
                transaction.add(step)
        ticket = self.submit(transaction, **more)
        self.run()
        return self.answer(ticket)

    def answer(self, ticket: int) -> Committed:
        """Return what a ticket was answered with, or raise it."""
        reply = self.replies[ticket]
        if reply.error is not None:
            raise reply.error
        assert isinstance(reply.result, Committed)
        return reply.result

    def put(self, key: str, value: Any, **more: Any) -> Committed:
        """Write one register, the plain way."""
        return self.commit(puts({key: value}, **more))

    def read(self, key: str, datatype: str = "register", space: Any = SPACE) -> Reading:
        """Read one key."""
        return self.replica.read(space, DATATYPES[datatype].code, key, self.now_us)

    def value(self, key: str, datatype: str = "register") -> Any:
        """Return one key's value."""
        return self.read(key, datatype).value

    def offer(self, batch: Batch) -> Verdict:
        """Take in a batch of another node, from its bytes."""
        decoded = decode_batch(batch.data, known_fields=NESTED)
        verdict, effects = self.replica.offer(decoded)
        self.apply(effects)
        return verdict

    @property
    def written(self) -> list[Batch]:
        """The batches of its own, without those that it joined."""
        own = self.replica.identity.replica
        return [batch for batch in self.log if batch.header.replica == own]

    def join(self, *others: KernelNode) -> None:
        """Take in and join all that other nodes have written, and nothing that they relay."""
        for other in others:
            for batch in other.written:
                self.offer(batch)
        self.run()

    def dot(self, sequence: int) -> int:
        """Return the integer dot of one of this replica's deltas."""
        return pack_dot(self.replica.identity.replica, sequence)

    @property
    def digest(self) -> tuple[int, int]:
        """The digest of all live dots."""
        return self.replica.state.digest()

    def restarted(self) -> KernelNode:
        """Return a node recovered from this one's log, as after a crash."""
        fresh = KernelNode(*self.replica.identity, limits=self.replica.limits)
        fresh.now_us = self.now_us
        for batch in self.log:
            fresh.replica.recover_batch(decode_batch(batch.data, known_fields=NESTED))
        fresh.log = list(self.log)
        fresh.replica.recovered({})
        return fresh


def settle(*nodes: KernelNode) -> None:
    """Exchange everything until all nodes hold the same."""
    for _ in range(len(nodes)):
        for node in nodes:
            node.join(*(other for other in nodes if other is not node))


def transaction_of(*steps: Any, **shared: Any) -> Transaction:
    transaction = Transaction(**shared)
    for step in steps:
        transaction.add(step)
    return transaction


def siblings(node: KernelNode, key: str) -> list[Any]:
    """Return the concurrent values of a register, in the order of values."""
    return sorted(view.value for view in node.read(key).siblings)
