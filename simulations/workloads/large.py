"""Large things: values, keys and transactions about as large as they may be.

Problem: buffers, credits, chunks and batches are all cut at some size, and what is cut
wrongly is lost only where something large comes by.

Idea: values of up to the limit and a little over (which must be refused), many deltas in one
transaction, long keys, many spaces.
"""

from __future__ import annotations

from random import Random
from typing import Any, Final

from simulations.workloads.base import Drawn, operation, write

__all__ = ["Large"]

_SIZES: Final = (10, 1_000, 5_000, 16_000, 17_000)


class Large(Drawn):
    """See the module."""

    name = "large"
    about = "values, keys and transactions at their limits, and just beyond"
    space = "large"

    def draw(self, random: Random, number: int, machines: int) -> tuple[str, dict[str, Any]]:
        """Draw something large; not too often, for it costs."""
        chance = random.random()
        letter = random.choice("abcdefgh")
        if chance < 0.3:
            size = random.choice(_SIZES)
            key = f"k{random.randrange(6)}"
            return write(operation(self.space, "register", key, "set", letter * size))
        if chance < 0.5:
            elements = [f"{letter}{item}" for item in range(random.choice((5, 60, 300)))]
            return write(operation(self.space, "set", "wide", "update", elements))
        if chance < 0.6:
            return write(operation(self.space, "set", "wide", "clear"))
        if chance < 0.8:
            space = f"{self.space}{random.randrange(12)}"
            key = letter * random.choice((1, 50, 256, 257))
            return write(operation(space, "register", key, "set", number))
        if chance < 0.9:
            return "read", {"space": [self.space], "datatype": "set", "key": "wide"}
        return write(operation(self.space, "log", "lines", "append", letter * 500))
