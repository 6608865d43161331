"""Registers: writes of many kinds to few keys, blind, observed and conditional.

Problem: concurrent writes of one key are where values get lost: superseded by somebody
who never saw them, or brought back by somebody who missed their removal.

Idea: few keys, several writers, every value unique (so that any reader can tell what it
sees), and every way of writing: blind, upon what is read now, upon what was read
elsewhere long ago, on condition, with an expiry, and deletes.
"""

from __future__ import annotations

from random import Random
from typing import Any

from simulations.workloads.base import Drawn, operation, write

__all__ = ["Registers"]


class Registers(Drawn):
    """See the module."""

    name = "registers"
    about = "registers written blind, observed, on condition and with expiries, and deleted"
    space = "registers"
    keys = 12

    def draw(self, random: Random, number: int, machines: int) -> tuple[str, dict[str, Any]]:
        """Draw a write, a delete or a read of one key."""
        kind = random.choice(("register", "register", "multi_value"))
        key = f"k{min(random.randrange(self.keys), random.randrange(self.keys))}"
        chance = random.random()
        if chance < 0.2:
            return "read", {"space": [self.space], "datatype": kind, "key": key, "retries": 1}
        if chance < 0.32:
            return write(operation(self.space, kind, key, "delete"), observe=random.random() < 0.5)
        options: dict[str, Any] = {}
        if chance < 0.4:
            options["ttl_ms"] = random.choice((50, 500, 3_000, 20_000))
        row = operation(self.space, kind, key, "set", f"v{number}", **options)
        return write(row, **_manner(random))


def _manner(random: Random) -> dict[str, Any]:
    """Draw how a value is written: blind mostly, else upon what was read."""
    chance = random.random()
    if chance < 0.5:
        return {"durability": random.choice(("local", "local", "region", "majority", "all"))}
    if chance < 0.65:
        return {"observe": True}
    if chance < 0.75:
        return {"observe": True, "remembered": True}
    if chance < 0.9:
        return {"expect": True}
    return {"expect": True, "remembered": True}
