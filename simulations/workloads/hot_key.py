"""A hot key: everybody writes one place, few ever look.

Problem: siblings, superseded dots and conditional refusals all pile up in one place;
what costs a little per sibling costs a lot there, and bounds on siblings are met.

Idea: blind writes that were made upon nothing (an empty ``Observed`` supersedes nothing), so
that siblings gather until the limit refuses; now and then somebody who looks, and settles.
"""

from __future__ import annotations

from random import Random
from typing import Any

from simulations.workloads.base import Drawn, operation, write

__all__ = ["HotKey"]


class HotKey(Drawn):
    """See the module."""

    name = "hot_key"
    about = "one key that everybody writes without looking, and few settle"
    space = "hot"

    def draw(self, random: Random, number: int, machines: int) -> tuple[str, dict[str, Any]]:
        """Draw a write of the one key."""
        kind = "register" if random.random() < 0.8 else "multi_value"
        chance = random.random()
        row = operation(self.space, kind, "the key", "set", f"v{number}")
        if chance < 0.08:
            return write(row, observe=True)
        if chance < 0.12:
            return write(row, expect=True)
        if chance < 0.6:
            # Remembers nothing, unless this client has read it once.
            return write(row, observe=True, remembered=True, session=random.random() < 0.5)
        if chance < 0.65:
            return "read", {"space": [self.space], "datatype": kind, "key": "the key"}
        return write(row)
