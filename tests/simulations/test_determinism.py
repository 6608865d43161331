"""One seed, one run: here, again, in another process, and under another hash seed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from simulations.node import Machine
from simulations.world import World
from tests.capabilities import ROOT
from tests.simulations.ground import put, world_of

SECONDS = 12


def write(machine: Machine, key: str) -> None:
    put(machine, key, "x" * 300)


def eventful(seed: int) -> World:
    """A world with a little of everything: writes, cuts, loss, crashes, bad disks and clocks."""
    world = world_of(5, seed, checkpoint_bytes=1 << 13, sync_log_bytes=1 << 14)
    chance = world.kernel.random("events")
    machines = list(world.machines.values())
    for network in world.network.links.values():
        network.loss, network.reorder, network.corrupt = 0.02, 0.05, 0.001
    for number in range(SECONDS * 10):
        world.after(number / 10, write, chance.choice(machines), f"k{chance.randrange(30)}")
    world.after(1, world.network.cut, ["m0", "m1"], ["m2"])
    world.after(2, machines[1].crash)
    world.after(3, machines[1].start)
    world.after(4, world.network.heal, ["m0", "m1"], ["m2"])
    world.after(5, machines[3].pause)
    world.after(7, machines[3].resume)
    world.after(6, machines[2].clock.jump, 3_600_000_000)
    machines[4].device.faults.fails = 0.05
    machines[0].clock.drift(300)
    world.run(SECONDS)
    return world


def outcome(seed: int) -> str:
    world = eventful(seed)
    vectors = [sorted(machine.engine.state.vector.items()) for machine in world.up()]
    alarms = sorted(world.alarms.items())
    return f"{world.trace.digest()} {world.kernel.events} {vectors} {alarms}"


def elsewhere(seed: int, hash_seed: str) -> str:
    program = f"from tests.simulations.test_determinism import outcome; print(outcome({seed}))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("seed", [1, 2])
def test_a_seed_gives_the_same_run_twice_in_one_process(seed: int) -> None:
    assert outcome(seed) == outcome(seed)


def test_another_seed_gives_another_run() -> None:
    assert outcome(1).split()[0] != outcome(2).split()[0]


@pytest.mark.parametrize("hash_seed", ["0", "4242"])
def test_another_process_under_another_hash_seed_gives_the_same_run(hash_seed: str) -> None:
    assert elsewhere(3, hash_seed) == outcome(3)


def test_the_run_is_worth_the_comparison() -> None:
    world = eventful(1)
    kinds = {record.kind for record in world.trace.records()}
    assert kinds >= {"bytes", "connect", "publish", "crash", "start", "pause", "cut", "heal"}
    assert world.kernel.events > 3_000
    assert world.alarms["store"] > 0
