"""Transactions: whole or not at all, in one batch, under one stamp.

Problem: half a transaction is visible for a moment only, to whoever looks then.

Idea: batches are published whole (``delivery`` sees to that), so a transaction is whole if it
lies whole in one batch: every acknowledged transaction's dots are those of one transaction of
one batch; and it wrote every place that its operations cannot leave alone. A refused
one wrote nothing, unless another attempt of it did.

Invariants: operations that may find nothing to do (a removal) need not have written.
"""

from __future__ import annotations

from crdtmem.entries import unpack_dot
from simulations.checkers.base import OfAnswers
from simulations.checkers.operations import Applied, Operations
from simulations.history import Call, History
from simulations.world import World

__all__ = ["Transactions"]

_WRITES = frozenset(
    {"set", "increment", "decrement", "append", "add", "enable", "mint", "burn", "consume"}
)
_REFUSED = frozenset({"condition_failed", "insufficient_rights", "limit_exceeded", "invalid_value"})


class Transactions(OfAnswers):
    """See the module."""

    name = "transactions"
    about = "a transaction is in one batch, whole; a refused one left nothing"

    def __init__(self, world: World, history: History) -> None:
        super().__init__(world, history)
        self._operations = history.index(Operations)

    def finished(self) -> None:
        """Look a last time, and at everything that was ever written for somebody."""
        super().finished()
        self._operations.update()
        for copies in self._operations.copies.values():
            for applied in copies:
                self._require_whole(applied)

    def check(self, call: Call) -> None:
        """Look at what it wrote, or whether it wrote nothing."""
        self._operations.update()
        if call.dots is not None and not call.repeated:
            self._check_written(call)
        elif call.outcome == "refused" and call.code in _REFUSED:
            self._check_refused(call)

    def _check_written(self, call: Call) -> None:
        assert call.dots is not None
        assert call.operation_id is not None
        first, count = call.dots
        if first >> 64 in self.history.forked or not count:
            return
        copies = self._operations.copies.get(call.operation_id, [])
        if not any(copy.first == first and copy.count == count for copy in copies):
            words = f"{unpack_dot(first)} and {count - 1} more of call {call.number} are not one"
            raise self.fail(f"{words} transaction", call.machine)

    def _check_refused(self, call: Call) -> None:
        assert call.operation_id is not None
        for copy in self._operations.copies.get(call.operation_id, []):
            if copy.call is call:
                words = f"call {call.number} was refused ({call.code}), and written all the same"
                raise self.fail(words, call.machine)

    def _require_whole(self, applied: Applied) -> None:
        batch = self.history.batch_of(applied.first)
        if batch is None:
            return
        written = {
            (segment.space, segment.datatype, key)
            for transaction in self.history.transactions(batch)
            if transaction.first == applied.first
            for segment in transaction.segments
            for key in ([segment.keys] if type(segment.keys) is str else segment.keys)
        }
        for item in applied.asked:
            if item.name in _WRITES and item.place not in written:
                words = f"{unpack_dot(applied.first)} lacks its {item.name} of {item.place}"
                raise self.fail(words, applied.call.machine)
