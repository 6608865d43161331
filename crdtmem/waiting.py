"""Waiting for what has not arrived: transactions and readers, bounded by deadlines.

Problem: a write that stands on dots which this replica has not joined must not
be staged (the supersession would be forgotten), and a reader may ask for no
less than what it has seen elsewhere. Neither may wait for ever.

Idea: each names what it needs. After every publication, and at deadlines, those
whose needs are covered go on and those whose time is up are refused.

Invariant: nothing leaves before it is covered, except with ``NotCovered``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from crdtmem.causality import Context, VersionVector
from crdtmem.effects import Reply
from crdtmem.errors import CrdtmemError, NotCovered
from crdtmem.transaction import Operation, Transaction

__all__ = ["Pending", "WaitingRoom", "not_a_member", "not_covered"]


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
        for step in self.transaction.steps:
            if type(step) is Operation and step.options and step.options.observed:
                self.needs |= step.options.observed

    def covered(self, vector: VersionVector) -> bool:
        """Tell whether everything that comes before it has been joined."""
        return not (self.needs or self.after) or (
            vector.covers_all(self.needs) and vector.dominates(self.after)
        )


class WaitingRoom:
    """Who waits, and for what."""

    def __init__(self) -> None:
        self._parked: list[Pending] = []
        self._readers: list[tuple[Any, Mapping[int, int], int]] = []

    def __len__(self) -> int:
        return len(self._parked) + len(self._readers)

    def park(self, pending: Pending) -> None:
        """Keep a transaction until it is covered."""
        self._parked.append(pending)

    def expect(self, ticket: Any, vector: Mapping[int, int], deadline_us: int) -> None:
        """Keep a reader until ``vector`` has been joined."""
        self._readers.append((ticket, dict(vector), deadline_us))

    def wake(self, vector: VersionVector, now_us: int) -> tuple[list[Pending], list[Reply]]:
        """Return the transactions that may go on, and the answers that are due."""
        ready: list[Pending] = []
        answers: list[Reply] = []
        parked, self._parked = self._parked, []
        for pending in parked:
            if pending.covered(vector):
                ready.append(pending)
            elif pending.deadline_us <= now_us:
                answers.append(Reply(pending.ticket, error=not_covered()))
            else:
                self._parked.append(pending)
        readers, self._readers = self._readers, []
        for ticket, wanted, deadline_us in readers:
            if vector.dominates(wanted):
                answers.append(Reply(ticket, Context(vector)))
            elif deadline_us <= now_us:
                answers.append(Reply(ticket, error=not_covered()))
            else:
                self._readers.append((ticket, wanted, deadline_us))
        return ready, answers

    def take_parked(self) -> list[Pending]:
        """Take out every waiting transaction."""
        parked, self._parked = self._parked, []
        return parked

    def refuse_readers(self, error: CrdtmemError) -> list[Reply]:
        """Answer every waiting reader with an error."""
        readers, self._readers = self._readers, []
        return [Reply(ticket, error=error) for ticket, _, _ in readers]

    def deadlines_us(self) -> list[int]:
        """Return the times at which someone must be refused."""
        times = [pending.deadline_us for pending in self._parked]
        return times + [deadline_us for _, _, deadline_us in self._readers]


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
