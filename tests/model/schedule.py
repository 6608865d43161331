"""Run a schedule over several replicas, and hold every step against the oracle.

Problem: a rule is broken by an order of events, so an order of events must be something that can
be written down, run, shortened and kept.

Idea: a schedule is lines of text (the language is in ``specification``). ``World`` holds the
replicas, their backups, and what no replica may look at: every batch ever written, and what each
replica has claimed to be stable. After every step it checks the replica that moved.

Invariants, each of which raises ``oracle.Violation`` with what was expected: no dot is used
twice; the order of batches extends causality; what arrives is never concurrent with what was
held stable; equal vectors hold equal tables; every place reads as causal history says; no survivor
is past a cut, and final cuts agree; no two sides decide an eviction, unforced, without a
survivor in common; a bounded counter is never overspent; nothing is rescued twice, or rescued
though it got through.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import NamedTuple

from tests.model import oracle
from tests.model.membership import Replica
from tests.model.oracle import Record, Violation
from tests.model.repair import lose, repair
from tests.model.vocabulary import Batch, Dot, Operation, Refused, covers, freeze

__all__ = ["Step", "World", "parse", "transcript"]

WORLD_VERBS = (
    *("read", "deliver", "pull", "acknowledge", "snapshot", "backup", "trim", "lose", "repair"),
    *("boot", "restore", "clone", "rejoin", "admit"),
)


class Step(NamedTuple):
    """One line of a schedule: a replica, and one world operation or a transaction."""

    at: str
    operations: tuple[tuple[str, ...], ...]

    def __str__(self) -> str:
        return f"{self.at}: " + "; ".join(" ".join(words) for words in self.operations)


def parse(text: str) -> list[Step]:
    """Read a schedule: one step a line; blank lines and ``#`` comments are passed over."""
    steps: list[Step] = []
    for line in text.splitlines():
        line = line.partition("#")[0].strip()
        if line:
            at, _, rest = line.partition(":")
            steps.append(Step(at, tuple(tuple(part.split()) for part in rest.split(";"))))
    return steps


class World:
    """Replicas, and what only an all-seeing observer knows of them."""

    def __init__(
        self,
        founders: Iterable[str],
        *,
        trust_ordered: bool = False,
        kind: type[Replica] = Replica,
    ) -> None:
        self.founders = tuple(founders)
        self.trust_ordered = trust_ordered
        self.kind = kind
        self.replicas: dict[str, Replica] = {}
        self.gone: frozenset[str] = frozenset()  # restored or rejoined under another id
        self.backups: dict[str, Replica] = {}
        self.labels: dict[str, frozenset[Dot]] = {}
        self.history: dict[Dot, Record] = {}  # every batch ever written, by first dot
        self.claims: dict[str, dict[str, int]] = {}  # what each replica ever held stable
        self.cuts: dict[str, int] = {}
        self.verdicts: frozenset[frozenset[str]] = frozenset()
        self.forced = False
        self.damaged: frozenset[str] = frozenset()
        for name in self.founders:
            self.replicas[name] = kind(name, self.founders, trust_ordered)

    def copy(self) -> World:
        """Return an independent copy."""
        twin = copy.copy(self)
        twin.replicas = {name: replica.copy() for name, replica in self.replicas.items()}
        twin.backups, twin.labels = dict(self.backups), dict(self.labels)
        twin.history, twin.cuts = dict(self.history), dict(self.cuts)
        twin.claims = dict(self.claims)
        return twin

    def fingerprint(self) -> object:
        """Return what tells this state from others; equal ones have equal futures."""
        replicas = frozenset(
            (
                replica.name,
                freeze(replica.vector),
                frozenset((p, frozenset(held)) for p, held in replica.table.items()),
                frozenset((m, freeze(v)) for m, v in replica.acknowledged.items()),
                freeze(replica.settled),
                replica.sponsor,
                replica.fenced,
            )
            for replica in self.replicas.values()
        )
        backups = frozenset((name, freeze(b.vector)) for name, b in self.backups.items())
        labels = frozenset(self.labels.items())
        claims = frozenset((name, freeze(claim)) for name, claim in self.claims.items())
        batches = frozenset(batch for batch, _ in self.history.values())
        return replicas, batches, backups, labels, claims, self.gone

    def run(self, steps: Iterable[Step]) -> list[str]:
        """Run steps in order; return "done", or why it was refused, for each."""
        return [self.step(step) for step in steps]

    def step(self, step: Step) -> str:
        """Run one step and check what it did. Raises Violation."""
        words = step.operations[0]
        try:
            if words[0] in WORLD_VERBS:
                if words[0] in ("boot", "restore", "clone", "rejoin"):
                    self._appear(step.at, *words)
                else:
                    getattr(self, "_" + words[0])(self._at(step.at), *words[1:])
            else:
                self._write(self._at(step.at), step)
        except Refused as refusal:
            return str(refusal)
        if words[0] not in ("read", "backup", "trim"):
            self.check(step.at)
        return "done"

    def _at(self, name: str) -> Replica:
        if name not in self.replicas or name in self.gone:
            raise Refused("no such replica")
        return self.replicas[name]

    def _peer(self, name: str) -> Replica:
        if name.endswith("*"):
            if name[:-1] not in self.backups:
                raise Refused("no backup")
            return self.backups[name[:-1]]
        return self._at(name)

    # -- steps -----------------------------------------------------------------------------

    def _write(self, replica: Replica, step: Step) -> None:
        operations = [self._operation(words) for words in step.operations]
        self.forced |= any("force" in operation.arguments for operation in operations)
        batch = replica.transact(operations)
        if batch is None:
            raise Refused("nothing to write")
        oracle.check_order(batch, self.history.values())
        self.history[Dot(batch.origin, batch.first)] = oracle.record(batch)

    def _operation(self, words: tuple[str, ...]) -> Operation:
        observed, trust = None, 1
        arguments: list[str] = []
        for word in words[1:]:
            if word.startswith("@"):
                if word not in self.labels:
                    raise Refused("nothing was read under that label")
                observed = self.labels[word]
            elif word.startswith("trust="):
                trust = int(word.removeprefix("trust="))
            else:
                arguments.append(word)
        return Operation(words[0], tuple(arguments), observed, trust)

    def _read(self, replica: Replica, key: str, label: str) -> None:
        places = [place for place in replica.table if place.key == key]
        self.labels[label] = frozenset(dot for place in places for dot in replica.held(place))

    def _deliver(self, replica: Replica, peer: str, origin: str) -> None:
        source = self._peer(peer)
        batch = source.log.get(Dot(origin, replica.vector.get(origin, 0) + 1))
        if batch is None:
            raise Refused("the peer's log does not hold it")
        replica.check_may_take(batch, source.name)
        self._check_arrival(replica, batch)
        replica.join(batch)

    def _pull(self, replica: Replica, peer: str) -> None:
        before, taken = dict(replica.vector), True
        while taken:
            taken = False
            for origin in sorted(self._peer(peer).vector):
                try:
                    self._deliver(replica, peer, origin)
                except Refused:
                    continue  # the rules hold it back now; a later round may let it in
                taken = True
        if replica.vector == before:
            raise Refused("nothing to take")

    def _acknowledge(self, replica: Replica, peer: str) -> None:
        source, name = self._peer(peer), peer.removesuffix("*")
        was_halted = replica.is_halted()
        replica.hear_cuts(source)
        if not covers(replica.acknowledged.get(name, {}), source.vector.items()):
            replica.acknowledge(name, source.vector)
        elif replica.is_halted() == was_halted:
            raise Refused("nothing new")

    def _snapshot(self, replica: Replica, peer: str) -> None:
        source = self._peer(peer)
        replica.check_may_snapshot(source)
        before = dict(replica.vector)
        replica.join_snapshot(source)
        for batch, _ in self.history.values():
            if before.get(batch.origin, 0) < batch.last <= replica.vector.get(batch.origin, 0):
                self._check_arrival(replica, batch)

    def _backup(self, replica: Replica) -> None:
        self.backups[replica.name] = replica.copy()

    def _trim(self, replica: Replica) -> None:
        replica.log = {}

    def _lose(self, replica: Replica, key: str) -> None:
        lose(replica, key)
        self.damaged |= {replica.name}

    def _repair(self, replica: Replica, peer: str) -> None:
        repair(replica, self._peer(peer))
        self.damaged -= {replica.name, peer}

    def _appear(self, name: str, verb: str, old: str = "") -> None:
        if name in self.replicas:
            raise Refused("an id is never used twice")
        if verb == "boot":
            new = self.kind(name, self.founders, self.trust_ordered)
        elif verb == "rejoin":
            former = self._at(old)
            new = self.kind(name, self.founders, self.trust_ordered)
            new.apart = (*former.apart, *former.log.values())
            new.predecessors = (*former.predecessors, old)
        else:
            new = self._peer(old + "*" if verb == "restore" else old).copy()
            new.name, new.sponsor = name, ""
            if verb == "restore":
                new.predecessors = (*new.predecessors, old)
        if verb in ("restore", "rejoin"):
            self.gone |= {old}
        self.replicas[name] = new

    def _admit(self, sponsor: Replica, newcomer: str) -> None:
        replica = self._at(newcomer)
        sponsor.check_may_admit(replica)
        self._write(sponsor, Step(sponsor.name, (("admit", newcomer, *replica.predecessors),)))
        replica.sponsor = sponsor.name

    # -- checks ----------------------------------------------------------------------------

    def _check_arrival(self, replica: Replica, batch: Batch) -> None:
        claim = self.claims.get(replica.name, {})
        if not covers(dict(batch.after), claim.items()):
            raise Violation(
                f"{replica.name} held {claim} stable, and {batch.origin}:{batch.first}, "
                f"written after {dict(batch.after)}, still arrived"
            )

    def check(self, name: str) -> None:
        """Hold one replica against the oracle and the others. Raises Violation."""
        replica = self.replicas[name]
        if name in replica.members():
            claim, stable = self.claims.get(name, {}), replica.stable_vector()
            names = claim.keys() | stable.keys()
            self.claims[name] = {n: max(claim.get(n, 0), stable.get(n, 0)) for n in names}
        if name not in self.damaged:
            oracle.check_replica(replica, self.history.values())
        for other in self.replicas.values():
            if other.vector == replica.vector and other.state() != replica.state():
                if not self.damaged & {name, other.name}:
                    raise Violation(f"{name} and {other.name} know the same and differ")
        oracle.check_spending(self.history.values())
        if not self.forced:
            self._check_cuts(replica)

    def _check_cuts(self, replica: Replica) -> None:
        for verdict in replica.verdicts():
            self.verdicts |= {verdict.survivors}
            if any(not verdict.survivors & other for other in self.verdicts):
                raise Violation(f"two sides each decided without the other: {self.verdicts}")
            for evictee, cut in verdict.cut:
                if replica.name in verdict.survivors and replica.vector.get(evictee, 0) > cut:
                    raise Violation(f"{replica.name} is past the cut of {evictee}, {cut}")
        for evictee, cut in replica.settled.items() if not replica.is_halted() else ():
            if self.cuts.setdefault(evictee, cut) != cut:
                raise Violation(f"{evictee} was cut at {self.cuts[evictee]} and at {cut}")


def transcript(steps: Iterable[Step], world: World) -> str:
    """Run steps in a fresh ``world`` and return them, each with what came of it."""
    lines: list[str] = []
    for step in steps:
        try:
            outcome = world.step(step)
        except Violation as violation:
            lines.append(f"{step}\n    VIOLATION: {violation}")
            break
        lines.append(str(step) if outcome == "done" else f"{step}    -> refused: {outcome}")
    return "\n".join(lines)
