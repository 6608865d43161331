"""Worlds whose machines find each other by the mesh: production's own, repeatable, and broken."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import crdtmem.links
import gossip.mesh
from gossip.messages import State
from gossip.stream_seal import SALT_BYTES, StreamSeal
from simulations.errors import BadPlan, LivenessViolation
from simulations.exchanges import Exchange
from simulations.founding import await_gathering, found_by_mesh
from simulations.mesh import LABEL, MESHES, VirtualMesh, address_of, gathered, name_of
from simulations.node import Machine
from simulations.simulated_stage import SimulatedStage
from simulations.world import World
from tests.capabilities import ROOT

REGIONS = ("eu-west", "us-east", "eu-west", "us-east", "ap-south")


def world_of(machines: int = 3, kind: str = "swift", seed: int = 1) -> World:
    """A founded world of machines ``m0``, ``m1``… whose mesh has gathered."""
    world = World(seed, mesh_kind=kind)
    for number in range(machines):
        world.add(f"m{number}", REGIONS[number])
    world.seed_mesh()
    found_by_mesh(world)
    await_gathering(world)
    return world


def life_of(machine: Machine) -> VirtualMesh:
    assert machine.mesh is not None
    return machine.mesh


def shown(world: World, name: str) -> dict[str, State]:
    views = life_of(world.machines[name]).mesh.members()
    return {name_of(view.record.profile.gossip_address): view.state for view in views}


# ---------------------------------------------------------------------- what runs


def test_what_decides_is_the_production_code() -> None:
    world = world_of(2)
    for machine in world.machines.values():
        life = life_of(machine)
        assert type(life.mesh) is gossip.mesh.Mesh
        assert type(life._links) is crdtmem.links.Links
        methods = {
            name for name in vars(gossip.mesh.Mesh) if callable(vars(gossip.mesh.Mesh)[name])
        }
        assert not methods & vars(life.mesh).keys()
        assert life.mesh.me.member == machine.engine.replica_id


@pytest.mark.parametrize("kind", MESHES)
def test_machines_find_each_other_and_one_writes_for_all(kind: str) -> None:
    world = world_of(5, kind)
    sealed = [life_of(machine).ring is not None for machine in world.machines.values()]
    assert set(sealed) == {MESHES[kind].sealed}
    for name in world.machines:
        assert shown(world, name) == {m: State.ALIVE for m in world.machines if m != name}
    assert all(machine.replica.writable for machine in world.machines.values())
    world.run(5)
    assert world.converged()


def test_all_start_again_without_seeds_and_meet_in_later_lives() -> None:
    world = world_of(4)
    world.run(2)
    before = {name: life_of(m).mesh.me for name, m in world.machines.items()}
    for machine in world.machines.values():
        machine.crash(silent=True)
        machine.seeds = []
    for machine in world.machines.values():
        machine.start()
    await_gathering(world)
    for name, machine in world.machines.items():
        me = life_of(machine).mesh.me
        assert me.member == before[name].member
        assert me.generation == before[name].generation + 1


def test_who_stops_says_farewell_and_who_crashes_does_not() -> None:
    world = world_of(3)
    world.machines["m2"].stop()
    world.run(2)
    assert shown(world, "m0")["m2"] is State.LEFT
    world.machines["m1"].crash()
    world.run(1)
    assert shown(world, "m0")["m1"] is not State.LEFT
    assert gathered(world) is False


def test_a_cut_is_seen_and_healing_gathers_again() -> None:
    world = world_of(3)
    world.network.cut(["m0"], ["m1", "m2"])
    world.run(60)
    assert shown(world, "m0")["m2"] is State.DEAD
    assert not gathered(world)
    with pytest.raises(LivenessViolation, match="gathering"):
        await_gathering(world)
    world.network.heal(["m0"], ["m1", "m2"])
    assert await_gathering(world) < 60


def test_datagrams_wait_for_a_process_that_stands_still_but_not_without_bound() -> None:
    world = world_of(2)
    machine = world.machines["m1"]
    machine.pause()
    for number in range(1_000):
        machine.datagram("m0", b"noise %d" % number)
    assert len(machine._waiting) < 300
    machine.resume()
    refused = life_of(machine).mesh.counters
    assert 200 < sum(count for name, count in refused.items() if "refused" in name) < 300


def test_a_stage_says_by_what_its_machines_find_each_other() -> None:
    stage = SimulatedStage(1)
    stage.regions("eu-west", machines=2, by="swift")
    with pytest.raises(BadPlan):
        stage.regions("us-east")
    with pytest.raises(BadPlan):
        SimulatedStage(1).regions("us-east", by="carrier pigeon")
    stage.start()
    assert stage.gather() >= 0
    assert stage.shown("eu-west-1") == ["eu-west-2"]


# ---------------------------------------------------------------------- one seed, one run


def outcome(seed: int) -> str:
    world = world_of(5, "swift sealed", seed)
    for link in world.network.links.values():
        link.loss, link.reorder, link.duplicate, link.corrupt = 0.05, 0.05, 0.02, 0.01
    world.after(1, world.machines["m3"].crash)
    world.after(5, world.machines["m3"].start)
    world.after(2, world.machines["m1"].pause)
    world.after(4, world.machines["m1"].resume)
    world.after(6, world.network.cut, ["m0"], ["m2"])
    world.run(15)
    known = [sorted(shown(world, name).items()) for name in world.machines]
    return f"{world.trace.digest()} {world.kernel.events} {known}"


def test_a_seed_gives_one_run_here_and_under_another_hash_seed() -> None:
    program = "from tests.simulations.test_mesh import outcome; print(outcome(3))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "99"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert outcome(3) == outcome(3) == done.stdout.strip()
    assert outcome(4) != outcome(3)


# ---------------------------------------------------------------------- exchanges


class Asked:
    """What came of exchanges."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.came: list[tuple[bytes | None, bool, float]] = []

    def ask(self, there: str, frame: bytes = b"?", timeout_us: int = 5_000_000) -> None:
        seal = StreamSeal(LABEL, None, bytes(SALT_BYTES), initiator=True)
        exchange = Exchange(self.world.network, "m0", there, seal, self._told)
        exchange.begin(frame, timeout_us)

    def _told(self, answer: bytes | None, refused: bool) -> None:
        self.came.append((answer, refused, self.world.elapsed_s))


def answering(monkeypatch: pytest.MonkeyPatch) -> World:
    world = world_of(2)
    monkeypatch.setattr(Machine, "asked", lambda self, exchange, frame: exchange.answer(frame * 2))
    return world


def test_an_exchange_is_answered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    world = answering(monkeypatch)
    asked = Asked(world)
    asked.ask("m1")
    world.run(20)
    assert [told[:2] for told in asked.came] == [(b"??", False)]


def test_a_host_without_the_process_refuses_and_one_without_power_says_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = answering(monkeypatch)
    asked = Asked(world)
    world.machines["m1"].crash()
    began_s = world.elapsed_s
    asked.ask("m1")
    world.run(20)
    assert asked.came[0][:2] == (None, True)
    assert asked.came[0][2] - began_s < 1
    world.machines["m1"].start()
    world.machines["m1"].crash(silent=True)
    began_s = world.elapsed_s
    asked.ask("m1")
    asked.ask("nowhere")
    world.run(20)
    assert [told[:2] for told in asked.came[1:]] == [(None, False)] * 2
    assert asked.came[1][2] - began_s == pytest.approx(5)


def test_a_short_cut_delays_an_exchange_and_a_long_one_ends_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = answering(monkeypatch)
    asked = Asked(world)
    for cut_s, answer in ((2, b"??"), (10, None)):
        world.network.cut(["m0"], ["m1"])
        asked.ask("m1")
        world.after(cut_s, world.network.heal, ["m0"], ["m1"])
        world.run(20)
        assert asked.came.pop()[0] == answer
    assert not asked.came


def test_harmed_bytes_fail_and_are_never_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    world = answering(monkeypatch)
    asked = Asked(world)
    for link in (world.network.link("m0", "m1"), world.network.link("m1", "m0")):
        link.corrupt = 0.5
    for number in range(60):
        asked.ask("m1", b"%d" % number)
    world.run(20)
    answers = [told[0] for told in asked.came]
    assert len(answers) == 60
    assert 0 < answers.count(None) < 60
    assert {one for one in answers if one} <= {b"%d" % number * 2 for number in range(60)}


def test_addresses_name_machines() -> None:
    assert name_of(address_of("eu-west-2")) == "eu-west-2"
