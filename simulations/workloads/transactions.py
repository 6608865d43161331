"""Transactions: over keys, datatypes and spaces, whole or not at all.

Problem: half a transaction is worse than none, and it shows only where the other half is
read at the wrong moment, is refused at the origin, or lies in another batch.

Idea: transfers between two accounts (counters whose sum must stay), an order that writes a
register, a log, a set and a map in two spaces, a transaction that a last impossible
operation refuses as a whole, and ones too large for a batch.
"""

from __future__ import annotations

from random import Random
from typing import Any

from simulations.workloads.base import Drawn, operation, write

__all__ = ["Transactions"]


class Transactions(Drawn):
    """See the module."""

    name = "transactions"
    about = "transactions over keys, datatypes and spaces, some of them refused as a whole"
    space = "ledger"
    other = "orders"

    def draw(self, random: Random, number: int, machines: int) -> tuple[str, dict[str, Any]]:
        """Draw a transaction, or a reading of something that they touch."""
        chance = random.random()
        if chance < 0.15:
            key = f"account{random.randrange(4)}"
            return "read", {"space": [self.space], "datatype": "counter", "key": key}
        if chance < 0.6:
            here, there = random.sample(range(4), 2)
            amount = random.randint(1, 100)
            return write(
                operation(self.space, "counter", f"account{here}", "decrement", amount),
                operation(self.space, "counter", f"account{there}", "increment", amount),
                operation(self.other, "log", "transfers", "append", [here, there, amount]),
            )
        if chance < 0.85:
            return write(*self._order(random, number))
        if chance < 0.95:
            # Nobody holds rights of it: the last operation refuses all before it.
            spend = operation(self.space, "bounded_counter", "nobody", "consume", 1)
            return write(*self._order(random, number), spend)
        rows = [
            operation(self.other, "register", f"bulk{item}", "set", f"{number}" * 40)
            for item in range(random.choice((30, 150)))
        ]
        return write(*rows)

    def _order(self, random: Random, number: int) -> list[list[Any]]:
        item = f"item{random.randrange(5)}"
        return [
            operation(self.other, "register", "newest", "set", f"order{number}"),
            operation(self.space, "multi_value", "newest", "set", f"order{number}"),
            operation(self.other, "set", "open", "add", f"order{number}"),
            operation(self.other, "map", item, "set", ["order"], f"order{number}"),
            operation(self.space, "g_counter", "orders", "increment", 1),
        ]
