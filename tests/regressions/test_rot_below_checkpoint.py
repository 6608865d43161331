"""A checkpoint stood on the records that were written while it was.

Its chunks mix moments, and only the log of that window made them exact. Where records of
the window were damaged, recovery showed entries that its vector did not cover, lacked those
that the damaged records had removed, and took a new replica id; the faults of the simulator
avoided it. A checkpoint now carries its window with it.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from crdtmem.crdt import DATATYPES
from crdtmem.transaction import Operation, Transaction
from simulations.node import Machine
from simulations.world import World
from tests.simulations.ground import SPACE, Answer, held, put, put_and_wait, world_of


def _remove(machine: Machine, key: str) -> Answer:
    transaction, answer = Transaction(), Answer()
    transaction.add(Operation(SPACE, DATATYPES["register"].code, key, "delete", ()))
    machine.commit(transaction, answer)
    return answer


def _checkpoint_under_load(world: World, machine: Machine) -> int:
    """Write a checkpoint while others write; return how many records that took."""
    put_and_wait(machine, [(f"early {number}", number) for number in range(20)])
    executor, disk = machine.executor, machine.device.disk
    assert executor is not None
    assert executor.checkpointer is not None
    begun, ended = disk.position.ordinal, list[Any]()
    answers = []
    machine.enter(
        partial(executor.start, executor.checkpointer.checkpoint(), lambda *end: ended.append(end))
    )
    for number in range(20):
        answers += [put(machine, f"late {number}", number), _remove(machine, f"early {number}")]
        world.run(0.001)
    world.run(1)
    assert ended == [(None, None)]
    assert all(answer.ok for answer in answers)
    newest = disk.checkpoints[-1]
    assert begun < newest.after_ordinal
    return sum(begun < record.ordinal <= newest.after_ordinal for record in disk.records)


@pytest.mark.parametrize("alone", [True, False])
def test_records_that_rot_below_a_checkpoint_cost_nothing(alone: bool) -> None:
    world = world_of(1 if alone else 2, sync_us=5_000)
    machine = world.machines["m0"]
    window = _checkpoint_under_load(world, machine)
    assert window >= 2
    before, digest = held(machine), machine.engine.state.digest()
    name, vector = machine.engine.replica_id, machine.engine.state.vector.copy()
    disk = machine.device.disk
    beyond = len(disk.after(disk.checkpoints[-1].after_ordinal))
    machine.crash()
    whole = list(disk.records)
    disk.tear(window + beyond)
    # What came after the checkpoint is whole: only its window has rotted.
    disk.records[len(whole) - beyond :] = whole[len(whole) - beyond :]
    machine.start()
    world.run(5)
    state = machine.engine.state
    assert held(machine) == before
    assert machine.engine.replica_id == name
    assert state.vector.dominates(vector)
    assert all(state.vector.covers(entry[0]) for *_, entry in state.entries())
    assert alone or state.digest() == world.machines["m1"].engine.state.digest()
    assert not alone or state.digest() == digest
    put_and_wait(machine, [("after", 1)])


def test_who_asks_for_what_has_rotted_gets_a_snapshot() -> None:
    world = world_of(2, sync_us=5_000)
    machine, late = world.machines.values()
    late.stop()
    window = _checkpoint_under_load(world, machine)
    machine.crash()
    machine.device.disk.tear(window)
    machine.start()
    late.start()
    world.run(30)
    assert held(late) == held(machine)
    assert world.converged()
