"""Collection: dropping what nobody can notice any more, a few keys at a time, by deltas.

Problem: baselines, removals and small document updates guard against what may
still arrive. Once they are stable they are dead weight, but no replica may
change its state on its own, and looking at every key again and again would cost
more than it frees.

Idea: whoever publishes a batch notes the keys that it may leave something
behind in. This queue takes those over; each round looks at a bounded number of
them and asks the datatype what it would collect, given what is stable. What it
would do becomes an ordinary transaction; a key of which nothing will ever be
collected as it stands is dropped from the queue, and any other goes to its end.
Only the lowest live member writes: two that do so at once are harmless, since
they supersede the same dots, but pointless.

Where a space orders trust, removals stay: one of high trust goes on refusing
additions of lower trust, which someone would notice if it went.

Invariants: nothing is collected that was not stable when it was looked at (it
then stays so); a transaction stays well below the limit on deltas, whatever a
key holds; the order is the same on every run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, MutableMapping
from itertools import islice
from typing import Any, Final

from crdtmem.batch import SpaceName
from crdtmem.causality import VersionVector
from crdtmem.crdt import DATATYPES_BY_CODE
from crdtmem.entries import Entry, Field, as_siblings, pack_dot
from crdtmem.epoch import Epoch
from crdtmem.policy import Policy
from crdtmem.table import State
from crdtmem.transaction import Operation, Transaction

__all__ = ["KEYS_PER_LOOK", "Collector"]

KEYS_PER_LOOK: Final = 200
"""How many keys one look is at."""

_KEYS_PER_TRANSACTION: Final = 50
_PLACES_PER_KEY: Final = 2_000

_Candidate = tuple[SpaceName, int, str]


class Collector:
    """The keys in which something may be collected one day, in the order of their turn."""

    def __init__(self) -> None:
        self._queue: dict[_Candidate, None] = {}

    def __len__(self) -> int:
        return len(self._queue)

    def take_over(self, candidates: MutableMapping[tuple[SpaceName, int], set[str]]) -> None:
        """Move the keys that a replica has noted since the last time into the queue."""
        for (space, datatype), keys in sorted(candidates.items()):
            for key in sorted(keys):
                self._queue.setdefault((space, datatype, key))
        candidates.clear()

    def transactions(
        self,
        epoch: Epoch,
        state: State,
        policy_of: Callable[[SpaceName], Policy],
        *,
        keys_per_round: int = KEYS_PER_LOOK,
    ) -> list[Transaction]:
        """Look at the next ``keys_per_round`` keys; return what to write, not to be sealed.

        Every member may call this, and only the lowest live one gets anything to
        write. A key stays in the queue until nothing can be collected from it, so
        a transaction that fails is simply made again.
        """
        stable = epoch.stable_vector(state.vector)
        writes = epoch.lowest_live_member() == epoch.own
        made: list[Transaction] = []
        for candidate in list(islice(self._queue, keys_per_round)):
            del self._queue[candidate]
            trust_ordered = policy_of(candidate[0]).trust_ordered
            operation, is_done = _look_at(candidate, state, stable, trust_ordered)
            if not is_done:
                self._queue[candidate] = None
            if operation is not None and writes:
                if not made or len(made[-1].steps) >= _KEYS_PER_TRANSACTION:
                    made.append(Transaction())
                made[-1].add(operation)
        return made


def _look_at(
    candidate: _Candidate, state: State, stable: VersionVector, trust_ordered: bool
) -> tuple[Operation | None, bool]:
    """Return what to write for one key, and whether it need not be looked at again."""
    space, datatype, key = candidate
    table = state.find(space, datatype)
    place = None if table is None else table.slots.get(key)
    if place is None:
        return None, True
    kind = DATATYPES_BY_CODE[datatype]
    slots = place if kind.nested else {None: place}
    is_settled: Callable[[int], bool] = stable.covers
    if trust_ordered:
        ripe = {dot for dot, value in _entries(slots) if value is not False and stable.covers(dot)}
        is_settled = ripe.__contains__
    trial = _Trial(key, slots)
    kind.collect(trial, is_settled)
    if trial.touched:
        settled = _first_places(trial.touched, slots, is_settled)
        return Operation(space, datatype, key, "_collect", (settled,)), False
    return None, all(stable.covers(dot) for dot, _ in _entries(slots))


def _entries(slots: dict[Any, Any]) -> Iterator[tuple[int, Any]]:
    """Yield the dot and the value of every entry of one key."""
    for slot in slots.values():
        for dot, value, _ in as_siblings(slot):
            yield dot, value


def _first_places(
    touched: dict[Any, None], slots: dict[Any, Any], is_settled: Callable[[int], bool]
) -> Callable[[int], bool]:
    """Return what tells of a dot whether it may be collected: fewer than are stable is safe."""
    if len(touched) <= _PLACES_PER_KEY:
        return is_settled
    # A key with very many places is collected a part at a time.
    chosen = {
        entry[0]
        for field in islice(touched, _PLACES_PER_KEY)
        for entry in as_siblings(slots.get(field))
        if is_settled(entry[0])
    }
    return chosen.__contains__


class _Trial:
    """A ``WriteView`` that shows one key and only notes which places would be written."""

    observed: frozenset[int] | None = None
    replica = 1
    now_us = 0

    def __init__(self, key: str, slots: dict[Any, Any]) -> None:
        self.key = key
        self.touched: dict[Any, None] = {}
        self._slots = slots

    def next_dot(self) -> int:
        return pack_dot(self.replica, 1)

    def slot(self, field: Field | None = None) -> tuple[Entry, ...]:
        return as_siblings(self._slots.get(field))

    def fields(self) -> Iterator[tuple[Field, tuple[Entry, ...]]]:
        for field, slot in self._slots.items():
            yield field, as_siblings(slot)

    def supersede(self, entries: Iterable[Entry]) -> tuple[int, ...]:
        return tuple(entry[0] for entry in entries)

    def supersede_all(self, entries: Iterable[Entry]) -> tuple[int, ...]:
        return self.supersede(entries)

    def put(self, value: Any, superseded: Iterable[int] = (), field: Field | None = None) -> int:
        self.touched[field] = None
        return self.next_dot()

    def remove(self, superseded: Iterable[int], field: Field | None = None) -> None:
        if tuple(superseded):
            self.touched[field] = None
