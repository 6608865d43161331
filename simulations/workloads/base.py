"""What a workload is: a load drawn from a seed, as explicit data.

Problem: a load must be hostile in the ways that its datatype is weak, be the same for the
same seed, and leave a list of steps that can be written down, replayed and shrunk.

Idea: a ``Workload`` draws all of its ``Step``s beforehand, from nothing but a generator
and a few sizes. What depends on the moment (what was observed, who holds rights) is
named in the step and looked up when it is performed. Most workloads only say what one
step is: ``Drawn`` spreads them over time, clients and machines. A client lives near one
machine, and now and then moves.

Invariants: equal generators give equal steps; steps are JSON-able and in order of time;
a workload's spaces are its own, so that several may run in one world.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from random import Random
from typing import Any, ClassVar, Final

from simulations.steps import Step

__all__ = ["Drawn", "Workload", "moments", "operation", "write"]

_MOVES: Final = 0.1


class Workload(ABC):
    """One kind of load; ``name`` is its key in the table, ``about`` a sentence on it.

    ``needs`` names recordings that it replays, and is empty for most: only those draw the
    same steps on every machine. ``available`` tells whether what it needs is here.
    """

    name: ClassVar[str]
    about: ClassVar[str]
    needs: ClassVar[str] = ""

    @property
    def available(self) -> bool:
        """Whether it can be drawn here."""
        return True

    @abstractmethod
    def steps(
        self, random: Random, clients: int, machines: int, duration_us: int, rate_per_s: float
    ) -> list[Step]:
        """Draw the steps of ``clients`` on ``machines``, about ``rate_per_s`` in all."""


class Drawn(Workload):
    """A workload whose steps are drawn one by one, at random moments."""

    def steps(
        self, random: Random, clients: int, machines: int, duration_us: int, rate_per_s: float
    ) -> list[Step]:
        """Draw as many steps as fall into the time; each client begins at a machine of its own."""
        homes = [number % machines for number in range(clients)]
        found: list[Step] = []
        for at_us in moments(random, duration_us, rate_per_s):
            client = random.randrange(clients)
            if random.random() < _MOVES:
                homes[client] = random.randrange(machines)
            kind, arguments = self.draw(random, len(found), machines)
            found.append(Step(at_us, client, homes[client], kind, arguments))
        return found

    @abstractmethod
    def draw(self, random: Random, number: int, machines: int) -> tuple[str, dict[str, Any]]:
        """Draw the kind and the arguments of step ``number``."""


def moments(random: Random, duration_us: int, rate_per_s: float) -> list[int]:
    """Return random moments (a Poisson process), in order, in microseconds."""
    found: list[int] = []
    at_us = 0.0
    while rate_per_s > 0:
        at_us += random.expovariate(rate_per_s) * 1e6
        if at_us >= duration_us:
            break
        found.append(int(at_us))
    return found


def operation(
    space: str, datatype: str, key: str, name: str, *arguments: Any, **options: Any
) -> list[Any]:
    """Return one operation as a ``write`` step lists it; ``space`` is one label."""
    row: list[Any] = [[space], datatype, key, name, list(arguments)]
    return [*row, options] if options else row


def write(*operations: list[Any], **arguments: Any) -> tuple[str, dict[str, Any]]:
    """Return a ``write`` step's kind and arguments; it is tried three times if need be."""
    return "write", {"operations": list(operations), "retries": 2, **arguments}
