"""Small worlds for the tests of the simulator itself: machines, writes and what came of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from crdtmem.crdt import DATATYPES
from crdtmem.errors import CrdtmemError
from crdtmem.transaction import Transaction
from simulations.node import Machine
from simulations.world import World, WorldConfig

__all__ = ["REGISTER", "SPACE", "Answer", "admitted", "held", "put", "put_and_wait", "world_of"]

REGISTER = DATATYPES["register"].code
SPACE = ("ground",)
_REGIONS = ("eu-west", "us-east", "ap-southeast", "us-west", "eu-central")


@dataclass
class Answer:
    """What came of a write: nothing yet, a result, or an error."""

    result: Any = None
    error: CrdtmemError | None = None
    count: int = 0

    def __call__(self, result: Any, error: CrdtmemError | None) -> None:
        self.result, self.error = result, error
        self.count += 1

    @property
    def ok(self) -> bool:
        """Whether it was acknowledged."""
        return self.count > 0 and self.error is None


def world_of(machines: int = 1, seed: int = 1, *, start: bool = True, **config: Any) -> World:
    """A world of machines ``m0``, ``m1``… that know each other, and can write."""
    world = World(seed, WorldConfig(**config), keep=True)
    for number in range(machines):
        world.add(f"m{number}", _REGIONS[number % len(_REGIONS)])
    world.mesh()
    if start:
        world.start()
        world.run_until(lambda: admitted(world), "cluster that may write", within_s=30)
    return world


def admitted(world: World) -> bool:
    """Tell whether every machine is up, and a member."""
    machines = world.machines.values()
    return all(machine.up and machine.replica.writable for machine in machines)


def put(machine: Machine, key: str, value: Any) -> Answer:
    """Ask a machine for a write, and return where its answer will be."""
    answer = Answer()
    transaction = Transaction()
    transaction.put(SPACE, REGISTER, key, value)
    machine.commit(transaction, answer)
    return answer


def put_and_wait(machine: Machine, items: Iterable[tuple[str, Any]]) -> None:
    """Write, and let time pass until all of it is acknowledged."""
    answers = [put(machine, key, value) for key, value in items]
    machine.world.run_until(
        lambda: all(answer.ok for answer in answers), "acknowledgement", within_s=10
    )


def held(machine: Machine) -> dict[str, Any]:
    """Return the registers that a machine serves now; of siblings, all values."""
    table = machine.engine.state.find(SPACE, REGISTER)
    found: dict[str, Any] = {}
    for key, slot in ({} if table is None else table.slots).items():
        values = [entry[1] for entry in slot] if type(slot[0]) is tuple else [slot[1]]
        found[key] = values[0] if len(values) == 1 else sorted(values)
    return found
