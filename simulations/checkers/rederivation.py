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
from simulations.checkers.base import NowAndThen, is_quiet
from simulations.node import Machine

__all__ = ["Rederivation", "content"]

Content = dict[tuple[Any, ...], tuple[object, ...]]


class Rederivation(NowAndThen):
    """See the module."""

    name = "rederivation"
    about = "the state in memory equals what checkpoint and log lead to"
    looks = 0.002

    def look(self, machine: Machine) -> None:
        """Derive its state anew."""
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
