"""Retries that came too early: one operation, written twice, counted once.

Problem: a client that gets no answer repeats its operation through another
node. That node refuses the repetition if the first copy has arrived there; if
it has not, both copies are written, and counters and logs would show two.

Idea: a transaction carries its client's operation id wherever it goes, so every
replica sees the second copy sooner or later, and all agree which one stands: the
one with the smaller (HLC order, dot). Only who wrote the *other* knows exactly
what it did, and only it may write its own running totals. So that replica takes
its copy back, by an ordinary transaction: it counts down what its copy counted
up, and removes what it appended. Registers, sets, flags and documents hold the
same thing twice and need nothing; rights of a bounded counter that were
transferred twice are where the holder sent them, none is made and none lost.

What a reset or delete has taken away since is not taken away again: a copy knows
from where to where it moved its running total, and only what lies beyond the
baselines is still counted.

A compensation carries an operation id of its own, derived from the first, so it
is itself counted once, and a replica that replays its log knows what it has
settled already.

Bounds: the last ``window`` operation ids are remembered. A second copy that
arrives after that many other operations is not noticed; clients repeat within
seconds. After a recovery from a checkpoint that is newer than the copy, the total
before it may be gone; what cannot be known exactly is left as it is.

Invariants: of any number of copies exactly one stands, whatever the order of
arrival; a compensation takes back what its own transaction did and nothing else.

Exactly-once by operation ids is as old as RPC (Birrell & Nelson 1984); undoing
by a compensating operation follows sagas (Garcia-Molina & Salem 1987).
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from crdtmem.batch import Batch, Segment
from crdtmem.crdt import DATATYPES_BY_CODE
from crdtmem.crdt.bounded import BoundedCounter
from crdtmem.crdt.counter import Counter, GrowOnlyCounter
from crdtmem.crdt.log import Log
from crdtmem.crdt.map import Map
from crdtmem.crdt.totals import Amounts, RunningField, RunningTotals
from crdtmem.entries import Field, Metadata, as_siblings, unpack_dot
from crdtmem.repeating import (
    PastDelta,
    Place,
    columns,
    held_at,
    joined_baselines,
    moved,
    operation_at,
    place_of,
)
from crdtmem.table import State
from crdtmem.transaction import Operation, Options, Transaction

__all__ = ["RETRY_PREFIX", "Retries"]

RETRY_PREFIX: Final = b"retry/"
"""What the operation ids of compensations start with; clients may not use it."""

WINDOW: Final = 100_000

_Rank = tuple[int, int]
"""HLC order and first dot: what decides between copies."""


class _Step(NamedTuple):
    """One move of a running total: of the field born at ``birth``, from where to where."""

    birth: int
    before: Amounts
    after: Amounts


@dataclass(slots=True)
class _Copy:
    """What one transaction of this replica counted and appended."""

    rank: _Rank
    author: str
    trust: int
    counted: dict[Place, list[_Step]] = field(default_factory=dict)
    appended: dict[Place, list[int]] = field(default_factory=dict)


@dataclass(slots=True)
class _Known:
    """One operation id: the copy that stands so far, and this replica's own, if any."""

    best: _Rank
    own: _Copy | None = None


class Retries:
    """The operation ids seen lately, and the compensations that this replica owes."""

    def __init__(self, own: int, *, window: int = WINDOW) -> None:
        self.own = own
        self._window = window
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._owed: dict[bytes, _Copy] = {}
        self._handed_out: set[bytes] = set()

    def note(self, batches: Sequence[Batch], state: State) -> None:
        """Take note of batches that are durable, in order, *before* ``state`` holds them.

        What a running total added is its difference from the one before, which
        the state still holds at that moment. A recovery notes each batch before
        it joins it.
        """
        earlier = _Earlier(self.own, batches, state)
        for batch in batches:
            is_own = batch.header.replica == self.own
            for index, (order, _, metadata, first) in enumerate(batch.transactions):
                identity = metadata.get("i") if metadata else None
                if type(identity) is not bytes:
                    continue
                rank = (order, batch.segments[first].first)
                if not is_own:
                    self._note_other(identity, rank)
                elif identity.startswith(RETRY_PREFIX):
                    self._owed.pop(identity, None)
                    self._handed_out.discard(identity)
                else:
                    following = batch.transactions[index + 1 :]
                    segments = batch.segments[first : following[0][3] if following else None]
                    self._note_own(identity, _copy(rank, metadata, segments, earlier))
        while len(self._known) > self._window:
            self._known.popitem(last=False)

    def _note_other(self, identity: bytes, rank: _Rank) -> None:
        known = self._known.get(identity)
        if known is None:
            self._known[identity] = _Known(rank)
            return
        known.best = min(known.best, rank)
        if known.own is not None and known.own.rank > known.best:
            self._owe(identity, known.own)
            known.own = None

    def _note_own(self, identity: bytes, copy: _Copy) -> None:
        known = self._known.setdefault(identity, _Known(copy.rank))
        known.best = min(known.best, copy.rank)
        if copy.rank > known.best:
            self._owe(identity, copy)
        else:
            known.own = copy

    def _owe(self, identity: bytes, copy: _Copy) -> None:
        if copy.counted or copy.appended:
            self._owed[_compensation_id(identity)] = copy

    def due(self, state: State) -> list[Transaction]:
        """Return the compensations to write now, unsealed, each handed out once.

        ``state`` is what is published. One that is refused, or whose commit
        fails, is to be given ``back``.
        """
        made: list[Transaction] = []
        for name, copy in list(self._owed.items()):
            if name in self._handed_out:
                continue
            transaction = Transaction(author=copy.author, trust=copy.trust, operation_id=name)
            for operation in _compensations(copy, state):
                transaction.add(operation)
            if transaction.steps:
                self._handed_out.add(name)
                made.append(transaction)
            else:
                # Others have taken it away already, by a reset, a delete or a removal.
                del self._owed[name]
        return made

    def back(self, transaction: Transaction) -> None:
        """Take back a compensation that was not written; ``due`` makes it again."""
        if transaction.operation_id is not None:
            self._handed_out.discard(transaction.operation_id)


def _compensation_id(identity: bytes) -> bytes:
    return RETRY_PREFIX + hashlib.blake2b(identity, digest_size=16).digest()


class _Earlier:
    """Where the total before a total is found: in the same batches, else in the state."""

    def __init__(self, own: int, batches: Iterable[Batch], state: State) -> None:
        self._own = own
        self._batches = batches
        self._state = state
        self._fresh: dict[int, Any] | None = None

    def value(self, segment: Segment, key: str, name: Field | None, dot: int) -> Any:
        """Return the value that ``dot`` left in a place, ``None`` if that is gone."""
        if self._fresh is None:
            self._fresh = dict(self._own_values())
        if dot in self._fresh:
            return self._fresh[dot]
        table = self._state.find(segment.space, segment.datatype)
        for entry in as_siblings(None if table is None else table.slot(key, name)):
            if entry[0] == dot:
                return entry[1]
        return None

    def _own_values(self) -> Iterator[tuple[int, Any]]:
        for batch in self._batches:
            if batch.header.replica == self._own:
                for segment in batch.segments:
                    if segment.values is not None and segment.datatype in _COUNTING:
                        yield from zip(
                            range(segment.first, segment.first + segment.count),
                            segment.values,
                            strict=True,
                        )


_COUNTING: Final = frozenset({GrowOnlyCounter.code, Counter.code, BoundedCounter.code, Map.code})


def _copy(rank: _Rank, metadata: Metadata, segments: list[Segment], earlier: _Earlier) -> _Copy:
    """Return what a transaction of this replica counted and appended."""
    copy = _Copy(rank, metadata.get("a", ""), metadata.get("t", 0))
    for segment in segments:
        if segment.values is None or segment.datatype not in _COUNTING | {Log.code}:
            continue
        for dot, key, name, value, superseded in segment.deltas():
            place, _ = place_of(PastDelta(segment, dot, key, name, value, superseded))
            kind = DATATYPES_BY_CODE[place.datatype]
            if isinstance(kind, Log):
                copy.appended.setdefault(place, []).append(dot)
            elif isinstance(kind, RunningTotals) and len(value) <= kind.width + 1:
                before = earlier.value(segment, key, name, max(superseded, default=0))
                if value[0] == 0 or before is not None:
                    start = (0,) * kind.width if value[0] == 0 else columns(before, kind.width)
                    step = _Step(dot - value[0], start, columns(value, kind.width))
                    copy.counted.setdefault(place, []).append(step)
    return copy


def _compensations(copy: _Copy, state: State) -> Iterator[Operation]:
    """Yield the operations that take one transaction back."""
    for place, steps in copy.counted.items():
        kind = DATATYPES_BY_CODE[place.datatype]
        assert isinstance(kind, RunningTotals)
        fields = kind.fields(held_at(place, state))
        totals = [0] * kind.width
        latest: RunningField | None = None
        for step in steps:
            running = fields.get(step.birth)
            if running is not None and running.totals:
                latest = running
                base = joined_baselines((e[1][2:] for e in running.baselines), kind.width)
                more = moved(step.before, step.after, base)
                totals = [total + amount for total, amount in zip(totals, more, strict=True)]
        if place.datatype == Counter.code:
            yield from _opposite(place, ("decrement", "increment"), totals)
        elif place.datatype == BoundedCounter.code:
            yield from _opposite(place, ("burn", "mint", "release", "consume"), totals)
        elif latest is not None and totals[0]:
            yield from _recount(place, totals[0], latest)
    for place, dots in copy.appended.items():
        held = frozenset(dot for dot in dots if held_at(place, state, dot))
        if held:
            # The observed dots keep the log from removing the other copies as well.
            named = [list(unpack_dot(dot)) for dot in sorted(held)]
            yield operation_at(place, "remove", named, options=Options(observed=held))


def _opposite(place: Place, names: tuple[str, ...], amounts: list[int]) -> Iterator[Operation]:
    for name, amount in zip(names, amounts, strict=False):
        if amount > 0:
            yield operation_at(place, name, amount)


def _recount(place: Place, excess: int, running: RunningField) -> Iterator[Operation]:
    """Take back from a counter that only grows: replace the field by one that counts less.

    Refused, and made again later, when the field has been continued meanwhile.
    """
    kind = DATATYPES_BY_CODE[place.datatype]
    assert isinstance(kind, GrowOnlyCounter)
    observed = frozenset({running.totals[-1][0], *(entry[0] for entry in running.baselines)})
    yield operation_at(place, "delete", options=Options(observed=observed))
    yield operation_at(place, "increment", running.excess(kind.width)[0] - excess)
