"""Interleaving: repair after one replica loses an entry.

The entry comes back, from the loser's own store or from a peer; what was deleted does not,
though the loser lacks it just the same: absence is no evidence, either way.
"""

from __future__ import annotations

from functools import partial

import pytest

from crdtmem.crdt import DATATYPES
from crdtmem.transaction import Operation, Transaction
from simulations.node import Machine
from tests.simulations.ground import REGISTER, SPACE, Answer, held, put_and_wait, world_of


def _delete(machine: Machine, key: str) -> None:
    transaction, answer = Transaction(), Answer()
    transaction.add(Operation(SPACE, DATATYPES["register"].code, key, "delete", ()))
    machine.commit(transaction, answer)
    machine.world.run(1)
    assert answer.ok


def _lose(machine: Machine, key: str) -> None:
    """Forget an entry in memory, as a flipped bit would."""
    state = machine.engine.state
    del state.table(SPACE, REGISTER).slots[key]
    state.rebuild_derived()


@pytest.mark.parametrize("loser", [0, 1])
def test_repair_after_one_replica_loses_an_entry(loser: int) -> None:
    world = world_of(2)
    machines = list(world.machines.values())
    put_and_wait(machines[0], [("kept", 1), ("deleted", 2), ("other", 3)])
    world.run(2)
    _delete(machines[1], "deleted")
    world.run(2)
    machines[loser].enter(partial(_lose, machines[loser], "kept"))
    assert "kept" not in held(machines[loser])
    put_and_wait(machines[0], [("touched", 4)])
    world.run(60)
    for machine in machines:
        assert held(machine) == {"kept": 1, "other": 3, "touched": 4}
    assert machines[0].engine.state.digest() == machines[1].engine.state.digest()
