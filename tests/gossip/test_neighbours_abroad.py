"""Gateways of one region in the wide-area pool: not probed twice, and not found dead later."""

from __future__ import annotations

import pytest

from gossip.config import LAN, LOCAL, WAN, Config
from gossip.messages import State
from tests.gossip.nodes import NodeWorld
from tests.gossip.pool import SECOND

_REST_S = 120


def _probes(world: NodeWorld, member: int) -> tuple[int, int]:
    counters = world.mesh(member).pool_counters()
    return counters["region:r0"].probes, counters["wide"].probes


@pytest.mark.parametrize(("near", "wide"), [(LOCAL, LOCAL), (LAN, WAN)], ids=["local", "lan"])
def test_what_an_idle_pair_of_gateways_costs(near: Config, wide: Config) -> None:
    world = NodeWorld(1, config=near, wide=wide)
    world.begin([1, 2])
    world.until(world.complete, 20 * SECOND)
    world.run(30 * SECOND)
    before = [(_probes(world, member), world.hosts[member].octets) for member in (1, 2)]
    world.run(_REST_S * SECOND)
    together = 0
    for member, ((at_home, abroad), octets) in zip((1, 2), before, strict=True):
        assert world.mesh(member).is_gateway
        now_at_home, now_abroad = _probes(world, member)
        assert now_at_home - at_home == pytest.approx(_REST_S, abs=3)
        together += now_abroad - abroad
        assert (world.hosts[member].octets - octets) / _REST_S < 400
    # One probes the other when it was not heard for five seconds, and is heard by that.
    assert _REST_S / 10 <= together <= _REST_S / 3


@pytest.mark.parametrize(("near", "wide"), [(LOCAL, LOCAL), (LAN, WAN)], ids=["local", "lan"])
@pytest.mark.parametrize("seed", range(3))
def test_doubts_at_home_have_a_gateway_probed_abroad(seed: int, near: Config, wide: Config) -> None:
    world = NodeWorld(seed, config=near, wide=wide)
    world.begin([1, 2, 3, 100, 101])
    world.until(world.complete, 60 * SECOND)
    world.run(20 * SECOND)
    world.kill(1)
    found_us = world.until(lambda: _calls(world, 3, 1, State.SUSPECT), 10 * SECOND)
    timeout_us = wide.probe_interval_us + wide.probe_timeout_us
    later_us = world.until(lambda: _suspected_abroad(world, 2, 1), 30 * SECOND)
    assert found_us <= 4 * near.probe_interval_us
    assert later_us <= timeout_us
    world.until(lambda: _calls(world, 100, 1, State.DEAD), 60 * SECOND)


def _calls(world: NodeWorld, seer: int, seen: int, state: State) -> bool:
    return world.views(seer)[seen].state is state


def _suspected_abroad(world: NodeWorld, seer: int, seen: int) -> bool:
    wide = world.mesh(seer)._wide
    assert wide is not None
    view = wide.view(seen)
    return view is not None and view.state is not State.ALIVE
