"""Small worlds with clients in them, for the tests of histories, clients and checkers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from crdtmem.batch import Batch
from crdtmem.crdt import DATATYPES
from simulations.checkers import watch
from simulations.checkers.base import Checker
from simulations.client import Clients
from simulations.errors import SafetyViolation, Violation
from simulations.history import Call, History
from simulations.node import Machine
from simulations.steps import Step
from simulations.workloads.base import operation, write
from simulations.world import World
from tests.simulations.ground import admitted, world_of

__all__ = [
    "SPACE",
    "Life",
    "batch_of",
    "operation",
    "put",
    "read",
    "slots",
    "small_life",
    "trips",
    "write",
]

SPACE = ("s",)
"""The space of all of them."""


class Life:
    """A world of machines ``m0``, ``m1``…, its history, some clients, and some checkers."""

    def __init__(
        self, machines: int = 2, checkers: Iterable[str] | None = (), seed: int = 1, **config: Any
    ) -> None:
        self.world: World = world_of(machines, seed, start=False, **config)
        self.history = History(self.world)
        self.checkers = watch(self.world, self.history, checkers)
        self.clients = Clients(self.world, self.history)
        self.world.start()
        self.world.run_until(lambda: admitted(self.world), "cluster", within_s=30)

    @property
    def checker(self) -> Checker:
        """The one checker that was asked for."""
        (only,) = self.checkers
        return only

    def machine(self, number: int = 0) -> Machine:
        """One of the machines."""
        return self.world.machines[f"m{number}"]

    def do(self, machine: int, step: tuple[str, dict[str, Any]], client: int = 0) -> Call:
        """Let a client do something, wait until it has an answer or gives up, return the last."""
        self.clients.perform(Step(0, client, machine, *step))
        self.world.run_until(lambda: self.clients.idle, "answer", within_s=120, step_s=0.01)
        return self.history.calls[-1]

    def settle(self) -> None:
        """Let all nodes start and converge."""
        self.world.start()
        self.world.run(1)
        self.world.run_until(self.world.converged, "convergence", within_s=120)


def read(space: str, datatype: str, key: str, **arguments: Any) -> tuple[str, dict[str, Any]]:
    """A ``read`` step."""
    return "read", {"space": [space], "datatype": datatype, "key": key, **arguments}


def put(key: str, value: object, **arguments: Any) -> tuple[str, dict[str, Any]]:
    """A ``write`` step that sets a register."""
    return write(operation("s", "register", key, "set", value), **arguments)


def small_life(checker: str, machines: int = 2) -> Life:
    """A life in which something was written, overwritten and read, everywhere."""
    life = Life(machines, [checker])
    life.do(0, put("k", "old"))
    life.do(0, put("k", "new"))
    life.do(1 % machines, read("s", "register", "k"))
    life.settle()
    return life


def slots(machine: Machine, datatype: str = "register") -> dict[str, Any]:
    """What a machine holds of one datatype, to be tampered with."""
    return machine.engine.state.table(SPACE, DATATYPES[datatype].code).slots


def trips(life: Life, kind: type[Violation] = SafetyViolation) -> str:
    """Return what the one checker has to say at the end."""
    with pytest.raises(kind) as caught:
        life.checker.finished()
    assert caught.value.checker == life.checker.name
    return caught.value.message


def batch_of(life: Life, dots: tuple[int, int] | None) -> Batch:
    """The batch that a write lies in."""
    assert dots is not None
    batch = life.history.batch_of(dots[0])
    assert batch is not None
    return batch
