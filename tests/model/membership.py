"""Members that come and go: admission, eviction by promises, and rescue of what was cut off.

Problem: stability needs every member's acknowledgement, so a member that never returns stops
collection for ever, and one that returns after it was given up brings back what was collected.

Idea: who is a member is state like any other, changed by deltas and joined like any other.

* A newcomer becomes a member by its *admission*, a delta of its sponsor. It writes only after
  joining it. From asking until then it takes batches from that sponsor alone, and it is admitted
  only if it holds nothing of an evicted replica beyond what its sponsor holds.
* A *promise* is a delta of a survivor: the set that it takes to be evicted (all it has ever heard
  of), the last sequence that it has of each, and the members that it knows. Whoever has joined a
  promise takes an evicted replica's batches from other survivors only. Those are not beyond the
  cut: a survivor that holds them has yet to promise, or counted them when it did. A newcomer
  takes its sponsor for a survivor.
* The *survivors* of a set are closed under naming: each member that a survivor names and that is
  not in the set. When every one has promised exactly that set, and they are a majority (of the
  members they name, and of those among them whom all had acknowledged), the set is *decided* and
  the *cut* is the highest sequence that any of them took. It is *final* here when every survivor
  is known to have joined every one of those promises: with them, causally, all up to the cut.
  Any other eviction enlarges the set and so restarts the round.
* A replica that sees a decided set that names it, or a cut that it is beyond, or is told of one
  with an acknowledgement, halts: it neither writes nor joins, for what survivors collect they
  collect without its dots. What it had is kept apart by the new id that follows it. An admission
  names the newcomer's former ids, and the first that names one, once stable, is its *successor*,
  who may *rescue* what it lost: each operation written anew, once, marked by its origin dot.

Invariants: a member's promises only grow; two decided sets share a survivor unless forced; a dot
beyond a final cut is in no survivor's vector.

Joint majorities: Ongaro & Ousterhout, "In Search of an Understandable Consensus Algorithm". The
cut is the flush of virtual synchrony (Birman & Joseph) without its blocking.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, cast

from tests.model.specification import Kernel
from tests.model.vocabulary import (
    VERBS,
    Baseline,
    Batch,
    Delta,
    Dot,
    Event,
    FrozenVector,
    Operation,
    Place,
    Refused,
    Total,
    Update,
    Vector,
    freeze,
    parse_dot,
)

__all__ = ["Admission", "Promise", "Replica", "Verdict"]


UNDOES = {"increment": "reset", "decrement": "reset", "edit": "erase"}
"""What takes away all that it saw: a lost one of these before it need not be rescued."""


class Promise(NamedTuple):
    """A survivor's word. ``established`` are the members whose admission is stable to it, and
    ``settled`` the evicted whose cut is final to it.
    """

    evicted: frozenset[str]
    taken: FrozenVector
    members: frozenset[str]
    established: frozenset[str]
    settled: frozenset[str]
    forced: bool


class Admission(NamedTuple):
    """A sponsor's word. ``predecessors`` are the former ids of who is admitted."""

    sponsor: str
    predecessors: tuple[str, ...]


class Verdict(NamedTuple):
    """A decided eviction: by whom, up to where, and the promises' dots."""

    evicted: frozenset[str]
    survivors: frozenset[str]
    cut: FrozenVector
    promises: FrozenVector


class Replica(Kernel):
    """A kernel whose members change."""

    def __init__(self, name: str, founders: tuple[str, ...], trust_ordered: bool = False) -> None:
        super().__init__(name, founders, trust_ordered)
        self.sponsor = ""  # whom it asked for admission
        self.settled: dict[str, int] = {}  # evicted replica -> its cut, once final here
        self.fenced = False  # halted by a cut that a peer told of
        self.predecessors: tuple[str, ...] = ()  # its former ids
        self.apart: tuple[Batch, ...] = ()  # batches of a former self, never joined as such

    def copy(self) -> Replica:
        """Return an independent copy."""
        twin = cast("Replica", super().copy())
        twin.settled = dict(self.settled)
        return twin

    # -- who is a member -------------------------------------------------------------------

    def members(self) -> frozenset[str]:
        """Return everyone ever admitted, as far as is known here."""
        admitted = {place.key for place in self.table if place.kind == "member"}
        return frozenset(self.founders) | admitted

    def epoch(self) -> frozenset[str]:
        """Return the members but those whose cut is final here."""
        return self.members() - self.settled.keys()

    def promises(self) -> dict[str, tuple[Dot, Promise]]:
        """Return the latest promise of each member, with its dot."""
        found: dict[str, tuple[Dot, Promise]] = {}
        for place, held in self.table.items():
            if place.kind == "promise":
                dot = max(held)
                found[place.key] = (dot, held[dot].value)
        return found

    def evicted(self) -> frozenset[str]:
        """Return everyone whom any promise joined here gives up."""
        return frozenset().union(*(promise.evicted for _, promise in self.promises().values()))

    def survivors(self) -> frozenset[str]:
        """Return the members that nobody is known to give up."""
        return self.members() - self.evicted()

    def check_may_write(self) -> None:
        """Raise Refused for a replica not admitted yet, or one beyond a cut."""
        if self.name not in self.members():
            raise Refused("not admitted")
        if self.is_halted():
            raise Refused("halted: beyond a cut")

    def is_halted(self) -> bool:
        """Say whether a decided eviction names this replica, or a cut that it is beyond."""
        return self.fenced or any(self._is_beyond(dict(v.cut)) for v in self.verdicts())

    def _is_beyond(self, cut: dict[str, int]) -> bool:
        return self.name in cut or any(self.vector.get(n, 0) > last for n, last in cut.items())

    # -- what may be joined ----------------------------------------------------------------

    def check_may_take(self, batch: Batch, source: str) -> None:
        """Rule 4, then the promise. Raises Refused."""
        super().check_may_take(batch, source)
        if self.is_halted():
            raise Refused("halted: what follows the cut was written without what it holds")
        self._check_source(source)
        if batch.origin in self.evicted() and not self._is_trusted(source):
            raise Refused("promised: its batches are taken from survivors only")

    def check_may_snapshot(self, source: Kernel) -> None:
        """The same for a state: it may hold no more of the evicted, unless a survivor's."""
        self._check_source(source.name)
        ahead = {n for n in self.evicted() if source.vector.get(n, 0) > self.vector.get(n, 0)}
        if ahead and not self._is_trusted(source.name):
            raise Refused("promised: their dots are taken from survivors only")

    def _is_trusted(self, source: str) -> bool:
        """Say whether what ``source`` holds of the evicted is within the cut: a survivor's is;
        and a newcomer has only its sponsor's word on who survives.
        """
        return source in self.survivors() or (
            source == self.sponsor and self.name not in self.members()
        )

    def _check_source(self, source: str) -> None:
        if self.name not in self.members() and self.sponsor not in ("", source):
            raise Refused("a newcomer takes batches from its sponsor only")

    def record(self, batch: Batch) -> None:
        """Note a batch as joined or written, then see whether a cut has become final."""
        super().record(batch)
        self._settle()

    def join_snapshot(self, source: Kernel) -> None:
        """Join a state, with the cuts that it carries; or halt, when beyond one of them."""
        assert isinstance(source, Replica)
        self.hear_cuts(source)
        if self.is_halted():
            return
        super().join_snapshot(source)
        self.settled |= source.settled
        self._settle()

    def hear_cuts(self, source: Replica) -> None:
        """Halt if a cut that a peer knows leaves this replica out. It is told with every state
        and acknowledgement, for a promise may keep it from joining the promises against it.
        """
        cuts = [source.settled, *(dict(verdict.cut) for verdict in source.verdicts())]
        self.fenced |= any(self._is_beyond(cut) for cut in cuts)

    def acknowledge(self, member: str, vector: Vector) -> None:
        """Learn a member's durable vector, then see whether a cut has become final."""
        super().acknowledge(member, vector)
        self._settle()

    # -- admission -------------------------------------------------------------------------

    def check_may_admit(self, newcomer: Replica) -> None:
        """Raise Refused when ``newcomer`` may not be sponsored by this replica."""
        if newcomer.name in self.members() or newcomer.sponsor:
            raise Refused("admitted before")
        for name in self.evicted():
            if newcomer.vector.get(name, 0) > self.vector.get(name, 0):
                raise Refused("the newcomer is beyond a cut; it must rejoin from nothing")

    # -- eviction --------------------------------------------------------------------------

    def write_operation(self, operation: Operation) -> None:
        """Add the operations that change the members to those of the kernel."""
        match operation.verb, operation.arguments:
            case "admit", (newcomer, *predecessors):
                admission = Admission(self.name, tuple(predecessors))
                self.emit(Place("member", newcomer, ""), (), admission)
            case "evict", arguments:
                self._evict(arguments)
            case "promise", _:
                if self.evicted() in (frozenset(), self._promised()):
                    raise Refused("nothing to promise")
                self._promise(self.evicted(), False)
            case "rescue", (origin,):
                self._rescue(origin)
            case _:
                super().write_operation(operation)

    def _evict(self, arguments: tuple[str, ...]) -> None:
        targets = {argument for argument in arguments if argument != "force"}
        if not targets <= self.members():
            raise Refused("no such member")
        evicted = self.evicted() | targets
        if evicted == self._promised() and "force" not in arguments:
            raise Refused("promised before")
        promise = self._promise(evicted, "force" in arguments)
        if not self.is_decided(self.members() - evicted, [promise]):
            raise Refused("not a majority of the epoch")

    def _promised(self) -> frozenset[str]:
        own = self.promises().get(self.name)
        return own[1].evicted if own else frozenset()

    def _promise(self, evicted: frozenset[str], forced: bool) -> Promise:
        """Write this replica's word on ``evicted``, in place of any earlier one."""
        if self.name in evicted:
            raise Refused("the evicted do not promise")
        stable = self.stable_vector()
        established = set(self.founders)
        for place in self.table:
            if place.kind == "member":
                if all(stable.get(dot.replica, 0) >= dot.sequence for dot in self.held(place)):
                    established.add(place.key)
        promise = Promise(
            evicted=evicted,
            taken=freeze({name: self.vector.get(name, 0) for name in evicted}),
            members=self.members(),
            established=frozenset(established),
            settled=frozenset(self.settled),
            forced=forced,
        )
        place = Place("promise", self.name, "")
        self.emit(place, self.held(place), promise)
        return promise

    def verdicts(self) -> Iterator[Verdict]:
        """Yield every eviction that the promises joined here decide."""
        promises = self.promises()
        seen: set[tuple[frozenset[str], frozenset[str]]] = set()
        for author in promises:
            survivors = self.closure(author, promises)
            evicted = promises[author][1].evicted
            if survivors is None or (evicted, survivors) in seen:
                continue
            seen.add((evicted, survivors))
            words = [promises[name][1] for name in survivors]
            if self.is_decided(survivors, words):
                cut = {name: max(dict(word.taken)[name] for word in words) for name in evicted}
                dots = {name: promises[name][0].sequence for name in survivors}
                yield Verdict(evicted, survivors, freeze(cut), freeze(dots))

    def closure(
        self, author: str, promises: dict[str, tuple[Dot, Promise]]
    ) -> frozenset[str] | None:
        """Return ``author`` and all whom naming reaches from it, if each promised its set."""
        evicted = promises[author][1].evicted
        survivors: set[str] = set()
        pending = {author}
        while pending:
            name = pending.pop()
            if name not in promises or promises[name][1].evicted != evicted:
                return None
            survivors.add(name)
            pending |= promises[name][1].members - evicted - survivors
        return frozenset(survivors)

    def is_decided(self, survivors: frozenset[str], promises: list[Promise]) -> bool:
        """Say whether promises of one set carry it: forced, or a majority twice over."""
        settled = frozenset[str]().union(*(promise.settled for promise in promises))
        members = frozenset[str]().union(*(promise.members for promise in promises)) - settled
        established = (
            frozenset[str]().union(*(promise.established for promise in promises)) - settled
        )
        return any(promise.forced for promise in promises) or (
            2 * len(survivors & members) > len(members)
            and 2 * len(survivors & established) > len(established)
        )

    def _settle(self) -> None:
        """Take note of a cut that is final: every survivor has joined every promise."""
        evicted = self.evicted()
        if evicted <= self.settled.keys() or self.is_halted():
            return
        for verdict in self.verdicts():
            if verdict.evicted == evicted and all(
                self._knows_joined(name, verdict.promises) for name in verdict.survivors
            ):
                self.settled |= dict(verdict.cut)

    def _knows_joined(self, member: str, dots: FrozenVector) -> bool:
        known = self.vector if member == self.name else self.acknowledged.get(member, {})
        return all(known.get(name, 0) >= sequence for name, sequence in dots)

    # -- rescue ----------------------------------------------------------------------------

    def _is_successor(self, origin: str) -> bool:
        """Say whether this is the one that may rescue what ``origin`` lost: the first admission,
        in canonical order, that names it a predecessor; and stable, so that no earlier one comes.
        """
        claims = [
            (entry.order, dot, place.key)
            for place, held in self.table.items()
            if place.kind == "member" and place.key not in self.settled
            for dot, entry in held.items()
            if origin in entry.value.predecessors
        ]
        _, dot, name = min(claims, default=(0, Dot("", 0), ""))
        return name == self.name and self.stable_vector().get(dot.replica, 0) >= dot.sequence

    def _rescue(self, origin: str) -> None:
        """Write anew, as new operations, what ``origin`` wrote beyond its cut."""
        if origin not in self.settled:
            raise Refused("its cut is not final here")
        if not self._is_successor(origin):
            raise Refused("not known to be its only successor")
        beyond = [b for b in self.apart if b.origin == origin and b.first > self.settled[origin]]
        lost = [
            (batch, event)
            for batch in sorted(beyond, key=lambda batch: batch.first)
            for event in batch.events
        ]
        for index, (batch, event) in enumerate(lost):
            origin_dot = event.rescues or event.dots[0]
            mark = Place("rescued", origin_dot.replica, str(origin_dot))
            if self.held(mark):
                continue
            later = {(e.operation.verb, e.operation.arguments[:1]) for _, e in lost[index + 1 :]}
            written = len(self._deltas)
            undone = UNDOES.get(event.operation.verb)
            if (undone, event.operation.arguments[:1]) not in later:
                self._rescue_event(batch, event, origin_dot)
            new = str(self._deltas[written].dot) if len(self._deltas) > written else "nothing"
            self.emit(mark, (), new)

    def _rescue_event(self, batch: Batch, event: Event, origin_dot: Dot) -> None:
        """Repeat one lost operation. Rights stay stranded, and lost admissions void."""
        operation = event.operation
        kind, effect = VERBS.get(operation.verb, ("", ""))
        deltas = [delta for delta in batch.deltas if delta.dot in event.dots]
        if kind in ("counter", "document") and effect == "remove":
            first = self.next_dot()
            for delta in deltas:
                self._rescue_removal(delta)
            if written := tuple(d.dot for d in self._deltas if d.dot >= first):
                self._events.append(Event(operation, written, origin_dot, batch.after))
        elif kind in ("counter", "document"):
            self.perform(operation, origin_dot)
        elif kind not in ("", "bounded"):
            observed = {self._renamed(dot) for dot in deltas[0].supersedes}
            known = {dot for dot in observed if self.vector.get(dot.replica, 0) >= dot.sequence}
            arguments = operation.arguments
            if operation.verb == "strike":
                arguments = (arguments[0], str(self._renamed(parse_dot(arguments[1]))))
            verb = "put" if operation.verb == "replace" else operation.verb
            self.perform(Operation(verb, arguments, frozenset(known), operation.trust), origin_dot)

    def _rescue_removal(self, delta: Delta) -> None:
        """Repeat a lost reset of a field or erasure: it covers what it covered, and no more."""
        assert delta.entry is not None, "resets and erasures leave something"
        if isinstance(delta.entry.value, Update):
            place = Place("document", delta.place.key, str(self.next_dot()))
            self.emit(place, (), delta.entry.value)
        else:
            self._rescue_baseline(delta.place, delta.entry.value)

    def _rescue_baseline(self, place: Place, baseline: Baseline) -> None:
        """Repeat a lost reset of one field: it covers what it covered then, and no more."""
        held = self.held(place)
        covered = {
            dot: entry.value
            for dot, entry in held.items()
            if isinstance(entry.value, Baseline)
            or (entry.value.plus <= baseline.plus and entry.value.minus <= baseline.minus)
        }
        floors = [v for v in covered.values() if isinstance(v, Baseline)] + [baseline]
        highest = Baseline(max(f.plus for f in floors), max(f.minus for f in floors))
        if any(isinstance(entry.value, Total) for entry in held.values()):
            self.emit(place, covered, highest)

    def _renamed(self, dot: Dot) -> Dot:
        """Return the dot under which a lost dot was rescued, else the dot itself."""
        held = self.held(Place("rescued", dot.replica, str(dot)))
        names = [entry.value for entry in held.values() if entry.value != "nothing"]
        return parse_dot(names[0]) if names else dot
