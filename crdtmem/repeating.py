"""Repeating lost operations: from deltas back to what somebody did.

Problem: a delta says what became of an operation at one place and time. To do
the operation again elsewhere and later, it has to be read back out of the delta,
with what it had observed then, and nothing that it had not.

Idea, datatype by datatype:

* A value goes back where it was, with an ``Observed`` of what it had superseded.
  What was known beyond the origin keeps its dot; what was lost itself is known by
  the dot under which it was rescued (its metadata ``o`` names the lost one), or,
  where it was not, by whatever that had superseded in turn.
* A total becomes what it added to the one before, so far as no lost reset took
  that away again. A baseline becomes a reset of those fields that have not
  counted on, and for others a count in the other direction, by exactly what the
  baseline would still cover.
* An addition to a remove-wins place stays lost where a removal that it had not
  seen stands: it would have lost against it then.
* A document's update weaves itself in; its removal is repeated if nothing was
  written since, for half a document is none. Compactions and collections are not
  repeated, nor rights of bounded counters (they stay stranded), nor what changed
  the members (it is void); a space's policy is a value like any other.

Invariants: nothing is superseded that the lost operation had not observed; a
count is never repeated as a total.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from operator import le
from typing import Any, NamedTuple

from crdtmem.batch import REMOVED, Batch, Segment, SpaceName
from crdtmem.causality import VersionVector
from crdtmem.codec import thaw
from crdtmem.crdt import DATATYPES_BY_CODE
from crdtmem.crdt.base import field_element
from crdtmem.crdt.bounded import BoundedCounter
from crdtmem.crdt.counter import Counter
from crdtmem.crdt.document import Document
from crdtmem.crdt.flag import DisableWinsFlag, EnableWinsFlag
from crdtmem.crdt.log import Log
from crdtmem.crdt.map import Map
from crdtmem.crdt.member import Path, member_field, parse_field
from crdtmem.crdt.register import MultiValue, Register
from crdtmem.crdt.set import AddWinsSet, RemoveWinsSet
from crdtmem.crdt.totals import Amounts, RunningField, RunningTotals
from crdtmem.entries import SEQUENCE_BITS, Dot, Entry, Field, as_siblings, pack_dot, unpack_dot
from crdtmem.errors import HistoryGap
from crdtmem.policy import SYSTEM_SPACE, policy_space
from crdtmem.table import State
from crdtmem.transaction import Operation, Options

__all__ = [
    "PastDelta",
    "OriginPast",
    "Place",
    "columns",
    "held_at",
    "joined_baselines",
    "moved",
    "operation_at",
    "parse_dot",
    "place_of",
    "repeat",
]


class Place(NamedTuple):
    """Where a datatype lives: under a key, or at a path in a map."""

    space: SpaceName
    key: str
    path: Path | None
    datatype: int


class PastDelta(NamedTuple):
    """One delta of a batch, with the segment that it stands in."""

    segment: Segment
    dot: int
    key: str
    field: Field | None
    value: Any
    superseded: tuple[int, ...]


def place_of(delta: PastDelta) -> tuple[Place, Field | None]:
    """Return where a delta belongs, and the field within it; a map's own where unreadable."""
    segment = delta.segment
    if segment.datatype == Map.code and delta.field is not None:
        member = parse_field(delta.field)
        if member is not None and member.datatype in DATATYPES_BY_CODE:
            return Place(segment.space, delta.key, member.path, member.datatype), member.field
    return Place(segment.space, delta.key, None, segment.datatype), delta.field


def held_at(place: Place, state: State, name: Field | None = None) -> tuple[Entry, ...]:
    """Return the entries of a place, or of one field of it, wherever it lives."""
    in_map = place.path is not None
    table = state.find(place.space, Map.code if in_map else place.datatype)
    if place.path is not None:
        name = member_field(place.path, place.datatype, name)
    return as_siblings(None if table is None else table.slot(place.key, name))


def operation_at(
    place: Place, name: str, *arguments: Any, options: Options | None = None
) -> Operation:
    """Return an operation on a place, wherever it lives."""
    if place.path is None:
        return Operation(place.space, place.datatype, place.key, name, arguments, options)
    kind = DATATYPES_BY_CODE[place.datatype].name
    inner = (place.path, kind, name, *arguments)
    return Operation(place.space, Map.code, place.key, "apply", inner, options)


def columns(total: Any, width: int) -> Amounts:
    """Return the amounts of a total's value, its trailing zeros put back."""
    amounts: Amounts = total[1:]
    return amounts + (0,) * (width - len(amounts))


def moved(before: Amounts, after: Amounts, base: Amounts) -> Amounts:
    """Return how far each column of a total moved beyond its baseline; 0 for pairs."""
    return tuple(
        max(0, new - max(old, floor)) if {type(new), type(old), type(floor)} == {int} else 0
        for old, new, floor in zip(before, after, base, strict=True)
    )


def joined_baselines(baselines: Iterable[Amounts], width: int) -> Amounts:
    """Return the maximum of baselines, column by column; 0 for pairs."""
    base = tuple(
        max((n for n in column if type(n) is int), default=0)
        for column in zip(*baselines, strict=True)
    )
    return base or (0,) * width


def _is_total(value: Any, kind: RunningTotals) -> bool:
    return type(value) is tuple and len(value) <= kind.width + 1


class OriginPast:
    """What the origin wrote, before and beyond the cut, as far as repeating needs it."""

    def __init__(self, origin: int, cut: int, batches: Iterable[Batch]) -> None:
        self.origin = origin
        self.superseded: dict[int, tuple[int, ...]] = {}
        self._totals: dict[int, Any] = {}
        self._resets: dict[int, list[Amounts]] = {}
        for batch in batches:
            is_lost = batch.header.last > cut
            for segment in batch.segments:
                for dot, key, name, value, superseded in segment.deltas():
                    delta = PastDelta(segment, dot, key, name, value, superseded)
                    self._note_counting(delta, is_lost=is_lost)
                    if is_lost:
                        self.superseded[dot] = superseded

    def _note_counting(self, delta: PastDelta, *, is_lost: bool) -> None:
        kind = DATATYPES_BY_CODE.get(place_of(delta)[0].datatype)
        if not isinstance(kind, RunningTotals) or type(delta.value) is not tuple:
            return
        if _is_total(delta.value, kind):
            self._totals[delta.dot] = delta.value
        elif is_lost:
            birth = delta.value[0] << SEQUENCE_BITS | delta.value[1]
            self._resets.setdefault(birth, []).append(delta.value[2:])

    def added(self, delta: PastDelta, kind: RunningTotals, held: tuple[Entry, ...]) -> Amounts:
        """Return what a lost total added and no lost reset took back; raises ``HistoryGap``."""
        after = columns(delta.value, kind.width)
        birth = delta.dot - delta.value[0]
        before: Any = (0, 0)
        if delta.value[0]:
            previous = max(delta.superseded, default=0)
            found = [entry[1] for entry in held if entry[0] == previous]
            before = self._totals.get(previous, found[0] if found else None)
        if before is None:
            raise HistoryGap(
                f"the total before {unpack_dot(delta.dot)} is not held any more",
                hint="give the batches of that replica from before its cut as well",
            )
        base = joined_baselines(self._resets.get(birth, []), kind.width)
        return moved(columns(before, kind.width), after, base)


def repeat(
    part: Sequence[PastDelta], unseen: Container[int], past: OriginPast, state: State
) -> Iterator[Operation]:
    """Yield the operations that do again what a run of lost deltas did; raises ``HistoryGap``.

    ``unseen`` are the dots that their own transaction superseded: nobody ever saw them.
    """
    reset: set[Place] = set()
    for delta in part:
        place, name = place_of(delta)
        if place.space == SYSTEM_SPACE and policy_space(place.key) is None:
            continue
        kind = DATATYPES_BY_CODE[place.datatype]
        if isinstance(kind, BoundedCounter):
            continue
        if isinstance(kind, RunningTotals):
            if delta.value is not REMOVED and _is_total(delta.value, kind) and any(delta.value):
                yield from _counts(delta, place, kind, past, state)
            elif place not in reset:
                reset.add(place)
                mine = [other for other in part if place_of(other)[0] == place]
                yield from _reset(mine, place, kind, past, state)
        elif delta.dot in unseen:
            continue
        elif isinstance(kind, Document):
            yield from _document(delta, place, state)
        else:
            yield from _plain(delta, place, name, past, state)


def _options(delta: PastDelta, observed: frozenset[int] | None) -> Options:
    stamp = delta.segment.stamp
    own = {word: item for word, item in stamp.metadata.items() if word not in ("i", "r")}
    own.setdefault("o", str(unpack_dot(delta.dot)))
    return Options(observed=observed, expires_at_us=stamp.expires_at_us, metadata=own)


def _observed(
    delta: PastDelta, entries: Iterable[Entry], past: OriginPast, state: State
) -> set[int]:
    """Return what the lost delta had observed, by the dots that it has today."""
    renamed = {entry[2].metadata["o"]: entry[0] for entry in entries if "o" in entry[2].metadata}
    observed: set[int] = set()
    seen: set[int] = set()
    pending = list(delta.superseded)
    while pending:
        dot = pending.pop()
        if dot in seen:
            continue
        seen.add(dot)
        text = str(unpack_dot(dot))
        if state.vector.covers(dot):
            observed.add(dot)
        elif text in renamed:
            observed.add(renamed[text])
        else:
            pending += past.superseded.get(dot, ())
    return observed


_WORDS = {
    Register.code: ("set", "delete"),
    MultiValue.code: ("set", "delete"),
    EnableWinsFlag.code: ("enable", "disable"),
    DisableWinsFlag.code: ("enable", "disable"),
    AddWinsSet.code: ("add", "remove"),
    RemoveWinsSet.code: ("add", "remove"),
    Log.code: ("append", "remove"),
}
"""What puts an entry there, and what takes one away."""


def _plain(
    delta: PastDelta, place: Place, name: Field | None, past: OriginPast, state: State
) -> Iterator[Operation]:
    if place.datatype not in _WORDS:
        return
    puts, removes = _WORDS[place.datatype]
    entries = _near(delta, place, name, state)
    observed = _observed(delta, entries, past, state)
    if place.datatype in (DisableWinsFlag.code, RemoveWinsSet.code):
        if delta.value is REMOVED:
            return
        standing = {dot for dot, value, _ in entries if value is False}
        if delta.value is True and not standing <= observed:
            return
        element = () if name is None else (field_element(name),)
        word = puts if delta.value is True else removes
        yield operation_at(place, word, *element, options=_options(delta, frozenset(observed)))
    elif delta.value is REMOVED:
        held = frozenset(dot for dot, _, _ in entries if dot in observed)
        if held:
            arguments: tuple[Any, ...] = ()
            if place.datatype == AddWinsSet.code:
                assert name is not None
                arguments = (field_element(name),)
            elif place.datatype == Log.code:
                arguments = ([list(unpack_dot(dot)) for dot in sorted(held)],)
            yield operation_at(place, removes, *arguments, options=Options(observed=held))
    elif place.datatype == Log.code:
        yield operation_at(place, puts, thaw(delta.value), options=_options(delta, None))
    elif place.datatype in (Register.code, MultiValue.code):
        options = _options(delta, frozenset(observed))
        yield operation_at(place, puts, thaw(delta.value), options=options)
    else:
        element = () if name is None else (field_element(name),)
        yield operation_at(place, puts, *element, options=_options(delta, frozenset(observed)))


def _near(delta: PastDelta, place: Place, name: Field | None, state: State) -> tuple[Entry, ...]:
    """Return the entries among which a lost delta may find what it had observed.

    A field that is a dot is no help where that dot was lost: look at all of the key.
    """
    if type(name) is not int:
        return held_at(place, state, name)
    return _all_at(place, state) if delta.value is REMOVED else ()


def _all_at(place: Place, state: State) -> tuple[Entry, ...]:
    """Return the entries of all fields of a place."""
    in_map = place.path is not None
    table = state.find(place.space, Map.code if in_map else place.datatype)
    slots = {} if table is None else table.slots.get(place.key, {})
    if in_map:
        slots = {
            name: slot
            for name, slot in slots.items()
            if (member := parse_field(name)) is not None
            and (member.path, member.datatype) == (place.path, place.datatype)
        }
    return tuple(entry for slot in slots.values() for entry in as_siblings(slot))


def _document(delta: PastDelta, place: Place, state: State) -> Iterator[Operation]:
    if type(delta.value) is bytes:
        yield operation_at(place, "update", delta.value, options=_options(delta, None))
    elif type(delta.value) is tuple and delta.value[0] is None:
        removed = VersionVector(delta.value[1:])
        content = [entry for entry in _all_at(place, state) if not _is_removal(entry)]
        if content and all(_is_covered(entry, removed) for entry in content):
            observed = frozenset(entry[0] for entry in content)
            yield operation_at(place, "delete", options=Options(observed=observed))


def _is_removal(entry: Entry) -> bool:
    return type(entry[1]) is tuple and entry[1][0] is None


def _is_covered(entry: Entry, removed: VersionVector) -> bool:
    """Tell whether a lost removal of a document had seen what an entry brings."""
    if type(entry[1]) is tuple:
        return removed.dominates(dict(entry[1][1:]))
    repeats = parse_dot(entry[2].metadata.get("o"))
    return removed.covers(entry[0]) or (repeats is not None and removed.covers(repeats))


def parse_dot(text: object) -> int | None:
    """Return the dot that a text names, ``None`` where it names none."""
    if type(text) is not str:
        return None
    replica, _, sequence = text.partition(":")
    try:
        dot = Dot(int(replica, 16), int(sequence))
    except ValueError:
        return None
    return pack_dot(*dot) if 0 < dot.replica < 1 << 64 and 0 < dot.sequence < 1 << 64 else None


def _counts(
    delta: PastDelta, place: Place, kind: RunningTotals, past: OriginPast, state: State
) -> Iterator[Operation]:
    up, down = past.added(delta, kind, held_at(place, state))
    if up:
        yield operation_at(place, "increment", up, options=_options(delta, None))
    if down:
        yield operation_at(place, "decrement", down, options=_options(delta, None))


def _reset(
    deltas: list[PastDelta], place: Place, kind: RunningTotals, past: OriginPast, state: State
) -> Iterator[Operation]:
    """Repeat what one transaction reset: baselines, totals of zero removed, a fresh zero."""
    held = held_at(place, state)
    fields = kind.fields(held)
    unseen = {dot for delta in deltas for dot in delta.superseded}
    taken: set[int] = set()
    zero: PastDelta | None = None
    for delta in deltas:
        is_total = delta.value is not REMOVED and _is_total(delta.value, kind)
        if is_total and any(delta.value):
            continue
        # Totals of zero need no baseline to go.
        observed = _observed(delta, held, past, state)
        taken |= {
            dot
            for dot, value, _ in held
            if dot in observed and _is_total(value, kind) and not any(value[1:])
        }
        if is_total:
            zero = zero if delta.dot in unseen else delta
        elif delta.value is not REMOVED:
            running = fields.get(delta.value[0] << SEQUENCE_BITS | delta.value[1])
            if running is None or not running.totals:
                continue
            floor: Amounts = delta.value[2:]
            if all(map(le, running.total(kind.width), floor)):
                taken |= {entry[0] for entry in (*running.totals, *running.baselines)}
            else:
                yield from _take_back(place, kind, running, floor)
    if zero is None:
        if taken:
            yield operation_at(place, "delete", options=Options(observed=frozenset(taken)))
    elif isinstance(kind, Counter):
        yield operation_at(place, "reset", options=_options(zero, frozenset(taken)))
    else:
        yield operation_at(place, "increment", 0, options=_options(zero, None))


def _take_back(
    place: Place, kind: RunningTotals, running: RunningField, floor: Amounts
) -> Iterator[Operation]:
    """Count back what a baseline would still cover of a field that has counted on."""
    if not isinstance(kind, Counter):
        return
    base = joined_baselines([entry[1][2:] for entry in running.baselines], kind.width)
    total = running.total(kind.width)
    covered = tuple(map(min, total, floor))
    up, down = moved(base, covered, base)
    if up:
        yield operation_at(place, "decrement", up)
    if down:
        yield operation_at(place, "increment", down)
