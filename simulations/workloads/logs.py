"""Logs: many authors, one order, retries that must not show twice, removals.

Problem: a log shows its entries in one order everywhere, each of them once, though a
client that got no answer has written its entry through two nodes.

Idea: appends of unique values with short patience and many retries; now and then several
at once, a removal of the oldest entries, a delete.
"""

from __future__ import annotations

from random import Random
from typing import Any

from simulations.workloads.base import Drawn, operation, write

__all__ = ["Logs"]


class Logs(Drawn):
    """See the module."""

    name = "logs"
    about = "append-only logs with impatient writers, removals and deletes"
    space = "logs"

    def draw(self, random: Random, number: int, machines: int) -> tuple[str, dict[str, Any]]:
        """Draw an append, mostly."""
        key = f"l{random.randrange(3)}"
        chance = random.random()
        if chance < 0.15:
            return "read", {"space": [self.space], "datatype": "log", "key": key, "retries": 1}
        if chance < 0.25:
            return write(operation(self.space, "log", key, "remove", random.randint(1, 3)))
        if chance < 0.28:
            return write(operation(self.space, "log", key, "delete"))
        if chance < 0.4:
            values = [f"e{number}.{part}" for part in range(random.randint(2, 5))]
            return write(operation(self.space, "log", key, "extend", values))
        row = operation(self.space, "log", key, "append", f"e{number}")
        return write(row, timeout_ms=random.choice((100, 5_000)))
