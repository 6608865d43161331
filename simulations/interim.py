"""A tiny load and one check, until the tables of workloads and checkers are there."""

from __future__ import annotations

from random import Random
from typing import Any

from simulations.errors import SafetyViolation
from simulations.steps import Step
from simulations.world import Watcher, World

__all__ = ["CHECKERS", "WORKLOADS"]


class Puts:
    """Plain writes of registers."""

    def steps(
        self, random: Random, clients: int, machines: int, duration_us: int, rate_per_s: float
    ) -> list[Step]:
        """Draw writes, evenly over time."""
        count = int(duration_us / 1e6 * rate_per_s)
        return [
            Step(
                int(random.random() * duration_us),
                random.randrange(clients),
                random.randrange(machines),
                "write",
                {
                    "operations": [
                        [["plain"], "register", f"key {random.randrange(30)}", "set", [number]]
                    ],
                    "retries": random.randrange(3),
                },
            )
            for number in range(count)
        ]


class EqualDigests(Watcher):
    """Equal vectors, equal digests."""

    def __init__(self, world: World, history: Any) -> None:
        self.world = world
        self._seen: dict[bytes, tuple[object, str]] = {}

    def finished(self) -> None:
        """Compare all nodes."""
        for machine in self.world.up():
            state = machine.engine.state
            digests = {space: digest.value() for space, digest in state.digests.items()}
            value = sorted((s, d) for s, d in digests.items() if d != (0, 0))
            name = repr(sorted(state.vector.items())).encode()
            other = self._seen.setdefault(name, (value, machine.name))
            if other[0] != value:
                raise SafetyViolation("digests", f"{other[1]} and {machine.name} differ")


WORKLOADS: dict[str, Any] = {"puts": Puts()}
CHECKERS: dict[str, Any] = {"digests": EqualDigests}
