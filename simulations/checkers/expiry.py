"""Expiry: what has expired is seen by nobody, and is gone in the end.

Problem: expiry is judged on read, everywhere by another clock, and carried out by one; an
entry that is never removed keeps its memory, and one that is removed too early was promised
for longer.

Idea: a removal that no client asked for, of an entry with a lifetime, comes from the entry's
own origin, or from another once the origin's eviction is final, and not before its time by
the remover's clock. At the end, what expired well before is no longer held, if its origin
lives, or its origin's heir: the lowest live member.

Invariants: that readings at equal moments agree is ``agreement``'s, that they show nothing
expired ``reads``'s to check.
"""

from __future__ import annotations

from crdtmem.entries import SEQUENCE_BITS, SEQUENCE_MASK, unpack_dot
from simulations.checkers.base import Checker, Tail
from simulations.checkers.stability import collected_by
from simulations.history import History, Written
from simulations.node import Machine
from simulations.world import World

__all__ = ["Expiry"]

_GRACE_US = 5_000_000


class Expiry(Checker):
    """See the module."""

    name = "expiry"
    about = "what expires is removed by its origin or heir, not too early, and in the end"

    def __init__(self, world: World, history: History) -> None:
        super().__init__(world, history)
        self._new_batches = Tail(history.log)
        self._gone: set[int] = set()

    def started(self, machine: Machine) -> None:
        """Note whose eviction is final to it."""
        self._gone |= machine.engine.epoch.settled.keys()

    def published(self, machine: Machine) -> None:
        """Look at the removals since."""
        self._gone |= machine.engine.epoch.settled.keys()
        self._look()

    def finished(self) -> None:
        """Look at the removals, and at what was not removed."""
        self._look()
        origins = {m.engine.replica_id: m for m in self.world.up()}
        for machine in self.world.up():
            for _, key, _, (dot, _, stamp) in machine.engine.state.entries():
                epoch, writer = machine.engine.epoch, dot >> SEQUENCE_BITS
                heir = epoch.lowest_live_member() if writer in epoch.settled else None
                origin = origins.get(writer if heir is None else heir)
                if stamp.expires_at_us is None or origin is None:
                    continue
                if stamp.expires_at_us + _GRACE_US < origin.clock.now_us():
                    words = f"{unpack_dot(dot)} at {key!r} expired, and {origin.name} kept it"
                    raise self.late(words, machine)

    def _look(self) -> None:
        for batch in self._new_batches:
            for written in self.history.transactions(batch):
                if written.operation_id is None:
                    self._check(written)

    def _check(self, written: Written) -> None:
        for dot in collected_by(written):
            found = self.history.delta(dot)
            expires_at_us = None if found is None else found[0].stamp.expires_at_us
            if expires_at_us is None or found is None:
                continue
            own = dot >> SEQUENCE_BITS == written.first >> SEQUENCE_BITS
            others_may = found[0].datatype in _COLLECTIBLE
            inherited = not own and not others_may and dot >> SEQUENCE_BITS in self._gone
            if (own or inherited) and expires_at_us > written.physical_us:
                words = f"{unpack_dot(dot)} was removed before it expired"
                raise self.fail(words)
            if not own and not inherited and not others_may and dot & SEQUENCE_MASK:
                words = f"{unpack_dot(dot)} was removed as expired by another than its origin"
                raise self.fail(words)


_COLLECTIBLE = frozenset({9, 10, 12})
"""Datatypes in which others may drop an entry for other reasons: remove-wins sets, maps,
documents."""
