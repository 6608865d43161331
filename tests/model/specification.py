"""The kernel's rules, written once more and as plainly as they can be.

Problem: the replica that ships is fast, batched and incremental, so it cannot also be
obviously right. Something must say what it *ought* to hold, simply enough to be believed.

Idea: here a replica is a few dictionaries and a delta is a tuple. Nothing is cached, nothing is
clever. ``Kernel`` is a replica among fixed members; ``membership.Replica`` adds admission,
eviction and rescue; ``schedule.World`` runs a schedule over several; ``oracle`` says, from causal
history alone and without this table, what each place must read. The real replica can be driven
by the same schedules and compared with ``Kernel.state()``, dot by dot.

The schedule language: one step a line, ``REPLICA: operation; operation``. Operations joined by
``;`` are one transaction. An operation may end in ``@label`` (the dots that an earlier ``read``
saved under that label are its ``Observed``; else it observes what its replica holds) and in
``trust=N`` (default 1). ::

    put KEY VALUE | replace KEY VALUE @seen | delete KEY    a register; replace is conditional
    add KEY ELEMENT | discard KEY ELEMENT                   an add-wins set
    include KEY ELEMENT | exclude KEY ELEMENT               a remove-wins set
    enable KEY | disable KEY | allow KEY | forbid KEY       an enable-wins, a disable-wins flag
    increment KEY N | decrement KEY N | reset KEY           a counter
    mint KEY N | spend KEY N | transfer KEY REPLICA N       a bounded counter
    append KEY VALUE | strike KEY DOT                       a log
    edit KEY | erase KEY | compact KEY                      a document
    clear KEY                                               delete whatever the key holds
    collect                                                 removals and baselines, when stable

These stand alone on their line; PEER is read as it is at that moment: ::

    read KEY @label          remember the dots that this replica holds of KEY
    deliver PEER ORIGIN      take ORIGIN's next batch out of PEER's log
    pull PEER                take all that PEER's log has and the rules let in
    acknowledge PEER         learn PEER's durable vector
    snapshot PEER            join PEER's state at its vector; "PEER*" is PEER's backup
    backup | trim            remember this state | drop the log of what has been joined
    lose KEY | repair PEER   a register's entries vanish from the disk | repair by evidence

and these change the members (see ``membership``): ::

    boot | restore PEER | clone PEER | rejoin PEER          REPLICA is a new id: from nothing; from
        PEER's backup (PEER is gone); beside PEER; from nothing, PEER's log kept apart
    admit NEWCOMER | evict REPLICA... [force] | promise | rescue ORIGIN

A step that the rules forbid is refused, with a reason, and changes nothing. A crash that loses
nothing durable is invisible here, for a step is durable before it is visible; a crash that loses
a durable tail is ``restore``. A nested map is its leaf places under one key; a flag is a set of
one element.

Invariants: a replica's table is a function of the batches that its vector covers; only deltas
change it. The rule numbers are those of the design.

Delta-state CRDTs: Almeida, Shoker & Baquero; their decomposition: Enes et al.; causal stability:
Baquero, Almeida & Shoker, "Making operation-based CRDTs operation-based"; rights: Balegas et
al., "Extending eventually consistent cloud databases for enforcing numeric invariants".
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

from tests.model.vocabulary import (
    FIELD_IS_NAMED,
    PRESENT,
    REMOVAL_KINDS,
    REMOVED,
    VERBS,
    Account,
    Baseline,
    Batch,
    Delta,
    Dot,
    Entry,
    Event,
    Operation,
    Place,
    Refused,
    Table,
    Total,
    Update,
    Vector,
    covers,
    freeze,
    parse_dot,
)

__all__ = ["Kernel"]


class Kernel:
    """One replica among members that never change."""

    def __init__(self, name: str, founders: tuple[str, ...], trust_ordered: bool = False) -> None:
        self.name = name
        self.founders = founders
        self.trust_ordered = trust_ordered  # the policy of the one space that is modelled
        self.vector: dict[str, int] = {}
        self.table: Table = {}
        self.log: dict[Dot, Batch] = {}  # by first dot; whoever holds a batch may relay it
        self.acknowledged: dict[str, dict[str, int]] = {}  # member -> its durable vector
        self.order = 0
        self._deltas: list[Delta] = []  # of the transaction being written
        self._events: list[Event] = []

    def copy(self) -> Kernel:
        """Return an independent copy. The inner dictionaries are never mutated, so are shared."""
        twin = copy.copy(self)
        twin.vector, twin.table = dict(self.vector), dict(self.table)
        twin.log, twin.acknowledged = dict(self.log), dict(self.acknowledged)
        twin._deltas, twin._events = [], []
        return twin

    # -- reading ---------------------------------------------------------------------------

    def held(self, place: Place) -> dict[Dot, Entry]:
        """Return the siblings of one place."""
        return self.table.get(place, {})

    def places(self, kind: str, key: str) -> list[Place]:
        """Return the places of one value that hold anything, in order."""
        return sorted(p for p in self.table if p.kind == kind and p.key == key)

    def state(self) -> dict[Place, frozenset[tuple[Dot, Any]]]:
        """Return what every place holds: what another implementation is compared with."""
        return {
            place: frozenset((dot, entry.value) for dot, entry in held.items())
            for place, held in self.table.items()
        }

    def value(self, kind: str, key: str) -> Any:
        """Return what a reader sees; for a register, all siblings in dot order."""
        places = self.places(kind, key)
        if kind == "counter":
            return sum(_contribution(self.held(place)) for place in places)
        if kind == "bounded":
            accounts = [entry.value for p in places for entry in self.held(p).values()]
            return sum(account.minted - account.spent for account in accounts)
        if kind in REMOVAL_KINDS:
            values = {p.field: {e.value for e in self.held(p).values()} for p in places}
            return frozenset(field for field, held in values.items() if REMOVED not in held)
        if kind == "document":
            updates: list[Update] = [e.value for p in places for e in self.held(p).values()]
            return _merged(updates).adds - _merged(updates).removes
        if kind == "log":
            found = [(e.order, dot, e.value) for p in places for dot, e in self.held(p).items()]
            return [value for _, _, value in sorted(found)]
        if kind == "register":
            return [e.value for p in places for _, e in sorted(self.held(p).items())]
        return frozenset(place.field for place in places)

    def rights(self, key: str, replica: str) -> int:
        """Return what ``replica`` may spend of a bounded counter, as far as is known here."""
        accounts: dict[str, Account] = {
            place.field: entry.value
            for place in self.places("bounded", key)
            for entry in self.held(place).values()
        }
        own: Account = accounts.get(replica, Account())
        received: int = sum(dict(a.transferred).get(replica, 0) for a in accounts.values())
        return own.minted + received - own.spent - sum(n for _, n in own.transferred)

    # -- writing ---------------------------------------------------------------------------

    def transact(self, operations: Iterable[Operation]) -> Batch | None:
        """Write one transaction (rule 7); None when it changed nothing.

        Raises Refused, having changed nothing, when any operation is forbidden.
        """
        self.check_may_write()
        before, after = dict(self.table), freeze(self.vector)
        self._deltas, self._events = [], []
        try:
            for operation in operations:
                self.perform(operation)
        except Refused:
            self.table = before
            raise
        if not self._deltas:
            return None
        first, last = self._deltas[0].dot.sequence, self._deltas[-1].dot.sequence
        deltas, events = tuple(self._deltas), tuple(self._events)
        batch = Batch(self.name, first, last, after, self.order + 1, deltas, events)
        self.record(batch)
        return batch

    def perform(self, operation: Operation, rescues: Dot | None = None) -> None:
        """Carry out one operation inside a transaction and note its dots for the oracle."""
        count = len(self._deltas)
        if operation.verb == "clear":
            self._clear(operation.arguments[0])
            return
        self.write_operation(operation)
        if dots := tuple(delta.dot for delta in self._deltas[count:]):
            self._events.append(Event(operation, dots, rescues))

    def write_operation(self, operation: Operation) -> None:
        """Turn one operation into deltas, by the rule of its datatype."""
        if operation.verb == "collect":
            self._collect()
            return
        if operation.verb == "compact":
            self._compact(operation.arguments[0])
            return
        kind, effect = VERBS[operation.verb]
        key, *rest = operation.arguments
        match kind, effect:
            case "counter", "remove":
                self._reset(key)
            case "counter", _:
                self._count(operation.verb, key, int(rest[0]))
            case "bounded", _:
                self._spend(operation.verb, key, rest)
            case "document", _:
                self._edit(key, effect)
            case "log", "write":
                place = Place("log", key, str(self.next_dot()))
                self.emit(place, frozenset(), rest[0], operation.trust)
            case "log", _:
                place = Place("log", key, rest[0])
                self.write(place, None, operation)
            case _:
                field = rest[0] if kind in FIELD_IS_NAMED else ""
                self.write(Place(kind, key, field), _value_of(operation), operation)

    def next_dot(self) -> Dot:
        """Return the dot that the next delta of this transaction will get."""
        return Dot(self.name, self.vector.get(self.name, 0) + len(self._deltas) + 1)

    def emit(
        self, place: Place, supersedes: Iterable[Dot], value: Any | None, trust: int = 1
    ) -> None:
        """Append one delta to the transaction and apply it."""
        entry = None if value is None else Entry(value, self.order + 1, trust)
        delta = Delta(self.next_dot(), place, frozenset(supersedes), entry)
        self._deltas.append(delta)
        self.apply(delta)

    def write(self, place: Place, value: Any | None, operation: Operation) -> None:
        """Rules 2 and 3: supersede the observed dots, and no others; a delete leaves nothing."""
        held, observed = self.held(place), operation.observed
        if observed is not None and not covers(self.vector, observed):
            raise Refused("not covered: observed dots that are not joined yet")
        if operation.verb == "replace" and observed != frozenset(held):
            raise Refused("condition failed: newer siblings")
        if observed is None or self._ignores_observed(place, value):
            observed = frozenset(held)
        supersedes = {dot for dot in observed & held.keys() if self._outranks(operation, held[dot])}
        if value is not None or supersedes:
            self.emit(place, supersedes, value, operation.trust)

    def _ignores_observed(self, place: Place, value: Any | None) -> bool:
        """Rule 3: an add beside removals observes all that its replica holds of the place."""
        return place.kind in REMOVAL_KINDS and value == PRESENT

    def _outranks(self, operation: Operation, entry: Entry) -> bool:
        """Rule 2: where the policy orders trust, none supersedes what is trusted more."""
        return not self.trust_ordered or operation.trust >= entry.trust

    def _count(self, verb: str, key: str, amount: int) -> None:
        """Rule 5: continue the own field that holds a live total, else give birth to one."""
        place = self._own_field(key) or Place("counter", key, str(self.next_dot()))
        totals = _of_type(self.held(place), Total)
        old = totals[max(totals)] if totals else Total(0, 0)
        if verb == "increment":
            new = Total(old.plus + amount, old.minus)
        else:
            new = Total(old.plus, old.minus + amount)
        self.emit(place, totals, new)

    def _own_field(self, key: str) -> Place | None:
        for place in self.places("counter", key):
            if parse_dot(place.field).replica == self.name and _of_type(self.held(place), Total):
                return place
        return None

    def _reset(self, key: str) -> None:
        """Rule 5: baselines equal to the totals observed, in place of totals and baselines."""
        for place in self.places("counter", key):
            held = self.held(place)
            if _of_type(held, Total):
                plus = max(entry.value.plus for entry in held.values())
                minus = max(entry.value.minus for entry in held.values())
                self.emit(place, held, Baseline(plus, minus))

    def _spend(self, verb: str, key: str, rest: list[str]) -> None:
        """Rule 5: rights move only by their holder's own delta, in its own field."""
        place, amount = Place("bounded", key, self.name), int(rest[-1])
        if verb != "mint" and self.rights(key, self.name) < amount:
            raise Refused("insufficient rights")
        held = self.held(place)
        old: Account = held[max(held)].value if held else Account()
        if verb == "mint":
            new = old._replace(minted=old.minted + amount)
        elif verb == "spend":
            new = old._replace(spent=old.spent + amount)
        else:
            targets = dict(old.transferred)
            targets[rest[0]] = targets.get(rest[0], 0) + amount
            new = old._replace(transferred=freeze(targets))
        self.emit(place, held, new)

    def _clear(self, key: str) -> None:
        """Delete what a key holds, each place as its datatype says (a nested map's removal)."""
        for place in sorted(p for p in self.table if p.key == key):
            verbs = [v for v, known in VERBS.items() if known == (place.kind, "remove")]
            if place.kind == "counter":
                if _of_type(self.held(place), Total):
                    self.perform(Operation("reset", (key,)))
            elif verbs and not self._is_removed(place):
                arguments = (key, place.field) if place.field else (key,)
                self.perform(Operation(verbs[0], arguments))

    def _is_removed(self, place: Place) -> bool:
        return all(entry.value == REMOVED for entry in self.held(place).values())

    # -- joining ---------------------------------------------------------------------------

    def check_may_take(self, batch: Batch, source: str) -> None:
        """Rule 4: in sequence per replica, causal across replicas. Raises Refused."""
        if self.vector.get(batch.origin, 0) >= batch.last:
            raise Refused("already joined")
        if self.vector.get(batch.origin, 0) + 1 != batch.first or not covers(
            self.vector, batch.after
        ):
            raise Refused("waits for what it depends on")

    def join(self, batch: Batch) -> None:
        """Rule 1: total and policy-free. Only what ``check_may_take`` let in comes here."""
        for delta in batch.deltas:
            self.apply(delta)
        self.record(batch)

    def apply(self, delta: Delta) -> None:
        """Carry out one delta."""
        held = {d: e for d, e in self.held(delta.place).items() if d not in delta.supersedes}
        if delta.entry is not None:
            held[delta.dot] = delta.entry
        self.put(delta.place, held)

    def put(self, place: Place, held: dict[Dot, Entry]) -> None:
        """Let a place hold these entries."""
        if held:
            self.table[place] = held
        else:
            self.table.pop(place, None)

    def record(self, batch: Batch) -> None:
        """Note a batch as joined or written."""
        self.vector[batch.origin] = batch.last
        self.log[Dot(batch.origin, batch.first)] = batch
        self.order = max(self.order, batch.order)

    def check_may_snapshot(self, source: Kernel) -> None:
        """Raise Refused when ``source``'s state may not be joined: never, among fixed members."""

    def join_snapshot(self, source: Kernel) -> None:
        """Join two states at their vectors: an entry survives if both hold it, or if the side
        that lacks it has not joined its dot.
        """
        for place in self.table.keys() | source.table.keys():
            mine, theirs = self.held(place), source.held(place)
            merged = {d: e for d, e in mine.items() if d in theirs or not _joined(source, d)}
            merged |= {d: e for d, e in theirs.items() if d in mine or not _joined(self, d)}
            self.put(place, merged)
        for replica, sequence in source.vector.items():
            self.vector[replica] = max(sequence, self.vector.get(replica, 0))
        self.order = max(self.order, source.order)

    # -- stability and collection ----------------------------------------------------------

    def check_may_write(self) -> None:
        """Raise Refused when this replica may not write: never, among fixed members."""

    def epoch(self) -> frozenset[str]:
        """Return the members whose acknowledgement stability needs."""
        return frozenset(self.founders)

    def acknowledge(self, member: str, vector: Vector) -> None:
        """Learn a member's durable vector. Older news never undoes newer."""
        known = self.acknowledged.get(member, {})
        names = known.keys() | vector.keys()
        self.acknowledged[member] = {r: max(known.get(r, 0), vector.get(r, 0)) for r in names}

    def stable_vector(self) -> dict[str, int]:
        """Return the vector of what is stable here; empty when nothing is.

        Every member acknowledged it, and this replica has joined each member's own deltas up to
        that acknowledgement: only then can nothing concurrent with it still arrive.
        """
        lowest = dict(self.vector)
        for member in self.epoch() - {self.name}:
            durable = self.acknowledged.get(member, {})
            if not self._has_joined_own_deltas(member, durable):
                return {}
            lowest = {r: min(s, durable.get(r, 0)) for r, s in lowest.items()}
        return {replica: sequence for replica, sequence in lowest.items() if sequence}

    def _has_joined_own_deltas(self, member: str, durable: Vector) -> bool:
        return self.vector.get(member, 0) >= durable.get(member, 0)

    def _collect(self) -> None:
        stable = self.stable_vector()
        for place, held in sorted(self.table.items()):
            if dots := self.collectable(place, held, stable):
                self.emit(place, dots, None)

    def collectable(self, place: Place, held: dict[Dot, Entry], stable: Vector) -> set[Dot]:
        """Return the dots of one place that a collection would supersede now."""
        settled = {d for d in held if stable.get(d.replica, 0) >= d.sequence}
        if place.kind in REMOVAL_KINDS and not self.trust_ordered:
            removals = {d for d in settled if held[d].value == REMOVED}
            presences = {d for d in held if held[d].value == PRESENT}
            return removals | presences if removals else set()
        if place.kind == "counter" and not _of_type(held, Total):
            return settled
        return set()

    def _edit(self, key: str, effect: str) -> None:
        """Rule 6: every edit is an update of its own; so is an erasure, which names what it saw."""
        added = frozenset([str(self.next_dot())] if effect == "write" else ())
        removed = frozenset[str]() if added else self.value("document", key)
        if added or removed:
            place = Place("document", key, str(self.next_dot()))
            self.emit(place, (), Update(added, removed))

    def _compact(self, key: str) -> None:
        """Rule 6: one update in place of the stable ones, as an ordinary delta."""
        stable = self.stable_vector()
        updates: list[Update] = []
        for place in self.places("document", key):
            ((dot, entry),) = self.held(place).items()
            if stable.get(dot.replica, 0) >= dot.sequence:
                updates.append(entry.value)
                self.emit(place, [dot], None)
        if updates:
            self.emit(Place("document", key, str(self.next_dot())), (), _merged(updates))


def _value_of(operation: Operation) -> str | None:
    """Return what an operation on a register, set or flag leaves in its place."""
    kind, effect = VERBS[operation.verb]
    if effect == "remove":
        return REMOVED if kind in REMOVAL_KINDS else None
    return operation.arguments[1] if kind == "register" else PRESENT


def _of_type(held: dict[Dot, Entry], wanted: type) -> dict[Dot, Any]:
    return {dot: entry.value for dot, entry in held.items() if type(entry.value) is wanted}


def _contribution(held: dict[Dot, Entry]) -> int:
    """Rule 5: the later total, less the highest baselines, clamped at zero."""
    totals, baselines = _of_type(held, Total), _of_type(held, Baseline).values()
    if not totals:
        return 0
    total: Total = totals[max(totals)]
    plus = total.plus - max((b.plus for b in baselines), default=0)
    minus = total.minus - max((b.minus for b in baselines), default=0)
    return max(0, plus) - max(0, minus)


def _merged(updates: list[Update]) -> Update:
    """Rule 6: a document is the union of its updates, whatever way they were put together."""
    adds = frozenset[str]().union(*(update.adds for update in updates))
    return Update(adds, frozenset[str]().union(*(update.removes for update in updates)))


def _joined(replica: Kernel, dot: Dot) -> bool:
    return replica.vector.get(dot.replica, 0) >= dot.sequence
