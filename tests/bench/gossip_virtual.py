"""Pools in virtual time: sizes and durations that no machine here could run as processes.

The machines are those that run on sockets; latencies are 0.2 to 2 ms, nothing is slow but what
is made so. A seed gives the same figures anywhere.

Detection and convergence must grow like the logarithm of the size: each size is held to what the
protocol allows it (a turn of probing, the timeout, the least suspicion, which grows with log10 n,
and the rounds that news needs, which grow with log2 n). Load per member must not grow at all: it is
held to that of the smallest size.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from math import log2

from gossip.config import LAN
from gossip.messages import State
from gossip.suspicion import minimum_us
from tests.bench.gossip_agents import say
from tests.bench.gossip_chance import poisson_interval
from tests.bench.report import Row
from tests.gossip.pool import MS, SECOND, Host, World

__all__ = ["Size", "false_deaths", "measure_size", "rows_of_sizes"]

_LIMIT = 120 * SECOND
_TURN_S = 5.0
"""How long nobody may have its turn of probing the dead one, and its timeout: of n members who
choose by chance, e^-t do not within t seconds, whatever n is."""
_LOAD_GROWTH = 1.25
_BUDGET_PER_HOUR = 0.2
"""False deaths of healthy members per member-hour that are tolerated in a tenth of loss beside
members that stand still for most of the time."""


@dataclass
class Size:
    """What one size showed; times in seconds, one per kill or payload."""

    members: int
    first_s: list[float] = field(default_factory=list)
    all_s: list[float] = field(default_factory=list)
    spread_s: list[float] = field(default_factory=list)
    missed: int = 0
    """How many members a payload has not reached: broadcasts are best effort."""
    packets_per_s: float = 0.0
    bytes_per_s: float = 0.0

    @property
    def detection_bound_s(self) -> float:
        """What the protocol allows the last member to need."""
        return _TURN_S + minimum_us(LAN, self.members) / SECOND + self.spread_bound_s

    @property
    def spread_bound_s(self) -> float:
        """Twice the rounds in which three told by each reach everybody."""
        rounds = 2 + log2(self.members)
        return 2 * rounds * LAN.gossip_interval_us / SECOND


def measure_size(members: int, *, kills: int = 3, rest_s: int = 10, seed: int = 7) -> Size:
    """Run one pool: at rest, then payloads, then kills."""
    say(f"virtual: {members} members")
    world, size = World(seed), Size(members)
    world.found(members)
    world.run(5 * SECOND)
    packets, octets = _sent(world)
    world.run(rest_s * SECOND)
    more_packets, more_octets = _sent(world)
    size.packets_per_s = (more_packets - packets) / rest_s / members
    size.bytes_per_s = (more_octets - octets) / rest_s / members
    for number in range(kills):
        _spread(world, world.running()[number], size)
        # The moment of a death lies anywhere between two turns.
        world.run(world.chance.randrange(SECOND))
        _kill(world, members - number, size)
    return size


def _sent(world: World) -> tuple[int, int]:
    hosts = world.running()
    return sum(host.packets for host in hosts), sum(host.octets for host in hosts)


def _spread(world: World, origin: Host, size: Size) -> None:
    """Spread a payload until nobody passes it on: best effort, so somebody may lack it then."""
    before = {host.member: len(host.delivered) for host in world.running()}
    since_us = last_us = world.now_us
    world.call(origin, origin.swim.broadcast(b"to all", world.now_us))
    others = [host for host in world.running() if host is not origin]
    reached = 0
    while reached < len(others) and any(
        host.swim.counters.queue_length for host in world.running()
    ):
        world.run(20 * MS)
        now = sum(len(host.delivered) > before[host.member] for host in others)
        if now > reached:
            reached, last_us = now, world.now_us
    size.spread_s.append((last_us - since_us) / SECOND)
    size.missed += len(others) - reached


def _kill(world: World, victim: int, size: Size) -> None:
    since_us = world.now_us
    world.kill(victim)
    world.until(lambda: world.all_see(victim, State.DEAD), _LIMIT, 50 * MS)
    times = [
        at_us
        for host in world.running()
        for at_us, change in host.changes
        if at_us >= since_us and change.record.member == victim and change.state is State.DEAD
    ]
    size.first_s.append((min(times) - since_us) / SECOND)
    size.all_s.append((max(times) - since_us) / SECOND)


def rows_of_sizes(sizes: list[Size]) -> list[Row]:
    """Return the rows of several sizes, the smallest first."""
    rows = []
    least = sizes[0]
    for size in sizes:
        where = f"{size.members:,} members, lan, virtual"
        rows += [
            Row(f"detection, first, {where}", _mean(size.first_s), "s", "", None),
            Row(
                f"detection, all, {where}", max(size.all_s), "s", "bound: log n",
                size.detection_bound_s, 1.0, {"mean": _mean(size.all_s)},
            ),
            Row(
                f"dissemination, {where}", max(size.spread_s), "s", "bound: log n",
                size.spread_bound_s, 1.0, {"mean": _mean(size.spread_s), "missed": size.missed},
            ),
            Row(
                f"at rest, {where}", size.packets_per_s, "packets/s",
                f"{least.members} members + {_LOAD_GROWTH - 1:.0%}",
                least.packets_per_s * _LOAD_GROWTH, 1.0, {"bytes_per_s": size.bytes_per_s},
            ),
        ]  # fmt: skip
    return rows


def _mean(values: list[float]) -> float:
    return statistics.mean(values)


def false_deaths(
    *, members: int = 20, hours: float = 1.0, loss: float = 0.1, slow: int = 2, seed: int = 11
) -> list[Row]:
    """Count deaths of healthy members over member-hours of loss beside slow members."""
    say(f"virtual: {members * hours:g} member-hours with loss and slow members")
    world = World(seed, loss=loss)
    world.found(members)
    stutterers = list(range(members - slow + 1, members + 1))
    end_us = int(hours * 3_600 * SECOND)

    def stop(member: int) -> None:
        world.pause(member)
        world.after(world.chance.randrange(2 * SECOND, 4 * SECOND), lambda: go_on(member))

    def go_on(member: int) -> None:
        world.resume(member)
        world.after(world.chance.randrange(200 * MS, SECOND), lambda: stop(member))

    for member in stutterers:
        world.after(world.chance.randrange(5 * SECOND), lambda member=member: stop(member))  # type: ignore[misc]
    while world.now_us < end_us:
        world.run(60 * SECOND)
    healthy = range(1, members - slow + 1)
    counts = {member: world.deaths(member) for member in range(1, members + 1)}
    count = sum(counts[member] for member in healthy)
    exposure = members * hours
    return [
        Row(
            f"false deaths of healthy members, {members} members, lan, virtual",
            count / exposure, "1/h", "budget", _BUDGET_PER_HOUR, 1.0,
            {
                "count": count, "member_hours": exposure, "loss": loss, "slow_members": slow,
                "interval": poisson_interval(count, exposure),
                "slow_called_dead": sum(counts[member] for member in stutterers),
            },
        )
    ]  # fmt: skip
