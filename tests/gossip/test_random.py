"""Random faults, and then none: whatever happened, everybody finds everybody again in bounded
time; and throughout what is listed only rises, and nobody who was healthy is called dead."""

from __future__ import annotations

from random import Random

import pytest

from gossip.config import LAN, LOCAL
from gossip.messages import State
from tests.gossip.pool import MS, SECOND, Host, World


class Story:
    """One seed's world, its faults, and who is down, paused or gone by their doing."""

    def __init__(self, seed: int) -> None:
        self.chance = Random(seed)
        config = self.chance.choice([LAN, LOCAL])
        self.world = World(
            seed, config=config, latency_us=(200, self.chance.choice([1_000, 40_000]))
        )
        self.count = self.chance.randrange(2, 9)
        self.world.grow(self.count)
        self.world.run(3 * SECOND)
        self.left: set[int] = set()
        self.seen: dict[tuple[int, int, int], tuple[int, int]] = {}

    def _up(self) -> list[Host]:
        return [host for host in self.world.running() if host.member not in self.left]

    def step(self) -> None:
        """Do one thing to the world, and let time pass."""
        world, chance = self.world, self.chance
        member = chance.randrange(1, self.count + 1)
        host = world.hosts[member]
        what = chance.choice(
            ["cut", "split", "loss", "kill", "restart", "pause", "resume", "leave", "heal",
             "datagrams", "broadcast", "calm", "clock"]
        )  # fmt: skip
        if what == "cut":
            world.cuts.add((member, chance.randrange(1, self.count + 1)))
        elif what == "split":
            side = [one for one in range(1, self.count + 1) if chance.random() < 0.5]
            world.split(side, [one for one in range(1, self.count + 1) if one not in side])
        elif what == "loss":
            world.loss = chance.choice([0.0, 0.1, 0.4])
        elif what == "datagrams":
            world.datagram_cuts.add((member, chance.randrange(1, self.count + 1)))
        elif what == "heal":
            world.heal()
        elif what == "clock":
            host.wall_offset_us = chance.randrange(-SECOND, SECOND) * 1_000
        elif what == "resume" and host.paused and host.up:
            world.resume(member)
        elif what == "restart" and not host.up:
            self._restart(member)
        elif host.up and not host.paused:
            if what == "kill":
                world.kill(member)
            elif what == "pause":
                world.pause(member)
            elif what == "broadcast":
                world.call(host, host.swim.broadcast(b"news", world.now_us))
            elif what == "leave" and chance.random() < 0.3:
                world.call(host, host.swim.leave(world.now_us, world.wall(host)))
                world.kill(member)
        world.run(chance.choice([50 * MS, SECOND, 5 * SECOND, 40 * SECOND]))
        self.check()

    def _restart(self, member: int) -> None:
        seeds = ["10.0.0.1:7946"] if self.chance.random() < 0.5 else []
        self.world.restart(member, seeds)

    def check(self) -> None:
        """Make sure of what must hold in the midst of everything."""
        assert self.world.largest <= LAN.packet_bytes
        for host in self.world.running():
            for view in host.swim.members():
                key = (host.member, host.generation, view.record.member)
                word = (view.record.generation, view.record.incarnation)
                assert word >= self.seen.get(key, word), "a listed word fell"
                self.seen[key] = word
                assert view.record.generation <= self.world.hosts[view.record.member].generation

    def part(self) -> None:
        """Cut the running in two for so long that nobody is told of its death any more."""
        self.heal()
        side = [host.member for host in self._up() if self.chance.random() < 0.5]
        self.world.split(side, [one for one in self.world.hosts if one not in side])
        self.world.run(10 * LAN.gossip_to_dead_us)
        self.check()

    def heal(self) -> int:
        """End every fault; return how long it takes until all hold all for alive."""
        world = self.world
        world.heal()
        for member, host in sorted(world.hosts.items()):
            if host.paused and host.up:
                world.resume(member)
            elif not host.up:
                host.paused = False
                host.backlog.clear()
                world.restart(member, ["10.0.0.1:7946", "10.0.0.2:7946"])
        return world.until(world.whole, 3 * LAN.rejoin_interval_us)


def run(seed: int) -> None:
    story = Story(seed)
    for _ in range(25):
        story.step()
    if seed % 2:
        story.part()
    story.heal()
    world = story.world
    deaths = {host.member: world.deaths(host.member) for host in world.running()}
    world.run(60 * SECOND)
    assert world.whole()
    story.check()
    assert {host.member: world.deaths(host.member) for host in world.running()} == deaths
    assert len({host.swim.table_hash for host in world.running()}) == 1
    for host in world.running():
        assert all(view.state is State.ALIVE for view in host.swim.members())
        assert len(host.swim._prober) <= 2
        assert len(host.swim._inquiries) == 0
        assert not host.swim._rejoin._trying


@pytest.mark.parametrize("seed", range(25))
def test_whatever_happened_everybody_finds_everybody(seed: int) -> None:
    run(seed)


@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_whatever_happened_everybody_finds_everybody_many_seeds() -> None:
    for seed in range(1_000, 1_300):
        run(seed)
