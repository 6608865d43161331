"""Operations that change nothing: they must leave nothing behind that does harm later.

Found by the planted mutations' first load, seed 1.
"""

from __future__ import annotations

from typing import Any

from crdtmem.causality import VersionVector
from crdtmem.crdt import DATATYPES
from crdtmem.snapshot import SnapshotHeader, decode_header, encode_header
from crdtmem.transaction import Operation, Transaction
from simulations.node import Machine
from simulations.world import World, WorldConfig

SPACE = ("notes",)
REGISTER = DATATYPES["register"].code


def commit(world: World, machine: Machine, name: str, key: str, *arguments: Any) -> Any:
    """Commit one operation under an operation id of its own; returns what was answered."""
    answers: list[Any] = []
    transaction = Transaction(operation_id=f"{name} {key}".encode())
    transaction.add(Operation(SPACE, REGISTER, key, name, arguments))
    machine.commit(transaction, lambda result, error: answers.append(error or result))
    world.run(1)
    return answers[0]


def test_a_store_opens_again_after_a_delete_of_nothing() -> None:
    """Harm: the checkpoint listed an operation of no delta, and no start could read it."""
    world = World(1, WorldConfig(checkpoint_bytes=1))
    machine = world.add("eu-west")
    machine.start()
    world.run(1)
    assert commit(world, machine, "delete", "absent").count == 0
    assert commit(world, machine, "set", "present", 1).count == 1
    assert machine.device.disk.checkpoints
    machine.crash()
    machine.start()
    assert machine.up
    assert machine.replica.operations.listed()


def test_a_header_of_an_earlier_version_that_lists_such_an_operation_is_read() -> None:
    """Harm: a store that an earlier version left in that state would be lost."""
    nothing, something = (b"nothing", 1 << 64 | 1, 0), (b"something", 1 << 64 | 1, 1)
    header = SnapshotHeader(VersionVector({1: 1}), operations=[nothing, something])
    assert decode_header(encode_header(header)).operations == [something]
