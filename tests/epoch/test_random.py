"""Random schedules: the rules hold on all of them, and each broken rule is found on some."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crdtmem.causality import VersionVector
from crdtmem.epoch import Epoch
from crdtmem.eviction import Evictions
from crdtmem.promises import Promise, find_verdicts
from crdtmem.table import State
from tests.epoch.harness import Cluster, Node, act
from tests.epoch.world import ACTIONS, Step, Violation, World

STEPS = st.builds(
    Step,
    st.integers(0, 6),
    st.sampled_from((*ACTIONS, "admit", "evict")),
    st.integers(0, 6),
    st.integers(0, 63),
)


def schedule(seed: int, length: int = 120) -> list[Step]:
    """Return a random schedule in which members change now and then."""
    random = Random(seed)
    actions = (*ACTIONS, *ACTIONS, *ACTIONS, "admit", "evict")
    return [
        Step(random.randrange(7), random.choice(actions), random.randrange(7), random.randrange(64))
        for _ in range(length)
    ]


def run(seed: int, node: type[Node] = Node) -> World:
    world = World(node=node)
    world.run(schedule(seed))
    world.converge()
    return world


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(st.lists(STEPS, max_size=60))
def test_any_schedule(steps: list[Step]) -> None:
    world = World("abc")
    world.run(steps)
    world.converge()


@pytest.mark.slow
def test_long_schedules() -> None:
    settled = collected = 0
    for seed in range(25):
        world = run(seed)
        settled += any(node.epoch.settled for node in world.nodes)
        collected += any(node.collected for node in world.nodes)
    # The schedules reach what they are meant to hold.
    assert settled >= 10
    assert collected >= 10


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_many_long_schedules() -> None:
    for seed in range(1_000, 3_000):
        run(seed)


# ---------------------------------------------------------------------------- broken rules


class ForgetsOwnPart(Epoch):
    """Counts an acknowledgement at once, though what its sender wrote itself is not here."""

    def counted(self, replica: int, own_vector: VersionVector) -> VersionVector:
        return own_vector if replica == self.own else self.acknowledged(replica)


class ForgetsLeavers(Epoch):
    """Stops waiting for a member as soon as it has promised to evict it."""

    @property
    def members(self) -> frozenset[int]:
        return super().members - self.leaving


class ForgetsNewcomers(Epoch):
    """Waits for the first three members only."""

    @property
    def members(self) -> frozenset[int]:
        return frozenset(sorted(super().members)[:3])


class TakesFromTheEvicted(Evictions):
    """Promises, and goes on taking what the evicted sends."""

    def _limits(
        self, epoch: Epoch, evicted: frozenset[int], vector: VersionVector
    ) -> dict[int, int]:
        return {}


class TakesNothingMore(Evictions):
    """Keeps its promise to the letter: takes nothing more, not even what survivors hold."""

    def _limits(
        self, epoch: Epoch, evicted: frozenset[int], vector: VersionVector
    ) -> dict[int, int]:
        limits = super()._limits(epoch, evicted, vector)
        own = self.promises.get(self.own)
        known = {} if own is None else own.taken
        decided = {replica for verdict in self.verdicts for replica in verdict.evicted}
        return {r: last if r in decided else known.get(r, last) for r, last in limits.items()}


class AsksOnlyFounders(Evictions):
    """Decides without the newcomers whom a survivor names."""

    def refresh(self, state: State) -> None:
        super().refresh(state)
        founders = frozenset(range(0x100, 0x104))
        narrow = {
            author: Promise(
                author,
                word.taken,
                word.members & founders,
                word.established & founders,
                word.settled,
                word.forced,
                word.order,
                word.dot,
            )
            for author, word in self.promises.items()
        }
        self.verdicts = list(find_verdicts(narrow))


def node_with(make: Callable[[Node], None]) -> type[Node]:
    class Broken(Node):
        def compose(self) -> None:
            super().compose()
            make(self)

    return Broken


def _epoch(kind: type[Epoch]) -> type[Node]:
    return node_with(lambda node: setattr(node, "epoch", kind(node.id)))


def _evictions(kind: type[Evictions]) -> type[Node]:
    return node_with(lambda node: setattr(node, "evictions", kind(node.id)))


@pytest.mark.parametrize(
    "node",
    [
        pytest.param(_epoch(ForgetsOwnPart), id="forgets own part"),
        pytest.param(_epoch(ForgetsLeavers), id="forgets leavers"),
        pytest.param(_epoch(ForgetsNewcomers), id="forgets newcomers"),
        pytest.param(_evictions(TakesFromTheEvicted), id="takes from the evicted"),
        pytest.param(_evictions(AsksOnlyFounders), id="asks only founders"),
    ],
)
def test_a_broken_rule_is_found(node: type[Node]) -> None:
    for seed in range(400):
        try:
            run(seed, node)
        except Violation:
            return
    pytest.fail("no schedule shows the harm")


def test_a_promise_kept_to_the_letter_never_ends() -> None:
    """A survivor's promise follows what that survivor took; who refuses that never joins it."""
    for node, is_final in ((Node, True), (_evictions(TakesNothingMore), False)):
        cluster = Cluster("abc", node)
        a, b, c = cluster["a"], cluster["b"], cluster["c"]
        c.write(act("counter", "n", "increment"))
        b.pull(c, c)
        a.evict(c)
        cluster.sync("ab")
        assert bool(a.epoch.settled) is is_final
