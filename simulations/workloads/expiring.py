"""Expiry: values whose time runs out while they travel.

Problem: expiry is judged by readers' clocks against the writer's; regions must agree at
equal moments, the removal comes late from the origin, and a rewrite must not be lost with
what it replaced.

Idea: lifetimes from shorter than a message's journey to longer than the run, on registers,
set elements, log entries and members of maps; many are written again, or on condition,
about when they expire.
"""

from __future__ import annotations

from random import Random
from typing import Any, Final

from simulations.workloads.base import Drawn, operation, write

__all__ = ["Expiring"]

_LIFETIMES_MS: Final = (1, 40, 200, 1_000, 4_000, 3_600_000)


class Expiring(Drawn):
    """See the module."""

    name = "expiring"
    about = "values that expire on their way, are renewed, and read about when they expire"
    space = "expiring"

    def draw(self, random: Random, number: int, machines: int) -> tuple[str, dict[str, Any]]:
        """Draw a write with a lifetime, a renewal, or a reading."""
        kind = random.choice(("register", "register", "set", "log", "map"))
        key = f"x{random.randrange(5)}"
        chance = random.random()
        if chance < 0.25:
            return "read", {"space": [self.space], "datatype": kind, "key": key}
        if chance < 0.3:
            return write(operation(self.space, kind, key, "delete"))
        lives = {} if chance < 0.4 else {"ttl_ms": random.choice(_LIFETIMES_MS)}
        if kind == "register":
            row = operation(self.space, kind, key, "set", f"v{number}", **lives)
            return write(row, expect=random.random() < 0.2)
        if kind == "set":
            element = f"e{random.randrange(4)}"
            return write(operation(self.space, kind, key, "add", element, **lives))
        if kind == "log":
            return write(operation(self.space, kind, key, "append", f"v{number}", **lives))
        return write(operation(self.space, kind, key, "set", ["lease"], f"v{number}", **lives))
