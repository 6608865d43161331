"""Operations: what users asked for, each with its place in cause and effect.

Problem: some promises are about operations (an increment counts once, a removal wins over
what it had not seen) and say nothing of deltas; a checker that derived them from deltas
would share the mistakes of whoever made those.

Idea: a transaction's operation id leads from the history's batches back to the step that a
client performed. An ``Applied`` is one such transaction: its operations as they were asked
for, its dots, its rank in canonical order, and what its writer had joined. Of several with
one id (repeated without an answer) the one of lowest rank *stands*.

Invariants: what nobody asked for (collection, removal of what expired, compensation) is no
operation; nothing here looks at values, distances or superseded dots.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from crdtmem.causality import VersionVector
from crdtmem.crdt import DATATYPES
from crdtmem.entries import SEQUENCE_BITS, SEQUENCE_MASK
from crdtmem.rescue import RESCUE_PREFIX
from simulations.checkers.base import Checker, Tail
from simulations.checkers.places import Place, Places, place_of
from simulations.history import Call, History
from simulations.node import Machine
from simulations.world import World

__all__ = ["REGISTERS", "Applied", "Asked", "OfWrites", "Operations"]

REGISTERS: Final = frozenset(DATATYPES[name].code for name in ("register", "multi_value"))
"""The datatypes whose writes displace what their writer saw, by their codes."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One operation of a step; ``expires`` tells whether it was given a lifetime."""

    place: Place
    name: str
    arguments: tuple[Any, ...]
    expires: bool


@dataclass(frozen=True, slots=True, eq=False)
class Applied:
    """One transaction of a client, as some origin wrote it.

    ``call`` is the attempt that it answers, as far as that is known: the last one that was
    made at that origin. ``context`` is the batch's, to which the origin's own part up to
    ``first`` belongs as well.
    """

    operation_id: bytes
    call: Call
    asked: tuple[Asked, ...]
    first: int
    count: int
    rank: tuple[int, int]
    physical_us: int
    context: VersionVector

    @property
    def replica(self) -> int:
        """Who wrote it."""
        return self.first >> SEQUENCE_BITS

    @property
    def basis(self) -> VersionVector:
        """What had been joined where and when it was staged, the writer's own part included."""
        vector = VersionVector(self.context)
        vector[self.replica] = (self.first & SEQUENCE_MASK) - 1
        return vector

    @property
    def last_sequence(self) -> int:
        """Its last sequence."""
        return (self.first & SEQUENCE_MASK) + self.count - 1

    def is_in(self, vector: Mapping[int, int]) -> bool:
        """Tell whether a vector covers it."""
        return vector.get(self.replica, 0) >= self.last_sequence

    def saw(self, other: Applied) -> bool:
        """Tell whether the other was joined where and when this was staged."""
        if other.replica == self.replica:
            return other.first < self.first
        return self.context.get(other.replica, 0) >= other.last_sequence


class Operations:
    """All transactions of clients that were ever durable, brought up to date when asked."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._new_batches = Tail(history.log)
        self._new_calls = Tail(history.calls)
        self._calls: dict[bytes, list[Call]] = {}
        self._by_place: dict[Place, list[Applied]] = {}
        self.copies: dict[bytes, list[Applied]] = {}
        # All of them, as they became known: for a ``Tail``.
        self.found: list[Applied] = []
        # Keys that were written by a rescue, which repeats what it finds in its own words.
        self.rescued: set[Place] = set()

    def update(self) -> None:
        """Take in what is new."""
        for call in self._new_calls:
            if call.operation_id is not None:
                self._calls.setdefault(call.operation_id, []).append(call)
        for batch in self._new_batches:
            for written in self._history.transactions(batch):
                name = written.operation_id
                if name is not None and name in self._calls:
                    context = self._history.context(batch)
                    rank = (written.order, written.first)
                    replica = written.first >> SEQUENCE_BITS
                    call = self._attempt(name, replica)
                    asked = tuple(_asked(call))
                    applied = Applied(
                        name,
                        call,
                        asked,
                        written.first,
                        written.count,
                        rank,
                        written.physical_us,
                        context,
                    )
                    self.copies.setdefault(name, []).append(applied)
                    self.found.append(applied)
                    for place in dict.fromkeys(item.place for item in asked):
                        self._by_place.setdefault(place, []).append(applied)
                elif name is not None and name.startswith(RESCUE_PREFIX):
                    for segment in written.segments:
                        keys = [segment.keys] if type(segment.keys) is str else segment.keys
                        self.rescued.update((segment.space, segment.datatype, k) for k in keys)

    def _attempt(self, name: bytes, replica: int) -> Call:
        attempts = self._calls[name]
        return next((c for c in reversed(attempts) if c.replica == replica), attempts[-1])

    def attempts(self, applied: Applied) -> list[Call]:
        """Return every attempt of an operation that was made at the origin of one copy."""
        calls = self._calls[applied.operation_id]
        return [call for call in calls if call.replica == applied.replica]

    def places(self) -> list[Place]:
        """Return every key that a client's transaction was about, sorted."""
        return sorted(self._by_place)

    def at(self, place: Place) -> list[Applied]:
        """Return the transactions that were about a key, as they became known."""
        return self._by_place.get(place, [])

    def standing(self, applied: Applied, vector: Mapping[int, int]) -> bool:
        """Tell whether of all copies that a vector covers this is the one that counts."""
        copies = [copy for copy in self.copies[applied.operation_id] if copy.is_in(vector)]
        return applied is min(copies, key=lambda copy: copy.rank, default=applied)


class OfWrites(Checker):
    """Looks at every transaction of a client, once, some time after it became durable."""

    def __init__(self, world: World, history: History) -> None:
        super().__init__(world, history)
        self._places = history.index(Places)
        self._operations = history.index(Operations)
        self._new = Tail(self._operations.found)

    def published(self, machine: Machine) -> None:
        """Look at what was written since, now and then: it does not change."""
        if self.is_drawn():
            self._look()

    def finished(self) -> None:
        """Look at the rest."""
        self._look()

    def _look(self) -> None:
        self._operations.update()
        for applied in self._new:
            self.check(applied)

    @abstractmethod
    def check(self, applied: Applied) -> None:
        """Look at one transaction; raises ``Violation``."""


def _asked(call: Call) -> Iterator[Asked]:
    arguments = call.step.arguments
    if call.step.kind == "transfer":
        place = place_of(arguments, "bounded_counter")
        yield Asked(place, "transfer", (arguments["amount"],), False)
    if call.step.kind in ("edit", "update"):
        yield Asked(place_of(arguments, "document"), "update", (), False)
    for space, datatype, key, name, given, *options in arguments.get("operations", ()):
        place = (tuple(space), DATATYPES[datatype].code, key)
        expires = bool(options and options[0].get("ttl_ms") is not None)
        yield Asked(place, name, tuple(given), expires)
