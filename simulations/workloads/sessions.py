"""Sessions: somebody who writes here, travels, and expects to find it there.

Problem: causality is felt by whoever moves: writes an answer to what was read in another
region, hands a key over to a colleague on another continent, asks for what was just
written before it has arrived.

Idea: every step of a client is on another machine than the one before. Clients come in
pairs that talk over one key: each answers, upon what it remembers, to what it read.
"""

from __future__ import annotations

from random import Random

from simulations.steps import Step
from simulations.workloads.base import Workload, moments, operation, write

__all__ = ["Sessions"]


class Sessions(Workload):
    """See the module."""

    name = "sessions"
    about = "clients who move to another region with every step, and answer each other"
    space = "sessions"

    def steps(
        self, random: Random, clients: int, machines: int, duration_us: int, rate_per_s: float
    ) -> list[Step]:
        """Draw journeys: write, move, read, answer upon what was read, move."""
        found: list[Step] = []
        stages = [0] * clients
        places = [random.randrange(machines) for _ in range(clients)]
        for number, at_us in enumerate(moments(random, duration_us, rate_per_s)):
            client = random.randrange(clients)
            places[client] = (places[client] + random.randrange(1, max(2, machines))) % machines
            key = f"talk{client // 2}"
            stages[client] += 1
            if stages[client] % 2:
                place = {"space": [self.space], "datatype": "multi_value", "key": key}
                kind, arguments = "read", {**place, "timeout_ms": 8_000, "retries": 1}
            else:
                row = operation(self.space, "multi_value", key, "set", f"{client}: {number}")
                kind, arguments = write(
                    row,
                    observe=True,
                    remembered=random.random() < 0.8,
                    timeout_ms=random.choice((500, 8_000)),
                )
            found.append(Step(at_us, client, places[client], kind, arguments))
        return found
