"""Anything may happen to nodes of three regions; when it is over, everybody knows everybody."""

from __future__ import annotations

from random import Random

import pytest

from gossip.messages import State
from tests.gossip.nodes import NodeWorld
from tests.gossip.pool import SECOND

HEALED_WITHIN_US = 300 * SECOND


class Chaos:
    """Faults drawn from a seed; every node is up and nothing is cut at the end."""

    def __init__(self, seed: int) -> None:
        self.chance = Random(seed)
        self.world = NodeWorld(seed, loss=self.chance.choice([0.0, 0.0, 0.05, 0.2]))
        sizes = [self.chance.randint(1, 4) for _ in range(3)]
        self.members = [
            100 * region + one for region in range(3) for one in range(1, sizes[region] + 1)
        ]
        # Any two, of whatever region: what an operator writes into every node's settings.
        doors = self.chance.sample(self.members, 2)
        self.seeds = [self.world.place(door) for door in doors]
        self.world.begin(self.chance.sample(self.members, len(self.members)), doors)

    def restart(self, member: int) -> None:
        place = self.world.place(member)
        self.world.restart(member, [seed for seed in self.seeds if seed != place])

    def fault(self) -> None:
        world, chance = self.world, self.chance
        member = chance.choice(self.members)
        up = world.hosts[member].up
        match chance.randrange(7):
            case 0 | 1 if up:
                world.kill(member)
            case 0 | 1 | 2 if not up:
                self.restart(member)
            case 3:
                one = set(chance.sample(self.members, chance.randint(1, len(self.members))))
                world.split(one, set(self.members) - one)
            case 4:
                other = chance.choice(self.members)
                world.cuts.add((member, other))
            case 5:
                world.heal()
            case 6 if up:
                # It leaves, and starts again later: leaving is final for a generation only.
                host = world.hosts[member]
                world.call(host, host.swim.leave(world.now_us, world.wall(host)))
                host.up = False
        world.run(chance.choice([1, 5, 20, 60]) * SECOND)

    def end(self) -> None:
        self.world.heal()
        for member in self.members:
            if not self.world.hosts[member].up:
                self.restart(member)

    def lives_known(self) -> bool:
        """Whether everybody holds everybody else in the life that it lives."""
        world = self.world
        true = {member: host.generation for member, host in world.hosts.items()}
        return all(
            {about: view.record.generation for about, view in world.views(member).items()}
            == {about: life for about, life in true.items() if about != member}
            for member in self.members
        )

    def settled(self) -> bool:
        """Whether everybody knows everybody. That all are alive is not enough: of who has just
        been started again, its earlier life may still be held for alive, until an exchange that
        was begun over a cut way has timed out."""
        return self.world.complete() and self.lives_known()


def check(seed: int, faults: int) -> None:
    chaos = Chaos(seed)
    for _ in range(faults):
        chaos.fault()
    chaos.end()
    world = chaos.world
    world.until(chaos.settled, HEALED_WITHIN_US, 500_000)
    # It stays so: nothing that was on its way brings back what is over.
    world.run(20 * SECOND)
    assert world.complete()
    assert chaos.lives_known()
    for member in chaos.members:
        views = world.views(member)
        assert world.reported(member) == {about: view.state for about, view in views.items()}
        for region in {about // 100 for about in chaos.members}:
            lowest = sorted(about for about in chaos.members if about // 100 == region)[:2]
            steady = not any(views[about].damped for about in lowest if about in views)
            if steady:
                assert list(world.mesh(member).gateways(f"r{region}")) == lowest
        assert all(view.state is State.ALIVE for view in views.values())


@pytest.mark.parametrize("seed", range(12))
def test_after_any_faults_everybody_knows_everybody(seed: int) -> None:
    check(seed, faults=8)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 300, 25))
def test_after_any_faults_at_length(first: int) -> None:
    for seed in range(1_000 + first, 1_025 + first):
        check(seed, faults=15)
