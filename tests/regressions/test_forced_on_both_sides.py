"""Two sides that had given each other up by force halted each other when they met.

Harm: every member took the other side's word that it had been evicted and retired its id, so
no member was left to admit any of them: the cluster was down as soon as the line was back.
"""

from __future__ import annotations

import pytest

from crdtmem.errors import ConditionFailed
from simulations.faults import clean_links
from simulations.node import Machine
from simulations.operators import evict, rejoin
from simulations.world import World
from tests.simulations.ground import admitted, held, put_and_wait, world_of
from tests.simulations.machines.rescuers import lost_on, rescue_on


def _parted() -> tuple[World, list[Machine], list[Machine]]:
    """Return a world whose two halves have given each other up, each with writes of its own."""
    world = world_of(4)
    put_and_wait(world.machines["m0"], [("shared", 0)])
    world.run_until(world.converged, "convergence", within_s=30)
    world.run(3)
    machines = list(world.machines.values())
    here, there = machines[:2], machines[2:]
    world.network.cut([m.name for m in here], [m.name for m in there])
    # Longer than any stream stays silent: nothing of what follows waits in a broken one.
    world.run(30)
    for side, other in ((here, there), (there, here)):
        for victim in other:
            assert evict(side[0], victim.engine.replica_id, forced=True) is None
    world.run_until(
        lambda: all(len(m.engine.epoch.members) == 2 for m in machines), "two clusters", within_s=60
    )
    for machine in machines:
        put_and_wait(machine, [(f"alone on {machine.name}", machine.name)])
    world.run(5)
    return world, here, there


def _meet(world: World) -> None:
    clean_links(world)
    world.run_until(
        lambda: all(m.engine.membership.given_up_by for m in world.up()), "alarm", within_s=60
    )


def _rejoined(world: World, machine: Machine) -> None:
    assert rejoin(machine) is None
    world.run_until(
        lambda: machine.up and machine.replica.writable, "member under a new id", within_s=60
    )


def test_both_stay_until_an_operator_decides() -> None:
    world, _, _ = _parted()
    ids = {m.name: m.engine.replica_id for m in world.up()}
    _meet(world)
    world.run(20)
    assert {m.name: m.engine.replica_id for m in world.up()} == ids
    for machine in world.up():
        put_and_wait(machine, [("still", machine.name)])
    assert world.alarms["given up on both sides"] >= len(ids)
    assert not world.alarms["halted"]


def test_one_side_rejoins_and_what_it_wrote_alone_is_rescued() -> None:
    world, here, there = _parted()
    _meet(world)
    for machine in there:
        assert rejoin(machine) is None
    world.run_until(lambda: admitted(world) and world.converged(), "convergence", within_s=120)
    for machine in here + there:
        assert held(machine)["alone on m0"] == "m0"
        assert "alone on m2" not in held(machine), "nothing is replayed behind anyone's back"
    assert all(lost_on(machine) for machine in there)
    world.run(5)
    for machine in there:
        # Each holds also what the other wrote, which is not its own to rescue.
        rescue_on(machine)
        world.run(5)
    world.run_until(world.converged, "convergence", within_s=60)
    for machine in here + there:
        written = held(machine)
        assert {written[f"alone on {m.name}"] for m in here + there} == {"m0", "m1", "m2", "m3"}
    assert not any(lost_on(machine) for machine in there)


def test_they_may_rejoin_one_after_the_other_with_restarts_between() -> None:
    world, _, there = _parted()
    _meet(world)
    first, last = there
    _rejoined(world, first)
    last.crash()
    last.start()
    world.run_until(
        lambda: last.up and bool(last.engine.membership.given_up_by), "alarm again", within_s=60
    )
    _rejoined(world, last)
    world.run_until(lambda: admitted(world) and world.converged(), "convergence", within_s=120)
    states = [m.engine.state.digest() for m in world.up()]
    assert all(state == states[0] for state in states)


def test_who_was_given_up_by_nobody_has_nobody_to_rejoin() -> None:
    world = world_of(2)
    refused = rejoin(world.machines["m0"])
    assert isinstance(refused, ConditionFailed)
    with pytest.raises(ConditionFailed):
        world.machines["m0"].engine.rejoin()
