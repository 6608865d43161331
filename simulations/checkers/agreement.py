"""Agreement: equal vectors, equal digests, equal answers.

Problem: replicas that hold the same dots may still answer differently: other values under
one dot, another order, a resolver that looks at what it should not.

Idea: whenever a drawn node has the vector of another, their digests are compared; more
rarely, and for everybody at the end, every key of every space is read on all of them, under
every resolver, at several moments (the same for all), with all that a careful reader gets.

Invariants: nodes that hold different histories of one forked id are not compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from crdtmem.batch import SpaceName
from crdtmem.crdt import DATATYPES, DATATYPES_BY_CODE
from crdtmem.entries import as_siblings
from crdtmem.policy import Policy
from crdtmem.reading import SpaceReader, entries_of_place
from crdtmem.resolve import RESOLVERS
from simulations.checkers.base import Checker, is_maimed
from simulations.kernel import EPOCH_US
from simulations.node import Machine

__all__ = ["Agreement"]

_READS: Final = 0.2
_SAMPLE: Final = 30
_LATER_US: Final = 3_600_000_000
_RESOLVED: Final = frozenset(DATATYPES[name].code for name in ("register", "multi_value", "map"))

Key = tuple[SpaceName, int, str]
Answers = dict[str, Any]


class Agreement(Checker):
    """See the module."""

    name = "agreement"
    about = "equal vectors imply equal digests, and equal reads of every key by every resolver"

    def published(self, machine: Machine) -> None:
        """Compare a drawn node with those that know as much."""
        if not self.is_drawn():
            return
        for other in self.world.up():
            if other is not machine and self._is_comparable(machine, other):
                self._compare_digests(machine, other)
                if self.is_drawn(_READS):
                    keys = _keys(machine)
                    chosen = self._random.sample(keys, min(_SAMPLE, len(keys)))
                    self._compare_reads(machine, [other], chosen, (self.world.kernel.now_us,))

    def finished(self) -> None:
        """Compare everybody with the first, in everything."""
        machines = list(self.world.up())
        if not machines:
            return
        first, *others = machines
        now_us = self.world.kernel.now_us
        moments = (EPOCH_US, now_us, now_us + _LATER_US)
        for other in others:
            if self._is_comparable(first, other):
                self._compare_digests(first, other)
                ours, theirs = _keys(first), _keys(other)
                if ours != theirs:
                    differing = sorted(set(ours) ^ set(theirs))
                    raise self.fail(f"it and {other.name} hold other keys: {differing}", first)
        self._compare_reads(first, others, _keys(first), moments)

    def _is_comparable(self, machine: Machine, other: Machine) -> bool:
        if machine.engine.state.vector != other.engine.state.vector:
            return False
        if is_maimed(self.history, machine) or is_maimed(self.history, other):
            return False
        ours, theirs = machine.replica.tips, other.replica.tips
        return all(ours.get(replica) == theirs.get(replica) for replica in self.history.forked)

    def _compare_digests(self, machine: Machine, other: Machine) -> None:
        if machine.engine.state.digest() != other.engine.state.digest():
            words = f"it and {other.name} have one vector and two digests"
            raise self.fail(words, machine)

    def _compare_reads(
        self,
        machine: Machine,
        others: Iterable[Machine],
        keys: Iterable[Key],
        moments: Sequence[int],
    ) -> None:
        others = [other for other in others if self._is_comparable(machine, other)]
        for place in keys:
            for now_us in moments if _expires(machine, place) else moments[-1:]:
                ours = _readings(machine, place, now_us)
                for other in others:
                    theirs = _readings(other, place, now_us)
                    if ours != theirs:
                        raise self.fail(_difference(place, ours, theirs, other.name), machine)


def _difference(place: Key, ours: Answers, theirs: Answers, other: str) -> str:
    """Say in which answer two nodes differ."""
    what = next(name for name in ours | theirs if ours.get(name) != theirs.get(name))
    return f"{place}, {what}: {ours.get(what)!r:.200} here, {theirs.get(what)!r:.200} on {other}"


def _expires(machine: Machine, place: Key) -> bool:
    """Tell whether anything that a node holds of a key has a lifetime."""
    space, code, key = place
    held = machine.engine.state.table(space, code).slots.get(key)
    slots = held.values() if DATATYPES_BY_CODE[code].nested and held else [held]
    return any(entry[2].expires_at_us is not None for slot in slots for entry in as_siblings(slot))


def _keys(machine: Machine) -> list[Key]:
    """Return everything that a node holds, sorted."""
    tables = machine.engine.state.tables
    return sorted((space, code, key) for (space, code), t in tables.items() for key in t.slots)


def _readings(machine: Machine, place: Key, now_us: int) -> Answers:
    """Return all answers that a node has about one key, by what was asked."""
    space, code, key = place
    kind = DATATYPES_BY_CODE[code]
    table = machine.engine.state.find(space, code)
    held = None if table is None else table.slots.get(key)
    reader = SpaceReader(now_us, machine.replica.policy(space))
    entries = entries_of_place(held, nested=kind.nested, reader=reader)
    conflicts = sorted(repr(field) for field, _ in kind.conflicts(held, reader))
    answers: Answers = {
        # As text, here and below: not a number is not equal to itself.
        "value": repr(kind.value(held, reader)),
        "exists": kind.exists(held, reader),
        "also": kind.also(held, reader),
        # With types: 1 and True are equal.
        "entries": [(dot, repr(value), stamp.identity()) for dot, value, stamp in entries],
        "conflicts": conflicts,
    }
    if code in _RESOLVED and conflicts:
        for name, version in RESOLVERS:
            resolved = SpaceReader(now_us, Policy(name, version))
            answers[f"{name}@{version}"] = repr(kind.value(held, resolved))
    return answers
