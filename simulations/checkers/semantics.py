"""Semantics: what a reader sees follows from what users asked for, by the rules on the page.

Problem: the oracle takes deltas at their word. A datatype that writes the wrong delta (a set
that removes what it never saw, a flag on which the wrong side wins) is consistent everywhere,
and wrong.

Idea: registers, sets, flags and logs by their definitions, from operations and what each had
seen alone: no dots are superseded here, no entries kept.

* A value, or the presence of an element, is there unless an operation on its place saw it.
* Where removal wins, a removal is there too, unless a later operation saw it, and an element
  with any removal is out. Clearing removes what is in, as far as it saw.
* A log holds what was appended by the copy of each operation that stands, unless a delete
  saw that, in an order that extends causality.

``saw`` is limited to an ``Observed`` where the client gave one, but for additions where
removal wins, which see all that their node holds. Checked at the end on one node (that all
agree is ``agreement``'s to say), and for some of the readings that clients got.

Invariants: keys with lifetimes, under an order of trust, or written by a rescue are left out,
and so are logs from which single entries were removed.

After Burckhardt, Gotsman, Yang and Zawirski, "Replicated Data Types: Specification,
Verification, Optimality".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from crdtmem.codec import thaw
from crdtmem.crdt import DATATYPES
from simulations.checkers.base import OfAnswers
from simulations.checkers.operations import Applied, Asked, Operations
from simulations.checkers.places import Place, place_of
from simulations.history import Call, History
from simulations.world import World

__all__ = ["Semantics"]

_READS: Final = 0.1
_MOST_EVENTS: Final = 400
_WHOLE: Final = "*"
"""The element of operations that are about all of a key."""

_REGISTERS: Final = frozenset({"register", "multi_value"})
_REMOVAL_WINS: Final = frozenset({"set_remove_wins", "flag_disable_wins"})
_NAMES: Final = {DATATYPES[name].code: name for name in DATATYPES}
_CHECKED: Final = _REGISTERS | _REMOVAL_WINS | {"set", "flag", "log"}

_ADDS: Final = frozenset({"set", "add", "update", "enable", "append", "extend"})
_TAKES: Final = frozenset({"remove", "disable"})
_CLEARS: Final = frozenset({"clear", "delete"})


class _Event(NamedTuple):
    """One operation on one element of a key, and where it stands in its transaction."""

    applied: Applied
    at: int
    name: str
    element: str
    value: Any

    def saw(self, other: _Event) -> bool:
        """Tell whether the other took place in this one's past."""
        if self.applied is other.applied:
            return other.at < self.at
        return self.applied.saw(other.applied)

    def observed(self, other: _Event) -> bool:
        """Tell whether this one may take back the other: seen, and observed if that was given."""
        if not self.saw(other):
            return False
        dots = self.applied.call.observed
        if dots is None or self.at or self.applied is other.applied:
            return True
        first = other.applied.first
        return any(first <= dot < first + other.applied.count for dot in dots)


class Semantics(OfAnswers):
    """See the module."""

    name = "semantics"
    about = "registers, sets, flags and logs show what their definitions make of the operations"

    def __init__(self, world: World, history: History) -> None:
        super().__init__(world, history)
        self._operations = history.index(Operations)

    def finished(self) -> None:
        """Check every key."""
        super().finished()
        machine = next(self.world.up(), None)
        if machine is None or self.history.forked:
            return
        self._operations.update()
        now_us, vector = self.world.kernel.now_us, machine.engine.state.vector
        for place in self._operations.places():
            if _NAMES[place[1]] in _CHECKED:
                self._check(place, machine.replica.read(*place, now_us), vector, machine.name)

    def check(self, call: Call) -> None:
        """Check some of the readings."""
        if call.step.kind != "read" or call.outcome != "ok" or self.history.forked:
            return
        arguments = call.step.arguments
        if arguments["datatype"] in _CHECKED - {"log"} and self.is_drawn(_READS):
            assert call.context is not None
            self._operations.update()
            self._check(place_of(arguments), call.result, call.context, call.machine)

    def _check(self, place: Place, reading: Any, vector: Mapping[int, int], where: str) -> None:
        known = [applied for applied in self._operations.at(place) if applied.is_in(vector)]
        if place in self._operations.rescued or any(_is_special(a) for a in known):
            return
        kind = _NAMES[place[1]]
        events = [event for applied in known for event in _events(applied, place)]
        if len(events) > _MOST_EVENTS:
            return
        if kind == "log":
            self._check_log(place, events, reading, vector, where)
            return
        if kind in _REGISTERS:
            shown = sorted(_text(thaw(entry[1])) for entry in reading.entries)
            expected = sorted(_text(event.value) for event in _surviving(events))
        elif kind in _REMOVAL_WINS:
            expected, shown = sorted(_present(events)), _shown(kind, reading)
        else:
            expected = sorted({event.element for event in _surviving(events)})
            shown = _shown(kind, reading)
        if shown != expected:
            words = f"{place} shows {shown!r:.300}, and must show {expected!r:.300}"
            raise self.fail(words, where)

    def _check_log(
        self,
        place: Place,
        events: list[_Event],
        reading: Any,
        vector: Mapping[int, int],
        where: str,
    ) -> None:
        if any(event.name == "remove" for event in events):
            return
        standing = [
            event
            for event in events
            if event.name not in _ADDS or self._operations.standing(event.applied, vector)
        ]
        survivors = sorted(_surviving(standing, adds_take=False), key=_rank)
        expected = [_text(event.value) for event in survivors]
        shown = [_text(value) for value in reading.value]
        if shown != expected:
            words = f"{place} shows {shown!r:.300}, and must show {expected!r:.300}"
            raise self.fail(words, where)


def _is_special(applied: Applied) -> bool:
    """Tell whether an operation follows rules that are not told here."""
    return bool(applied.call.step.arguments.get("trust")) or any(a.expires for a in applied.asked)


def _text(value: Any) -> str:
    # JSON tells 1 from 1.0 and from True, and has no bytes.
    return json.dumps(value, sort_keys=True, default=repr)


def _events(applied: Applied, place: Place) -> list[_Event]:
    """Return what a transaction did to a key, element by element, in order."""
    found: list[_Event] = []
    for number, item in enumerate(applied.asked):
        if item.place != place:
            continue
        for element, value in _elements(item):
            # 0 only in the first operation: what was observed was given for that one alone.
            found.append(_Event(applied, number + len(found), item.name, element, value))
    return found


def _elements(item: Asked) -> list[tuple[str, Any]]:
    """Return the elements that an operation is about, each with what it puts there."""
    kind, arguments = _NAMES[item.place[1]], item.arguments
    if item.name in _CLEARS or kind.startswith("flag"):
        return [(_WHOLE, None)]
    if kind in _REGISTERS or item.name == "append":
        return [(_WHOLE, arguments[0])]
    if kind == "log":
        return [(_WHOLE, value) for value in arguments[0]] if item.name == "extend" else [("", 0)]
    if item.name == "update":
        return [(_text(element), element) for element in arguments[0]]
    return [(_text(arguments[0]), arguments[0])]


def _rank(event: _Event) -> tuple[int, int, int]:
    return (*event.applied.rank, event.at)


def _touches(one: _Event, other: _Event) -> bool:
    """Tell whether an operation is about what another put there."""
    return one.element in (other.element, _WHOLE) or one.name in _CLEARS


def _surviving(events: list[_Event], *, adds_take: bool = True) -> list[_Event]:
    """Return the additions that no other operation on their place took back."""
    takers = [e for e in events if adds_take or e.name not in _ADDS]
    return [
        event
        for event in events
        if event.name in _ADDS
        and not any(t is not event and _touches(t, event) and t.observed(event) for t in takers)
    ]


def _present(events: list[_Event]) -> set[str]:
    """Return the elements that are in, where removal wins."""
    elements = dict.fromkeys(e.element for e in events if e.name not in _CLEARS)
    return {element for element in elements if _is_in(element, events)}


def _is_in(element: str, events: list[_Event]) -> bool:
    """Tell whether an element is in: an addition survives, and no removal does."""
    # In an order that extends causality, so that what a clearing saw is decided before it.
    done: list[_Event] = []
    for event in sorted(events, key=_rank):
        if event.name in _CLEARS:
            past = [earlier for earlier in done if event.saw(earlier)]
            live = _standing(past)
            is_absent = any(e.name not in _ADDS for e in live)
            if is_absent or not any(event.observed(e) for e in live):
                continue
            done.append(event)
        elif event.element == element:
            done.append(event)
    live = _standing(done)
    return bool(live) and all(event.name in _ADDS for event in live)


def _standing(events: list[_Event]) -> list[_Event]:
    """Return the additions and removals of one element that nothing took back."""
    return [event for event in events if not any(_takes_back(t, event) for t in events)]


def _takes_back(one: _Event, other: _Event) -> bool:
    if one is other:
        return False
    # An addition that left a removal standing would be none: it sees all that is held.
    return one.saw(other) if one.name in _ADDS else one.observed(other)


def _shown(kind: str, reading: Any) -> list[str]:
    """Return what a reading of a set or flag shows, as elements."""
    if kind.startswith("flag"):
        return [_WHOLE] if reading.value else []
    return sorted(_text(element) for element in reading.value)
