"""Random schedules over a small cluster, held step by step against causal history.

Problem: what goes wrong with membership goes wrong in orders of events that nobody thought of.

Idea: a ``World`` is a cluster in which every step is one line (who, what, with whom), and a record
that no node may look at: every transaction ever written, with the vector that its writer had. What
each place must read follows from that record alone, as if nothing were ever collected.

Invariants, each of which raises ``Violation``: what arrives was not concurrent with what was held
stable; nodes of one vector have one digest; final cuts agree, and nobody who goes on is past one;
every place reads as causal history says.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from crdtmem.causality import VersionVector
from crdtmem.errors import CrdtmemError
from crdtmem.promises import void_members
from tests.epoch.harness import Cluster, Node, act

__all__ = ["ACTIONS", "Step", "Violation", "World"]

ELEMENTS = ("x", "y")
NAMES = "abcdefg"

WRITES: tuple[tuple[str, str, str, tuple[Any, ...]], ...] = (
    ("set_remove_wins", "grants", "add", ("x",)),
    ("set_remove_wins", "grants", "remove", ("x",)),
    ("set_remove_wins", "grants", "add", ("y",)),
    ("set_remove_wins", "grants", "remove", ("y",)),
    ("counter", "n", "increment", (1,)),
    ("counter", "n", "increment", (10,)),
    ("counter", "n", "decrement", (1,)),
    ("counter", "n", "delete", ()),
)

ACTIONS = (
    *("write", "write", "write", "deliver", "deliver", "deliver"),
    *("pull", "pull", "hear", "gossip", "collect"),
)
"""What most steps do; ``admit`` and ``evict`` are rarer, and come on top."""


class Step(NamedTuple):
    """One step: node number ``at`` does ``action``, with ``other`` and ``detail`` as it needs."""

    at: int
    action: str
    other: int
    detail: int


class Violation(AssertionError):
    """What no schedule may bring about."""


class Event(NamedTuple):
    """One write, for the oracle: its dots, what its writer had joined, and what it did."""

    origin: int
    first: int
    last: int
    past: VersionVector
    datatype: str
    name: str
    arguments: tuple[Any, ...]


class World:
    """A cluster of four founders, and what only an all-seeing observer knows."""

    def __init__(self, names: str = "abcd", node: type[Node] = Node) -> None:
        self.cluster = Cluster(names, node)
        self.events: list[Event] = []
        self.claims: dict[int, VersionVector] = {}
        self.cuts: dict[int, int] = {}

    @property
    def nodes(self) -> list[Node]:
        return list(self.cluster.nodes.values())

    def run(self, steps: Iterable[Step]) -> None:
        for step in steps:
            self.step(step)

    def step(self, step: Step) -> None:
        """Do one step, and check whoever may have changed. A refused step changes nothing."""
        nodes = self.nodes
        node, other = nodes[step.at % len(nodes)], nodes[step.other % len(nodes)]
        before = {n.id: n.vector.copy() for n in nodes}
        try:
            getattr(self, "_" + step.action)(node, other, step.detail)
        except CrdtmemError:
            return
        finally:
            self._check_arrivals(before)
        for changed in nodes if step.action in ("collect", "gossip") else [node]:
            self.check(changed)

    # ------------------------------------------------------------------ steps

    def _write(self, node: Node, _other: Node, detail: int) -> None:
        if not node.epoch.is_member:
            return
        datatype, key, name, arguments = WRITES[detail % len(WRITES)]
        past = node.vector.copy()
        node.write(act(datatype, key, name, *arguments))
        last = node.vector.get(node.id, 0)
        first = past.get(node.id, 0) + 1
        if last >= first:
            self.events.append(Event(node.id, first, last, past, datatype, name, arguments))

    def _deliver(self, node: Node, other: Node, detail: int) -> None:
        """Take one batch of one origin from another's log: the next, or one out of order."""
        lacking = node.lacking(other) if node is not other else []
        if lacking:
            node.take(lacking[detail % len(lacking)], other)

    def _pull(self, node: Node, other: Node, _detail: int) -> None:
        if node is not other:
            node.pull(other)

    def _gossip(self, node: Node, _other: Node, detail: int) -> None:
        """Let a group talk until it agrees; who is not in it is cut off meanwhile."""
        group = [n.name for i, n in enumerate(self.nodes) if n is node or (detail + 8 * i) % 5]
        self.cluster.sync("".join(group))

    def _hear(self, node: Node, other: Node, _detail: int) -> None:
        if node is not other:
            node.hear(other)

    def _collect(self, _node: Node, _other: Node, _detail: int) -> None:
        for node in self.nodes:
            if node.epoch.is_member and node.halted is None:
                node.collect()

    def _admit(self, node: Node, _other: Node, _detail: int) -> None:
        if len(self.nodes) < len(NAMES) and node.epoch.is_member:
            node.admit(self.cluster.node(NAMES[len(self.nodes)]))

    def _evict(self, node: Node, other: Node, _detail: int) -> None:
        if node is not other and node.epoch.is_member:
            node.evict(other)

    # ------------------------------------------------------------------ checks

    def _check_arrivals(self, before: dict[int, VersionVector]) -> None:
        """Hold what arrived against what was held stable before."""
        for node in self.nodes:
            was = before.get(node.id, VersionVector())
            for origin, (first, last) in node.vector.beyond(was).items():
                for batch in node.log[origin]:
                    if not first <= batch.header.last <= last:
                        continue
                    if origin != node.id:
                        self._check_arrival(node, origin, batch.header.first)

    def _check_arrival(self, node: Node, origin: int, first: int) -> None:
        claim = self.claims.get(node.id, VersionVector())
        (author,) = (other for other in self.nodes if other.id == origin)
        past = author.pasts[first].copy()
        past[origin] = first - 1
        if not past.dominates(claim):
            raise Violation(
                f"{node} held {claim} stable, and {author}'s {first}, written after {past}, "
                "still arrived"
            )

    def check(self, node: Node) -> None:
        """Hold one node against the others and against history."""
        if node.epoch.is_member and node.halted is None:
            self.claims.setdefault(node.id, VersionVector()).join(node.stable())
        for other in self.nodes:
            if other.vector == node.vector:
                if other.replica.state.digest() != node.replica.state.digest():
                    raise Violation(f"{node} and {other} know the same and differ")
        if node.halted is None:
            # One that halts may have joined, with the news, what was written without it.
            self._check_values(node)
            for victim, cut in node.epoch.settled.items():
                if self.cuts.setdefault(victim, cut) != cut:
                    raise Violation(f"{victim:x} was cut at {self.cuts[victim]} and at {cut}")
                if node.vector.get(victim, 0) > cut:
                    raise Violation(f"{node} is past the final cut of {victim:x}")
        else:
            given_up = node.halted.cuts.keys() | void_members(node.epoch.records, node.halted.cuts)
            if node.epoch.is_member and node.id not in given_up:
                raise Violation(f"{node} halts, and nobody gave it up: {node.halted.reason}")

    def _check_values(self, node: Node) -> None:
        known = [e for e in self.events if node.vector.get(e.origin, 0) >= e.last]
        expected = [element for element in ELEMENTS if _is_in(element, known)]
        found = node.value("set_remove_wins", "grants")
        if found != expected:
            raise Violation(f"{node} reads {found}, history says {expected}")
        count = _count(known)
        if node.value("counter", "n") != count:
            raise Violation(f"{node} counts {node.value('counter', 'n')}, history says {count}")

    def converge(self) -> None:
        """Let everybody talk to everybody, and check them all."""
        before = {n.id: n.vector.copy() for n in self.nodes}
        self.cluster.sync()
        self._check_arrivals(before)
        for node in self.nodes:
            self.check(node)


def _precedes(earlier: Event, later: Event) -> bool:
    return later.past.get(earlier.origin, 0) >= earlier.last


def _is_in(element: str, known: list[Event]) -> bool:
    """Removal wins: whatever is not superseded stands, and one standing removal decides."""
    about = [e for e in known if e.datatype == "set_remove_wins" and e.arguments == (element,)]
    standing = [e for e in about if not any(_precedes(e, later) for later in about)]
    return bool(standing) and all(e.name == "add" for e in standing)


def _count(known: list[Event]) -> int:
    """A delete takes back what its writer had joined, and nothing else."""
    counts = [e for e in known if e.datatype == "counter"]
    deletes = [e for e in counts if e.name == "delete"]
    total = 0
    for event in counts:
        if event.name != "delete" and not any(_precedes(event, d) for d in deletes):
            total += event.arguments[0] if event.name == "increment" else -event.arguments[0]
    return total
