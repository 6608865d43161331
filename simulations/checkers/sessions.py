"""Sessions: read your writes, monotonic reads, writes follow reads, also while travelling.

Problem: causality that holds between replicas is of no use to a client who moves, unless
its context is honoured wherever it goes.

Idea: every call says which vector its client demanded to be covered. An answer that is not at
least that is a broken session: for a reading, its context; for a write, what its batch
depends on. What a reading then shows of that context is ``reads``'s to check, so the two
together are the session guarantees.

Invariants: an answer that names another transaction (a repetition) is held to its context only.
"""

from __future__ import annotations

from crdtmem.causality import VersionVector
from crdtmem.entries import SEQUENCE_BITS, SEQUENCE_MASK
from simulations.checkers.base import OfAnswers
from simulations.history import Call

__all__ = ["Sessions"]


class Sessions(OfAnswers):
    """See the module."""

    name = "sessions"
    about = "whoever moves reads their own writes, reads forward, and writes after what they read"

    def check(self, call: Call) -> None:
        """Compare what it was answered from with what it demanded."""
        if call.context is None:
            return
        if not call.context.dominates(call.demanded):
            words = f"call {call.number} was answered from before what it demanded"
            raise self.fail(words, call.machine)
        if call.dots is None:
            return
        first, count = call.dots
        replica, last = first >> SEQUENCE_BITS, (first & SEQUENCE_MASK) + count - 1
        if call.context.get(replica, 0) < last:
            raise self.fail(f"the context of call {call.number} lacks its own write", call.machine)
        batch = self.history.batch_of(first)
        if call.repeated or batch is None or replica in self.history.forked:
            return
        context = VersionVector(self.history.context(batch))
        context[replica] = last
        if not context.dominates(call.demanded):
            words = f"the write of call {call.number} does not depend on what its client had read"
            raise self.fail(words, call.machine)
