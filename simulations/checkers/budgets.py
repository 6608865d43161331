"""Budgets: a bounded counter is never overspent.

Problem: rights that exist twice are found out long after they were spent.

Idea: from operations alone: at every published vector that is looked at, what was spent less
what was given back is at most what was minted less what was burned, and what is
available is exactly the difference. Operations that were written twice are allowed for: a
copy is taken back by its opposite. From the state: nobody's rights are below zero in
anybody's eyes.

Invariants: keys that were deleted, which forgets what was minted, are only held to the last.
"""

from __future__ import annotations

from collections.abc import Mapping

from crdtmem.crdt import DATATYPES
from crdtmem.crdt.bounded import BoundedCounter
from crdtmem.entries import as_siblings
from simulations.checkers.base import NowAndThen
from simulations.checkers.operations import Operations
from simulations.checkers.places import Place
from simulations.history import History
from simulations.node import Machine
from simulations.world import World

__all__ = ["Budgets"]

_KIND = BoundedCounter()
_SIGNS = {"mint": (1, 0), "burn": (-1, 0), "consume": (0, 1), "release": (0, -1)}


class Budgets(NowAndThen):
    """See the module."""

    name = "budgets"
    about = "what is spent of a bounded counter never exceeds what was minted less burned"
    looks = 0.05

    def __init__(self, world: World, history: History) -> None:
        super().__init__(world, history)
        self._operations = history.index(Operations)

    def look(self, machine: Machine) -> None:
        """Look at one node."""
        state = machine.engine.state
        keys = [
            (space, code, key)
            for (space, code), table in state.tables.items()
            if code == BoundedCounter.code
            for key in table.slots
        ]
        if keys:
            self._operations.update()
        for place in keys:
            space, code, key = place
            entries = as_siblings(state.table(space, code).slots[key])
            for owner, holding in sorted(_KIND.holdings(entries).items()):
                if holding.rights < 0:
                    words = f"{owner:016x} holds {holding.rights} rights of {key!r}"
                    raise self.fail(words, machine)
            held = _KIND.holdings(entries).values()
            available = sum(holding.rights for holding in held)
            self._check(place, available, state.vector, machine)

    def _check(
        self, place: Place, available: int, vector: Mapping[int, int], machine: Machine
    ) -> None:
        if self.history.forked or place in self._operations.rescued:
            return
        minted = spent = slack = 0
        for applied in self._operations.at(place):
            if not applied.is_in(vector):
                continue
            for item in applied.asked:
                if item.place != place or item.name == "transfer":
                    continue
                if item.name == "delete":
                    return
                amount = item.arguments[0] if item.arguments else 1
                grants, spends = (sign * amount for sign in _SIGNS[item.name])
                minted, spent = minted + grants, spent + spends
                if len(self._operations.copies[applied.operation_id]) > 1:
                    slack += amount
        if spent - slack > minted + slack:
            words = f"{spent} of {place[2]!r} is spent, {minted} was granted"
            raise self.fail(words, machine)
        if abs(available - (minted - spent)) > slack:
            words = f"{available} of {place[2]!r} is available of {minted} less {spent}"
            raise self.fail(words, machine)


assert DATATYPES[BoundedCounter.name].code == BoundedCounter.code
