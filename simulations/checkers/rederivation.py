"""Rederivation: the state in memory is what the store leads to.

Problem: a state is built up join by join over weeks, and rebuilt from a checkpoint and a log
after every crash; if the two differ, a restart changes what people see.

Idea: at rare drawn moments, when log and state are at rest, and at the end, the production
code of recovery derives the state from the store anew. Vector, digest and every entry must
be equal. A log that was damaged on purpose meanwhile proves nothing.

Invariants: reads only; the store is not opened a second time.
"""

from __future__ import annotations

from typing import Any

from crdtmem.errors import StoreError
from crdtmem.recovery import rederive
from crdtmem.table import State
from simulations.checkers.base import Checker, is_quiet
from simulations.node import Machine

__all__ = ["Rederivation", "content"]

_LOOKS = 0.002

Content = dict[tuple[Any, ...], tuple[object, ...]]


class Rederivation(Checker):
    """See the module."""

    name = "rederivation"
    about = "the state in memory equals what checkpoint and log lead to"

    def published(self, machine: Machine) -> None:
        """Derive a state anew, rarely."""
        if self.is_drawn(_LOOKS):
            self._compare(machine)

    def finished(self) -> None:
        """Derive every state anew."""
        for machine in self.world.up():
            self._compare(machine)

    def _compare(self, machine: Machine) -> None:
        store = machine.store
        if store is None or not is_quiet(machine):
            return
        state = machine.engine.state
        try:
            again = rederive(store)
        except StoreError as error:
            if self.history.harms.get(machine.name):
                return
            raise self.fail(f"the state cannot be derived: {error}", machine) from error
        if again.vector != state.vector:
            words = f"the vector is {state.vector}, the store leads to {again.vector}"
            raise self.fail(words, machine)
        held, derived = content(state), content(again)
        if held != derived:
            differing = held.keys() ^ derived.keys() or {
                name for name in held if held[name] != derived[name]
            }
            some = sorted(map(repr, differing))[:3]
            raise self.fail(f"{len(differing)} entries differ, such as {some}", machine)
        if again.digest() != state.digest():
            raise self.fail("the digest differs from that of the very same entries", machine)


def content(state: State) -> Content:
    """Return every entry of a state, by place and dot."""
    return {
        (table.space, table.datatype, key, field, dot): (repr(value), stamp.identity())
        for table, key, field, (dot, value, stamp) in state.entries()
    }
