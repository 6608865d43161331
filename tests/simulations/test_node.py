"""Machines: lives, crashes anywhere, disks that fail, and who they are afterwards."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from crdtmem.effects import Effect, Persist
from crdtmem.errors import Overloaded, StoreFailed
from simulations.errors import MachineFailed
from simulations.node import Machine, VirtualExecutor
from simulations.world import World
from tests.simulations.ground import Answer, admitted, held, put, put_and_wait, world_of


def alone(**config: Any) -> tuple[World, Machine]:
    world = world_of(1, **config)
    return world, world.machines["m0"]


def settled(world: World, within_s: float = 60) -> None:
    world.run_until(world.converged, "agreement", within_s=within_s)


# ------------------------------------------------------------------ lives


def test_a_machine_starts_writes_stops_and_starts_again() -> None:
    world, machine = alone()
    put_and_wait(machine, [("k", 1)])
    name = machine.engine.replica_id
    world.run(1)
    machine.stop()
    assert not machine.up
    refused = put(machine, "k", 2)
    assert isinstance(refused.error, Overloaded)
    machine.start()
    machine.start()
    assert (machine.lives, machine.engine.replica_id, held(machine)) == (2, name, {"k": 1})
    assert machine.store is not None
    assert machine.store.boot.clean


def test_what_was_not_synced_is_gone_and_was_never_acknowledged() -> None:
    world, machine = alone(sync_us=100_000)
    put_and_wait(machine, [("k", "durable")])
    lost = put(machine, "k", "on its way")
    machine.random.seed(3)  # the disk does not finish the write
    machine.crash()
    machine.start()
    world.run(1)
    assert lost.count == 0
    assert held(machine) in ({"k": "durable"}, {"k": "on its way"})


def test_a_write_under_way_may_reach_the_disk_though_nobody_learns_of_it() -> None:
    outcomes = set()
    for seed in range(40):
        world = world_of(1, seed, sync_us=100_000)
        machine = world.machines["m0"]
        answer = put(machine, "k", 1)
        world.run(0.01)
        assert machine.storing
        machine.crash()
        machine.start()
        world.run(1)
        assert answer.count == 0
        outcomes.add(bool(held(machine)))
        assert bool(held(machine)) == bool(
            world.reached["a crash between the commit and its answer"]
        )
    assert outcomes == {False, True}


def effects_carried_out(executor: VirtualExecutor | None) -> list[Effect]:
    """Return the list in which what an executor carries out from now on will be found."""
    assert executor is not None
    seen: list[Effect] = []
    carry_out = executor.carry_out

    def watched(effect: Effect) -> None:
        seen.append(effect)
        carry_out(effect)

    executor.carry_out = watched  # type: ignore[method-assign]
    return seen


def is_broken(machine: Machine) -> bool:
    return machine.executor is not None and machine.executor.broken is not None


def effects_of_one_write() -> int:
    """Count the effects between a write's coming in on ``m0`` and everyone's agreement."""
    world = world_of(3)
    machine = world.machines["m0"]
    machine.dies_after_effects = 1 << 30
    put(machine, "k", 1)
    world.run(2)
    assert machine.dies_after_effects is not None
    return (1 << 30) - machine.dies_after_effects


def test_a_crash_between_any_two_effects_loses_nothing_that_was_acknowledged() -> None:
    effects = effects_of_one_write()
    assert effects >= 6
    acknowledged = []
    for number in range(effects):
        world = world_of(3)
        machine = world.machines["m0"]
        machine.dies_after_effects = number
        answers = [put(machine, "k", 1)]
        world.run(2)
        assert not machine.up, f"it lives on after {number} effects"
        assert world.reached["a crash between two effects"] == 1
        answers.append(put(world.machines["m1"], "other", 2))
        machine.start()
        world.run(1)
        settled(world)
        for each in world.machines.values():
            assert held(each)["other"] == 2
            if answers[0].ok:
                assert held(each)["k"] == 1
            assert held(each) == held(machine)
        acknowledged.append(answers[0].ok)
    assert not acknowledged[0], "death before the first effect"
    assert acknowledged[-1], "death after the last"
    assert acknowledged == sorted(acknowledged), "once given, an answer stays given"


def test_nothing_of_a_life_goes_on_in_the_next() -> None:
    world, machine = alone(sync_us=50_000)
    answers = [put(machine, f"k{number}", number) for number in range(5)]
    world.run(0.001)
    old = machine.executor
    machine.crash()
    machine.start()
    assert old is not None
    before = old.engine.replica.state.vector.copy()
    world.run(5)
    assert all(answer.count == 0 for answer in answers)
    assert old.engine.replica.state.vector == before
    assert machine.storing == 0
    put_and_wait(machine, [("new", 1)])


# ------------------------------------------------------------------ standing still


def test_a_paused_machine_does_nothing_and_catches_up() -> None:
    world = world_of(3)
    first, second = world.machines["m0"], world.machines["m1"]
    second.pause()
    put_and_wait(first, [("k", 1)])
    own = put(second, "mine", 2)
    world.run(3)
    assert (held(second), own.count) == ({}, 0)
    second.resume()
    settled(world)
    assert own.ok
    assert held(second) == held(first) == {"k": 1, "mine": 2}


def test_who_stands_still_too_long_is_given_up_and_comes_back() -> None:
    world = world_of(2)
    first, second = world.machines["m0"], world.machines["m1"]
    second.pause()
    world.run(60)
    assert not first.engine.sync.info(), "silence ends the stream"
    put_and_wait(first, [("k", 1)])
    second.resume()
    settled(world)
    assert held(second) == {"k": 1}


def test_a_crash_ends_the_backlog_of_a_pause() -> None:
    world = world_of(2)
    first, second = world.machines["m0"], world.machines["m1"]
    second.pause()
    answers = [put(second, f"k{number}", number) for number in range(3)]
    put_and_wait(first, [("k", 1)])
    world.run(12)  # probes pile up, and timers are overdue
    old = second.executor
    second.dies_after_effects = 0
    second.resume()
    assert not second.up, "the first answer to a probe was the end"
    posthumous = effects_carried_out(old)
    world.run(1)
    assert posthumous == []
    second.start()
    settled(world)
    assert all(answer.count == 0 for answer in answers)
    assert held(second) == {"k": 1}


def test_what_is_overdue_in_a_pause_is_not_done_by_the_dead() -> None:
    world = world_of(2)
    machine = world.machines["m1"]
    executor = machine.executor
    machine.pause()
    world.run(30)
    posthumous = effects_carried_out(executor)
    # A backlog whose first part ends the life, and whose others would be glad to go on.
    machine._waiting.insert(0, machine.crash)
    machine.resume()
    assert posthumous == []
    assert not machine.up


# ------------------------------------------------------------------ disks


def test_a_slow_disk_makes_larger_groups() -> None:
    flights = {}
    for slow in (1, 200):
        world, machine = alone()
        machine.device.slow = slow
        seen = effects_carried_out(machine.executor)
        answers: list[Answer] = []
        for number in range(200):
            answers.append(put(machine, f"k{number}", number))
            world.run(0.005)
        world.run(5)
        assert all(answer.ok for answer in answers)
        flights[slow] = sum(type(effect) is Persist for effect in seen)
    assert flights[200] * 10 < flights[1]


def test_a_full_disk_refuses_writes_serves_reads_and_mends_when_there_is_room() -> None:
    world, machine = alone()
    put_and_wait(machine, [("k", 1)])
    machine.device.faults.full = True
    first = put(machine, "k", 2)
    world.run(1)
    assert first.error is not None
    assert first.error.code == "store_full"
    assert held(machine) == {"k": 1}
    machine.device.faults.full = False
    world.run(10)
    assert machine.executor is not None
    assert machine.executor.broken is None
    put_and_wait(machine, [("k", 3)])


@pytest.mark.parametrize("survives", [True, False])
def test_an_ambiguous_commit_counts_exactly_when_it_is_durable(survives: bool) -> None:
    world, machine = alone()
    name = machine.engine.replica_id
    machine.device.faults.fail_sync(StoreFailed("EIO"), survives=survives)
    answer = put(machine, "k", 1)
    world.run(2)
    assert answer.count == 1
    assert answer.ok is survives
    assert held(machine) == ({"k": 1} if survives else {})
    assert machine.engine.replica_id == name
    put_and_wait(machine, [("after", 2)])
    machine.crash()
    machine.start()
    assert held(machine) == ({"k": 1, "after": 2} if survives else {"after": 2})


def test_a_crash_after_an_ambiguous_commit_does_not_write_it_again() -> None:
    for seed in range(30):
        world = world_of(1, seed, sync_us=20_000)
        machine = world.machines["m0"]
        machine.device.faults.fail_sync(StoreFailed("EIO"), survives=seed % 2 == 0)
        put(machine, "k", 1)
        world.run_until(partial(is_broken, machine), "failure", within_s=5, step_s=0.001)
        world.run(0.001 * (seed % 25))
        machine.crash()
        machine.start()
        world.run(1)
        assert held(machine) == ({"k": 1} if seed % 2 == 0 else {})


# ------------------------------------------------------------------ who it is


def test_a_restored_backup_goes_on_under_a_new_id_and_nothing_is_lost() -> None:
    world = world_of(3)
    machine = world.machines["m0"]
    put_and_wait(machine, [("k", 1)])
    old = machine.engine.replica_id
    world.run(1)
    machine.device.back_up()
    put_and_wait(machine, [("k", 2)])
    settled(world)
    machine.stop()
    machine.device.restore(machine.device.backups[0])
    machine.start()
    assert machine.engine.replica_id != old
    settled(world)
    world.run(5)
    assert [held(each) for each in world.machines.values()] == [{"k": 2}] * 3
    put_and_wait(machine, [("k", 3)])
    settled(world)
    assert held(world.machines["m2"]) == {"k": 3}


def test_a_clone_is_found_out_and_goes_on_under_a_new_id() -> None:
    world = world_of(3)
    machine = world.machines["m0"]
    put_and_wait(machine, [("k", 1)])
    settled(world)
    old = machine.engine.replica_id
    # A copy below the file system takes the mark along: the store itself cannot know.
    copy = world.add("copy", "eu-paris")
    machine.crash()
    copy.device.disk.restore(machine.device.disk, with_mark=True)
    copy.device.disk.inode = machine.device.disk.inode
    copy.peers = ["m0", "m1", "m2"]
    machine.start()
    put_and_wait(machine, [("k", 2)])
    copy.start()
    assert copy.engine.replica_id == old
    world.run_until(
        lambda: copy.up and machine.up and copy.engine.replica_id != machine.engine.replica_id,
        "two ids",
        within_s=60,
    )
    assert world.reached["a node went on under a new id"] >= 1
    settled(world)
    assert [held(each) for each in world.machines.values()] == [{"k": 2}] * 4


def test_it_goes_on_under_a_new_id_in_the_same_process() -> None:
    world = world_of(3)
    machine = world.machines["m0"]
    put_and_wait(machine, [("k", 1)])
    settled(world)
    lives, old, executor = machine.lives, machine.engine.replica_id, machine.executor
    assert executor is not None
    machine.enter(lambda: executor.apply(machine.engine.membership.retire("a test", {})))
    world.run_until(
        lambda: machine.engine.replica_id != old and machine.replica.writable, "new id", within_s=30
    )
    assert (machine.lives, machine.executor) == (lives, executor)
    put_and_wait(machine, [("k", 2)])
    settled(world)
    assert [held(each) for each in world.machines.values()] == [{"k": 2}] * 3


def test_a_store_that_lost_what_it_acknowledged_is_not_written_on() -> None:
    world = world_of(2)
    machine = world.machines["m0"]
    put_and_wait(machine, [("k", 1), ("l", 2)])
    settled(world)
    old = machine.engine.replica_id
    machine.crash()
    machine.device.disk.lose_tail(1)
    machine.start()
    assert machine.engine.replica_id != old
    settled(world)
    assert held(machine) == {"k": 1, "l": 2}


def test_a_defect_of_the_program_ends_the_run() -> None:
    world, machine = alone()

    def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    machine.engine.advance = broken  # type: ignore[method-assign, assignment]
    put(machine, "k", 1)
    with pytest.raises(MachineFailed, match="a bug"):
        world.run(1)


def test_who_starts_later_and_dials_first_is_dialled_too() -> None:
    """Only who is named back by every peer may found: one stream, opened by either, is not enough.

    A machine that never dialled a peer whose stream it had waited for ever, under loss at once.
    """
    world = world_of(2, start=False)
    world.machines["m0"].start()
    world.run(3)
    world.machines["m1"].start()
    world.run_until(lambda: admitted(world), "cluster that may write", within_s=30)
