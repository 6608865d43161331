"""Specifications with one rule broken each: what the explorer must be able to find.

Problem: a check that cannot fail proves nothing, and a rule that can be dropped is not one.

Idea: each class undoes one rule in the plainest way. ``test_broken.py`` keeps, for each, the
shortest schedule that shows the harm, so that it also says what the rule is for.

Invariants: every class here breaks something; ``membership.Replica`` breaks nothing on the same
schedule.
"""

from __future__ import annotations

from tests.model.membership import Promise, Replica
from tests.model.specification import Kernel
from tests.model.vocabulary import (
    REMOVAL_KINDS,
    REMOVED,
    Baseline,
    Batch,
    Dot,
    Entry,
    Operation,
    Place,
    Refused,
    Total,
    Vector,
)

__all__ = [
    "AddsObserveFromOutside",
    "AdmitsAnyone",
    "BreaksItsPromise",
    "ClockIgnoresOthers",
    "CollectsAcrossTrust",
    "CollectsLiveBaselines",
    "CollectsRemovalsAlone",
    "CollectsUnstable",
    "CutsWithoutTheNamed",
    "DecidesByKnownMembers",
    "DeletesBounded",
    "DropsAtItsOwnPromise",
    "ErasesByDots",
    "HearsOnlyDeltas",
    "IgnoresTrust",
    "InheritsRights",
    "JoinsBeyondACut",
    "NewcomerTakesFromAll",
    "OneFieldForEver",
    "OverclaimsSnapshot",
    "PromisesToTheLetter",
    "RescuesTotals",
    "RescuesUnclaimed",
    "ResetsWithoutBaselines",
    "SnapshotAdds",
    "SnapshotOverwrites",
    "StableWithoutOwnDeltas",
    "TakesAnyOrder",
    "TakesJoinedForObserved",
    "WritesUnadmitted",
    "WritesWithoutWaiting",
]


class StableWithoutOwnDeltas(Replica):
    """Stable once acknowledged, though what the acknowledger wrote itself is not joined."""

    def _has_joined_own_deltas(self, member: str, durable: Vector) -> bool:
        return True


class CollectsUnstable(Replica):
    """Collects what it has joined, as a timer would."""

    def collectable(self, place: Place, held: dict[Dot, Entry], stable: Vector) -> set[Dot]:
        return super().collectable(place, held, self.vector)


class CollectsRemovalsAlone(Replica):
    """Collects a removal and leaves the presences beside it."""

    def collectable(self, place: Place, held: dict[Dot, Entry], stable: Vector) -> set[Dot]:
        dots = super().collectable(place, held, stable)
        return {dot for dot in dots if held[dot].value != "present"}


class CollectsAcrossTrust(Replica):
    """Collects removals where trust is ordered, as if every later add superseded them."""

    def collectable(self, place: Place, held: dict[Dot, Entry], stable: Vector) -> set[Dot]:
        if place.kind not in REMOVAL_KINDS:
            return super().collectable(place, held, stable)
        settled = {d for d in held if stable.get(d.replica, 0) >= d.sequence}
        removals = {d for d in settled if held[d].value == REMOVED}
        return removals | {d for d in held if held[d].value != REMOVED} if removals else set()


class CollectsLiveBaselines(Replica):
    """Collects a stable baseline while its field holds a live total."""

    def collectable(self, place: Place, held: dict[Dot, Entry], stable: Vector) -> set[Dot]:
        baselines = {d for d, e in held.items() if isinstance(e.value, Baseline)}
        if place.kind == "counter":
            return {d for d in baselines if stable.get(d.replica, 0) >= d.sequence}
        return super().collectable(place, held, stable)


class AddsObserveFromOutside(Replica):
    """An add beside removals supersedes only the dots that were passed in."""

    def _ignores_observed(self, place: Place, value: object) -> bool:
        return False


class WritesWithoutWaiting(Replica):
    """Accepts an Observed that names dots not joined yet, and so forgets to supersede them."""

    def write(self, place: Place, value: object, operation: Operation) -> None:
        known = operation.observed
        if known is not None:
            known = frozenset(d for d in known if self.vector.get(d.replica, 0) >= d.sequence)
        super().write(place, value, operation._replace(observed=known))


class TakesJoinedForObserved(Replica):
    """Supersedes all that it has joined, whatever the writer had looked at."""

    def write(self, place: Place, value: object, operation: Operation) -> None:
        super().write(place, value, operation._replace(observed=None))


class ResetsWithoutBaselines(Replica):
    """A reset takes the totals away and leaves nothing."""

    def _reset(self, key: str) -> None:
        for place in self.places("counter", key):
            self.emit(place, self.held(place), None)


class OneFieldForEver(Replica):
    """A counter field belongs to its replica, with no birth dot, and never ends."""

    def _own_field(self, key: str) -> Place:
        return Place("counter", key, f"{self.name}:0")


class IgnoresTrust(Replica):
    """Any write supersedes what it observed, however trusted."""

    def _outranks(self, operation: Operation, entry: Entry) -> bool:
        return True


class TakesAnyOrder(Replica):
    """Takes batches in sequence, without what they depend on."""

    def check_may_take(self, batch: Batch, source: str) -> None:
        super().check_may_take(batch._replace(after=()), source)


class ClockIgnoresOthers(Replica):
    """Its order does not advance on receipt."""

    def join(self, batch: Batch) -> None:
        order = self.order
        super().join(batch)
        self.order = order


class SnapshotOverwrites(Replica):
    """Replaces its state by the snapshot's, and with it what it wrote meanwhile."""

    def join_snapshot(self, source: Kernel) -> None:
        super().join_snapshot(source)
        self.table = dict(source.table)


class SnapshotAdds(Replica):
    """Adds a snapshot's entries to its own, and so brings back what was removed."""

    def join_snapshot(self, source: Kernel) -> None:
        own = dict(self.table)
        super().join_snapshot(source)
        for place in own.keys() | source.table.keys():
            self.table[place] = own.get(place, {}) | source.held(place)


class OverclaimsSnapshot(Replica):
    """Joins one key of a snapshot, and takes over its whole vector."""

    def join_snapshot(self, source: Kernel) -> None:
        part = source.copy()
        part.table = {p: held for p, held in source.table.items() if p.key == "k"}
        super().join_snapshot(part)


class WritesUnadmitted(Replica):
    """A newcomer writes before it has joined its admission."""

    def check_may_write(self) -> None:
        if self.is_halted():
            raise Refused("halted: beyond a cut")


class AdmitsAnyone(Replica):
    """Sponsors a newcomer that holds what lies beyond a cut."""

    def check_may_admit(self, newcomer: Replica) -> None:
        if newcomer.name in self.members() or newcomer.sponsor:
            raise Refused("admitted before")


class NewcomerTakesFromAll(Replica):
    """A newcomer that has asked for admission goes on taking batches from anyone."""

    def _check_source(self, source: str) -> None:
        return


class BreaksItsPromise(Replica):
    """Takes an evicted replica's batches from anyone, as if it had promised nothing."""

    def check_may_take(self, batch: Batch, source: str) -> None:
        Kernel.check_may_take(self, batch, source)
        self._check_source(source)
        if self.is_halted():
            raise Refused("halted")


class PromisesToTheLetter(Replica):
    """Takes no further batch of an evicted replica, not even from a survivor."""

    def check_may_take(self, batch: Batch, source: str) -> None:
        super().check_may_take(batch, source)
        if batch.origin in self.evicted():
            raise Refused("promised")


class CutsWithoutTheNamed(Replica):
    """Asks only the founders for promises, not the newcomers whom a survivor names."""

    def closure(
        self, author: str, promises: dict[str, tuple[Dot, Promise]]
    ) -> frozenset[str] | None:
        words = {
            name: (dot, promise._replace(members=frozenset(self.founders)))
            for name, (dot, promise) in promises.items()
        }
        return super().closure(author, words)


class DropsAtItsOwnPromise(Replica):
    """Stops waiting for an evicted replica as soon as it has promised itself."""

    def epoch(self) -> frozenset[str]:
        return self.members() - self._promised()


class JoinsBeyondACut(Replica):
    """Halts its writes when it is beyond a cut, and goes on joining."""

    joining = False

    def check_may_take(self, batch: Batch, source: str) -> None:
        self.joining = True
        try:
            super().check_may_take(batch, source)
        finally:
            self.joining = False

    def is_halted(self) -> bool:
        return not self.joining and super().is_halted()


class HearsOnlyDeltas(Replica):
    """Learns of cuts from the promises that it joins, and from nothing else."""

    def hear_cuts(self, source: Replica) -> None:
        return


class RescuesUnclaimed(Replica):
    """Rescues what it finds apart, without being known as the only successor."""

    def _is_successor(self, origin: str) -> bool:
        return origin in self.predecessors


class InheritsRights(Replica):
    """Spends, under its new id, the rights of the id that it was restored from."""

    def rights(self, key: str, replica: str) -> int:
        own = super().rights(key, replica)
        return own + sum(super(InheritsRights, self).rights(key, p) for p in self.predecessors)


class RescuesTotals(Replica):
    """Rescues an increment as the running total that it had led to."""

    def _rescue_event(self, batch: Batch, event: object, origin_dot: Dot) -> None:
        for delta in batch.deltas:
            if delta.entry is not None and isinstance(delta.entry.value, Total):
                total = delta.entry.value
                self.perform(Operation("increment", (delta.place.key, str(total.plus))), origin_dot)


class DecidesByKnownMembers(Replica):
    """Counts newcomers whom the other side may not have heard of towards a majority."""

    def is_decided(self, survivors: frozenset[str], promises: list[Promise]) -> bool:
        known = [promise._replace(established=promise.members) for promise in promises]
        return super().is_decided(survivors, known)


class ErasesByDots(Replica):
    """Erases a document by superseding its updates, as a register is deleted."""

    def write_operation(self, operation: Operation) -> None:
        if operation.verb == "erase":
            for place in self.places("document", operation.arguments[0]):
                self.emit(place, self.held(place), None)
        else:
            super().write_operation(operation)


class DeletesBounded(Replica):
    """Deletes a bounded counter whose rights are all spent."""

    def _clear(self, key: str) -> None:
        if not self.value("bounded", key):
            for place in self.places("bounded", key):
                self.emit(place, self.held(place), None)
        super()._clear(key)
