"""Counters: increments, decrements, resets and deletes, repeated without an answer.

Problem: a counter goes wrong by counting twice, by not counting, or by taking back what a
reset never saw; each needs a retry, a late arrival or a concurrent reset to show.

Idea: few keys, many writers, amounts that are powers of two now and then (so that a wrong
sum tells which one is missing), and resets and deletes often enough to be concurrent with
increments everywhere. Only some keys are ever reset, so that others grow old.
"""

from __future__ import annotations

from random import Random
from typing import Any

from simulations.workloads.base import Drawn, operation, write

__all__ = ["Counters"]


class Counters(Drawn):
    """See the module."""

    name = "counters"
    about = "counters counted up and down, reset and deleted, with retries"
    space = "counters"

    def draw(self, random: Random, number: int, machines: int) -> tuple[str, dict[str, Any]]:
        """Draw a change or a reading of one counter."""
        kind = random.choice(("counter", "counter", "g_counter"))
        key = f"{random.choice(('kept', 'reset'))}{random.randrange(3)}"
        chance = random.random()
        amount = random.choice((1, 1, 3, 1 << random.randrange(20)))
        if chance < 0.12:
            return "read", {"space": [self.space], "datatype": kind, "key": key, "retries": 1}
        if chance < 0.24 and key.startswith("reset"):
            name = "reset" if kind == "counter" and random.random() < 0.7 else "delete"
            return write(operation(self.space, kind, key, name))
        if chance < 0.4 and kind == "counter":
            return write(operation(self.space, kind, key, "decrement", amount))
        rows = [operation(self.space, kind, key, "increment", amount)]
        if random.random() < 0.2:
            # Several in one transaction, of one key too: its field moves more than once.
            rows.append(operation(self.space, kind, "kept0", "increment", 1))
            rows.append(operation(self.space, kind, key, "increment", 2))
        return write(*rows, timeout_ms=random.choice((200, 5_000)))
