"""What only a checkpoint knew of was never looked after again.

Found by the checker ``expiry`` at swarm seeds 68 and 108: a replica that started from a
checkpoint noted what it has to remove or collect from the log after it, and from nothing
else. Entries that the checkpoint covers expired for readers, and stayed for ever;
removals and baselines that it covers were never collected.
"""

from __future__ import annotations

from crdtmem.crdt import DATATYPES
from crdtmem.transaction import Operation, Options, Transaction
from simulations.node import Machine
from simulations.operators import cut_log
from simulations.world import World
from tests.simulations.ground import SPACE, Answer, put_and_wait, world_of


def _ask(world: World, machine: Machine, *operations: Operation) -> None:
    for operation in operations:
        transaction, answer = Transaction(author="ada"), Answer()
        transaction.add(operation)
        machine.commit(transaction, answer)
        world.run(0.5)
        assert answer.ok


def _start_from_a_checkpoint(world: World, machine: Machine) -> None:
    cut_log(machine)
    world.run(1)
    machine.crash()
    assert machine.device.disk.checkpoints
    machine.start()
    world.run(1)


def test_what_expires_after_a_start_from_a_checkpoint_is_removed() -> None:
    world = world_of(1)
    machine = world.machines["m0"]
    code = DATATYPES["register"].code
    options = Options(expires_at_us=machine.clock.now_us() + 5_000_000)
    _ask(world, machine, Operation(SPACE, code, "lease", "set", ("mine",), options))
    _start_from_a_checkpoint(world, machine)
    table = machine.engine.state.table(SPACE, code)
    assert "lease" in table.slots
    world.run(10)
    assert "lease" not in table.slots


def test_what_expired_while_nobody_ran_is_removed() -> None:
    world = world_of(1)
    machine = world.machines["m0"]
    code = DATATYPES["register"].code
    options = Options(expires_at_us=machine.clock.now_us() + 2_000_000)
    _ask(world, machine, Operation(SPACE, code, "lease", "set", ("mine",), options))
    cut_log(machine)
    world.run(1)
    machine.crash()
    world.run(60)
    machine.start()
    world.run(1)
    assert "lease" not in machine.engine.state.table(SPACE, code).slots


def test_a_removal_that_a_checkpoint_covers_is_collected() -> None:
    world = world_of(2)
    here, other = world.machines.values()
    other.stop()
    code = DATATYPES["set_remove_wins"].code
    for operation in ("add", "remove"):
        _ask(world, here, Operation(SPACE, code, "crew", operation, ("Bob",)))
    _start_from_a_checkpoint(world, here)
    assert "crew" in here.engine.state.table(SPACE, code).slots
    other.start()
    world.run(5)
    put_and_wait(here, [("news", 1)])
    world.run(60)
    assert world.converged()
    for machine in world.machines.values():
        assert "crew" not in machine.engine.state.table(SPACE, code).slots, machine.name
