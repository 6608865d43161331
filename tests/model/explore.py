"""Look for a schedule that breaks the specification: every one in small scopes, many at random.

Problem: rules like these break in interleavings that nobody thinks of.

Idea: most such faults need few replicas and few operations (the small-scope hypothesis), so all
schedules of a small ``Scope`` are walked, one visit for each distinct state. Larger ones are
drawn from a seed, run, and then *settled*: everything is delivered, acknowledged, promised and
collected, after which the survivors must be equal and nothing collectable may be left. What
breaks is shortened until no step can go, and shown as a schedule that can be run again.

Invariants: a walk is determined by its scope, a random run by its seed.

After Jackson, "Software Abstractions", and Zeller & Hildebrandt, "Simplifying and isolating
failure-inducing input".
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

from tests.model.membership import Replica
from tests.model.oracle import Violation
from tests.model.schedule import Step, World, parse, transcript
from tests.model.vocabulary import REMOVAL_KINDS, REMOVED, Total

__all__ = ["Profile", "Scope", "draw", "fails", "settle", "shorten", "walk"]

ROUNDS_AT_MOST = 60


class Scope(NamedTuple):
    """What one exhaustive walk covers: each replica's own lines in order, and what may come
    between them. Deliveries always may, from the origin, or ``relayed`` by anyone.
    """

    founders: str
    programs: tuple[tuple[str, tuple[str, ...]], ...]
    collections: int = 0  # how many
    collectors: str = "a"  # who collects, finds cuts final, and so hears acknowledgements
    snapshots: bool = False
    relayed: bool = False
    promises: bool = False  # whoever has heard of an eviction may promise
    trust_ordered: bool = False
    kind: type[Replica] = Replica

    def world(self) -> World:
        """Return the world at the start."""
        return World(self.founders, trust_ordered=self.trust_ordered, kind=self.kind)


class _Node(NamedTuple):
    world: World
    positions: tuple[int, ...]
    collections: int
    path: tuple[Step, ...]


def walk(scope: Scope, states_at_most: int = 100_000) -> int:
    """Run every schedule of a scope; return how many distinct states there were.

    Raises Violation with the shortened schedule.
    """
    first = _Node(scope.world(), (0,) * len(scope.programs), scope.collections, ())
    seen: set[object] = set()
    stack = [first]
    while stack:
        node = stack.pop()
        for step, positions, collections in _moves(scope, node):
            world = node.world.copy()
            path = (*node.path, step)
            try:
                outcome = world.step(step)
            except Violation as violation:
                shortest = shorten(path, lambda steps: fails(scope.world, steps))
                raise Violation(transcript(shortest, scope.world())) from violation
            if outcome != "done" and positions == node.positions:
                continue
            mark = (hash(world.fingerprint()), positions, collections)
            if mark not in seen:
                seen.add(mark)
                if len(seen) > states_at_most:
                    raise RuntimeError("the scope is larger than it was meant to be")
                stack.append(_Node(world, positions, collections, path))
    return len(seen)


def _moves(scope: Scope, node: _Node) -> Iterator[tuple[Step, tuple[int, ...], int]]:
    """Yield each step that may come next. A program's line that is refused is passed over."""
    for index, (name, program) in enumerate(scope.programs):
        position = node.positions[index]
        if position < len(program):
            positions = (*node.positions[:index], position + 1, *node.positions[index + 1 :])
            yield parse(f"{name}: {program[position]}")[0], positions, node.collections
    names = sorted(node.world.replicas.keys() - node.world.gone)
    for name in names:
        for peer in names:
            if peer != name:
                for step in _exchanges(scope, node.world, name, peer):
                    yield step, node.positions, node.collections
        if node.collections and name in scope.collectors:
            yield _step(name, "collect"), node.positions, node.collections - 1
        if scope.promises and node.world.replicas[name].evicted():
            yield _step(name, "promise"), node.positions, node.collections


def _exchanges(scope: Scope, world: World, name: str, peer: str) -> Iterator[Step]:
    replica, source = world.replicas[name], world.replicas[peer]
    for origin in source.vector if scope.relayed else (peer,):
        if source.vector.get(origin, 0) > replica.vector.get(origin, 0):
            yield _step(name, "deliver", peer, origin)
    hears = (scope.promises or scope.collections) and name in scope.collectors
    if hears and source.vector != replica.acknowledged.get(peer, {}):
        yield _step(name, "acknowledge", peer)
    if scope.snapshots and source.vector.items() - replica.vector.items():
        yield _step(name, "snapshot", peer)


def _step(at: str, *words: str) -> Step:
    return Step(at, (words,))


# -- settling ------------------------------------------------------------------------------


def settle(world: World) -> None:
    """Deliver, acknowledge, promise and collect all there is; then demand what must follow.

    Those who are gone, or never admitted, are given up by force first; those whom a cut has
    halted come back under a new id and rescue what they lost. Raises Violation when survivors
    still differ, a cut never becomes final, or something collectable is left.
    """
    _exchange(world)
    _check_told(world)
    if not any(replica.name in world.founders for replica in _living(world)):
        return  # all who began it gave each other up, undecided: nothing is promised but safety
    _give_up_the_lost(world)
    chiefs = _living(world)
    _check_settled(world)
    for name in sorted(world.replicas.keys() - world.gone):
        if world.replicas[name].is_halted():
            _bring_back(world, name, chiefs[0].name)
    _exchange(world)
    _check_settled(world)


def _give_up_the_lost(world: World) -> None:
    chief = next(iter(_living(world)), None)
    if chief is not None:
        living = {replica.name for replica in _living(world)}
        lost = chief.members() - living
        if lost - chief.settled.keys():
            forced = world.forced
            world.step(_step(chief.name, "evict", *sorted(lost), "force"))
            world.forced = forced  # all who live agree, so nothing is at risk
            _exchange(world)


def _bring_back(world: World, name: str, sponsor: str) -> None:
    """Let a halted replica return under a new id, and rescue what it may."""
    new = name + "'"
    world.step(_step(new, "rejoin", name))
    world.step(_step(sponsor, "admit", new))
    _exchange(world)
    replica = world.replicas[new]
    if new not in replica.members():
        raise Violation(f"{new} cannot return")
    for origin in replica.predecessors:
        world.step(_step(new, "rescue", origin))


def _living(world: World) -> list[Replica]:
    """Return the replicas that take part: admitted, not gone, not given up, not beyond a cut."""
    everyone = [r for name, r in sorted(world.replicas.items()) if name not in world.gone]
    active = [r for r in everyone if r.name in r.members() and not r.is_halted()]
    given_up = frozenset[str]().union(*(replica.evicted() for replica in active))
    return [replica for replica in active if replica.name not in given_up]


def _exchange(world: World) -> None:
    for _ in range(ROUNDS_AT_MOST):
        names = [name for name in sorted(world.replicas) if name not in world.gone]
        steps = [
            _step(name, verb, peer)
            for name in names
            for peer in names
            if peer != name
            for verb in ("pull", "snapshot", "acknowledge")
            if verb != "snapshot" or _has_gaps(world.replicas[peer])
        ]
        steps += [_step(name, verb) for verb in ("promise", "collect") for name in names]
        before = {name: dict(world.replicas[name].vector) for name in names}
        changed = [world.step(step) == "done" and step.operations[0][0] for step in steps]
        moved = {name: world.replicas[name].vector for name in names} != before
        if not moved and "acknowledge" not in changed:
            return
    raise Violation("the world does not come to rest")


def _check_told(world: World) -> None:
    here = [replica for name, replica in sorted(world.replicas.items()) if name not in world.gone]
    cut_off = {name for r in here for verdict in r.verdicts() for name in verdict.evicted}
    for replica in here:
        if replica.name in cut_off and not replica.is_halted():
            raise Violation(f"{replica.name} is cut off and never learns it")


def _has_gaps(replica: Replica) -> bool:
    """Say whether a log lacks what was trimmed, or came in a snapshot."""
    return sum(len(batch.deltas) for batch in replica.log.values()) < sum(replica.vector.values())


def _check_settled(world: World) -> None:
    living = _living(world)
    for replica in living:
        if replica.vector != living[0].vector:
            raise Violation(
                f"{living[0].name} and {replica.name} never meet: "
                f"{living[0].vector}, {replica.vector}"
            )
        if replica.evicted() - replica.settled.keys():
            raise Violation(f"{replica.name} never learns a final cut of {replica.evicted()}")
        for place, held in replica.table.items():
            values = [entry.value for entry in held.values()]
            if place.kind in REMOVAL_KINDS and REMOVED in values and not replica.trust_ordered:
                raise Violation(f"a removal at {place} is never collected")
            if place.kind == "counter" and not any(isinstance(v, Total) for v in values):
                raise Violation(f"a baseline at {place} is never collected")


# -- at random -----------------------------------------------------------------------------


class Profile(NamedTuple):
    """What a random run draws from: templates of lines with their weights."""

    founders: str
    templates: tuple[tuple[int, str], ...]
    trust_ordered: bool = False
    kind: type[Replica] = Replica

    def world(self) -> World:
        """Return the world at the start."""
        return World(self.founders, trust_ordered=self.trust_ordered, kind=self.kind)


def draw(profile: Profile, seed: int, length: int) -> int:
    """Run one random schedule and settle it; return how many of its steps were not refused.

    In a template ``{at}``, ``{peer}`` and ``{other}`` are replicas that exist, ``{new}`` an id
    that does not, ``{n}`` a small number. Raises Violation with the shortened schedule.
    """
    choose = random.Random(seed)
    world = profile.world()
    weights = [weight for weight, _ in profile.templates]
    steps: list[Step] = []
    try:
        for _ in range(length):
            names = sorted(world.replicas.keys() - world.gone)
            template = choose.choices(profile.templates, weights)[0][1]
            new = "abcdefghijklmnopqrstuvwxyz"[len(world.replicas)]
            line = template.format(
                at=choose.choice(names),
                peer=choose.choice(names),
                other=choose.choice(sorted(world.replicas)),
                new=new,
                n=choose.randint(1, 3),
            )
            step = parse(line)[0]
            steps.append(step)
            if world.step(step) != "done":
                steps.pop()
        settle(world)
    except Violation as violation:
        shortest = shorten(tuple(steps), lambda some: fails(profile.world, some, settled=True))
        shown = transcript(shortest, profile.world())
        raise Violation(f"seed {seed}: {violation}\n{shown}") from violation
    return len(steps)


def fails(
    factory: Callable[[], World], steps: tuple[Step, ...], settled: bool = False
) -> Violation | None:
    """Return what a schedule violates, with ``settled`` also when it comes to rest."""
    world = factory()
    try:
        world.run(steps)
        if settled:
            settle(world)
    except Violation as violation:
        return violation
    return None


def shorten(
    steps: tuple[Step, ...], broken: Callable[[tuple[Step, ...]], Violation | None]
) -> tuple[Step, ...]:
    """Drop steps, and operations of transactions, while the schedule still breaks something."""
    size = max(1, len(steps) // 2)
    while size:
        index = 0
        while index < len(steps):
            fewer = steps[:index] + steps[index + size :]
            if broken(fewer):
                steps = fewer
            else:
                index += size
        size //= 2
    for index, step in enumerate(steps):
        for operation in step.operations[1:]:
            rest = tuple(o for o in steps[index].operations if o is not operation)
            fewer = (*steps[:index], Step(step.at, rest), *steps[index + 1 :])
            if broken(fewer):
                steps = fewer
    return steps
