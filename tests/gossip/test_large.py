"""A thousand members in virtual time: detection grows like the logarithm, load not at all."""

from __future__ import annotations

import pytest

from gossip.config import LAN
from gossip.messages import State
from gossip.suspicion import minimum_us
from tests.gossip.pool import SECOND, World


@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_a_thousand_members() -> None:
    world = World(3)
    count = 1_000
    world.found(count)
    assert world.whole()
    world.run(5 * SECOND)
    packets = sum(host.packets for host in world.running())
    octets = sum(host.octets for host in world.running())
    world.run(10 * SECOND)
    assert (sum(host.packets for host in world.running()) - packets) / 10 / count < 2.2
    assert (sum(host.octets for host in world.running()) - octets) / 10 / count < 400
    world.kill(count)
    octets = sum(host.octets for host in world.running())
    took = world.until(lambda: world.all_see(count, State.DEAD), 60 * SECOND, SECOND // 5)
    # A turn, a timeout, the least suspicion, and the spreading of the news.
    assert took < minimum_us(LAN, count) + 5 * SECOND
    assert sum(world.deaths(member) for member in range(1, count)) == 0
    spent = (sum(host.octets for host in world.running()) - octets) / (took / SECOND) / count
    assert spent < 1_000
    host = world.hosts[1]
    world.call(host, host.swim.broadcast(b"to all", world.now_us))
    took = world.until(
        lambda: all(one.delivered for one in world.running() if one.member != 1),
        20 * SECOND, SECOND // 5,
    )  # fmt: skip
    assert took < 5 * SECOND
