"""Clocks: orders extend causality, and no stamp ever steps back.

Problem: a clock that is set back, a restart, or a checkpoint that forgets the last stamp
makes a replica write what sorts before what it answers to.

Idea: once per batch, along its writer's chain, through all of its lives: transactions' orders
rise strictly, physical stamps never fall, and every order is above those of all that the
batch depends on.

Invariants: dependencies are coded as differences, so looking at those is enough.
"""

from __future__ import annotations

from crdtmem.batch import Batch
from crdtmem.entries import SEQUENCE_BITS, SEQUENCE_MASK
from simulations.checkers.base import Checker, Tail
from simulations.history import History
from simulations.node import Machine
from simulations.world import World

__all__ = ["Clocks"]


class Clocks(Checker):
    """See the module."""

    name = "clocks"
    about = "orders rise along every chain and extend causality; physical stamps never fall"

    def __init__(self, world: World, history: History) -> None:
        super().__init__(world, history)
        self._new_batches = Tail(history.log)

    def published(self, machine: Machine) -> None:
        """Look at the batches that are new."""
        self._look()

    def finished(self) -> None:
        """Look a last time."""
        self._look()

    def _look(self) -> None:
        for batch in self._new_batches:
            self._look_at(batch)

    def _look_at(self, batch: Batch) -> None:
        header = batch.header
        name = f"{header.replica:016x}:{header.first}"
        before = self.history.by_hash.get(header.previous_hash)
        order, physical_us = (0, 0) if before is None else before.transactions[-1][:2]
        for next_order, next_physical_us, _, _ in batch.transactions:
            if next_order <= order:
                raise self.fail(f"{name} has order {next_order} after {order}")
            if next_physical_us < physical_us:
                raise self.fail(f"{name} is stamped {next_physical_us} after {physical_us}")
            order, physical_us = next_order, next_physical_us
        first_order = batch.transactions[0][0]
        for replica, last in header.dependencies.items():
            cause = self.history.batch_of(replica << SEQUENCE_BITS | last)
            if cause is None or replica in self.history.forked:
                continue
            orders = [
                written.order
                for written in self.history.transactions(cause)
                if written.first & SEQUENCE_MASK <= last
            ]
            if max(orders) >= first_order:
                words = f"{name} has order {first_order}, its cause {replica:016x}:{last} a later"
                raise self.fail(words)
