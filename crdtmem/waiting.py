"""Waiting for what has not arrived: transactions and readers, bounded by deadlines.

Problem: a write that stands on dots which this replica has not joined must not
be staged (the supersession would be forgotten), and a reader may ask for no
less than what it has seen elsewhere. Neither may wait for ever.

Idea: each names what it needs. After every publication, and at deadlines, those
whose needs are covered go on and those whose time is up are refused. Queues know how
many bytes they hold, so that a few large transactions are bounded as well as many
small ones. What waits for others to be heard of may wait for a day, so it takes half of the
room at most.

Invariants: nothing leaves before it is covered, except with ``NotCovered``; the size
of a queue is the sum of the sealed sizes of what is in it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from crdtmem.causality import Context, VersionVector
from crdtmem.effects import Effect, Reply
from crdtmem.errors import CrdtmemError, NotCovered, Overloaded, ReplicaHalted
from crdtmem.limits import Limits
from crdtmem.transaction import Operation, Transaction

__all__ = [
    "Pending",
    "TransactionQueue",
    "WaitingRoom",
    "is_full",
    "no_longer_writes",
    "not_a_member",
    "not_covered",
    "observed_dots",
    "overloaded",
]

_RETRY_MS: Final = 200


@dataclass(slots=True)
class Pending:
    """A queued transaction: ``needs`` are dots, ``after`` a vector, that come before it."""

    ticket: Any
    transaction: Transaction
    deadline_us: int = 0
    after: Mapping[int, int] = field(default_factory=dict)
    needs: frozenset[int] = frozenset()

    def gather_needs(self) -> None:
        """Add the dots that the transaction's operations observed."""
        self.needs |= observed_dots(self.transaction)

    def covered(self, vector: VersionVector) -> bool:
        """Tell whether everything that comes before it has been joined."""
        return not (self.needs or self.after) or (
            vector.covers_all(self.needs) and vector.dominates(self.after)
        )


def observed_dots(transaction: Transaction) -> frozenset[int]:
    """Return the dots that the operations of a transaction refer to: they come before it."""
    dots: frozenset[int] = frozenset()
    for step in transaction.steps:
        if type(step) is Operation and step.options and step.options.observed:
            dots |= step.options.observed
    return dots


class TransactionQueue:
    """Transactions in the order in which they will be staged, and how many bytes they hold."""

    __slots__ = ("_items", "size")

    def __init__(self) -> None:
        self._items: deque[Pending] = deque()
        self.size = 0

    def __len__(self) -> int:
        return len(self._items)

    @property
    def deadline_us(self) -> int:
        """The deadline of the first; there must be one."""
        return self._items[0].deadline_us

    def append(self, pending: Pending) -> None:
        """Add one at the end."""
        self._items.append(pending)
        self.size += pending.transaction.size

    def appendleft(self, pending: Pending) -> None:
        """Put one before all others."""
        self._items.appendleft(pending)
        self.size += pending.transaction.size

    def extend(self, items: Iterable[Pending]) -> None:
        """Add several at the end."""
        for pending in items:
            self.append(pending)

    def popleft(self) -> Pending:
        """Take the first out."""
        pending = self._items.popleft()
        self.size -= pending.transaction.size
        return pending

    def take(self) -> list[Pending]:
        """Take all out."""
        items = list(self._items)
        self._items.clear()
        self.size = 0
        return items


class WaitingRoom:
    """Who waits, and for what. ``size`` is the bytes of the transactions among them."""

    def __init__(self) -> None:
        self.size = 0
        self._parked: list[Pending] = []
        # By the identity of the ticket, so that one who gives up is found.
        self._readers: dict[int, tuple[Any, Mapping[int, int], int]] = {}

    def __len__(self) -> int:
        return len(self._parked) + len(self._readers)

    @property
    def readers(self) -> int:
        """How many readers wait."""
        return len(self._readers)

    def park(self, pending: Pending) -> None:
        """Keep a transaction until it is covered."""
        self.size += pending.transaction.size
        self._parked.append(pending)

    def expect(self, ticket: Any, vector: Mapping[int, int], deadline_us: int) -> None:
        """Keep a reader until ``vector`` has been joined."""
        self._readers[id(ticket)] = (ticket, dict(vector), deadline_us)

    def forget(self, ticket: Any) -> None:
        """Let go of a reader who no longer waits; one that is not here is none."""
        self._readers.pop(id(ticket), None)

    def is_crowded(self, transaction: Transaction, limits: Limits) -> bool:
        """Tell whether a transaction that would have to wait here finds no room."""
        if not self._parked:
            return False
        return (
            2 * len(self._parked) >= limits.queue_transactions
            or 2 * (self.size + transaction.size) > limits.queue_bytes
        )

    def wake(self, vector: VersionVector, now_us: int) -> tuple[list[Pending], list[Effect]]:
        """Return the transactions that may go on, and the answers that are due."""
        ready: list[Pending] = []
        answers: list[Effect] = []
        if not (self._parked or self._readers):
            return ready, answers
        for pending in self.take_parked():
            if pending.covered(vector):
                ready.append(pending)
            elif pending.deadline_us <= now_us:
                answers.append(Reply(pending.ticket, error=not_covered()))
            else:
                self.park(pending)
        readers, self._readers = self._readers, {}
        for number, (ticket, wanted, deadline_us) in readers.items():
            if vector.dominates(wanted):
                answers.append(Reply(ticket, Context(vector)))
            elif deadline_us <= now_us:
                answers.append(Reply(ticket, error=not_covered()))
            else:
                self._readers[number] = (ticket, wanted, deadline_us)
        return ready, answers

    def take_parked(self) -> list[Pending]:
        """Take out every waiting transaction."""
        parked, self._parked, self.size = self._parked, [], 0
        return parked

    def refuse_readers(self, error: CrdtmemError) -> list[Reply]:
        """Answer every waiting reader with an error."""
        readers, self._readers = self._readers, {}
        return [Reply(ticket, error=error) for ticket, _, _ in readers.values()]

    def deadlines_us(self) -> list[int]:
        """Return the times at which someone must be refused."""
        times = [pending.deadline_us for pending in self._parked]
        return times + [deadline_us for _, _, deadline_us in self._readers.values()]


def is_full(
    queue: TransactionQueue, waiting: WaitingRoom, transaction: Transaction, limits: Limits
) -> bool:
    """Tell whether a transaction finds no room among those that wait, by count or by bytes."""
    return (
        len(queue) + len(waiting) >= limits.queue_transactions
        or queue.size + waiting.size + transaction.size > limits.queue_bytes
    )


def overloaded() -> Overloaded:
    """Return the error for what found no room."""
    return Overloaded(
        "too many wait here already", hint="retry after a pause", retry_after_ms=_RETRY_MS
    )


def no_longer_writes(reason: str) -> ReplicaHalted:
    """Return the error for a write after this replica was halted."""
    return ReplicaHalted(
        f"this replica no longer writes: {reason}", hint="see 'crdtmem rescue --help'"
    )


def not_covered() -> NotCovered:
    """Return the error for what did not arrive in time."""
    return NotCovered(
        "what this operation stands on has not arrived here before its deadline",
        hint="wait longer, or write through the node that was read from",
    )


def not_a_member() -> NotCovered:
    """Return the error for a write before this replica was admitted."""
    return NotCovered(
        "this node has not been admitted to its cluster yet, so it cannot write",
        hint="check that a peer is reachable, or found a cluster with a node that has no peers",
    )
