"""Budgets: bounded counters spent everywhere at once, with rights on the move.

Problem: a budget is overspent by rights that exist twice: moved and kept, spent and
forgotten in a crash, restored with a backup.

Idea: little is minted and much is asked for, so that most machines are short of rights
most of the time; rights are handed from machine to machine all the while, some given
back, some burned.
"""

from __future__ import annotations

from random import Random
from typing import Any

from simulations.workloads.base import Drawn, operation, write

__all__ = ["Budgets"]


class Budgets(Drawn):
    """See the module."""

    name = "budgets"
    about = "bounded counters minted, spent, returned, burned and handed from region to region"
    space = "budgets"
    keys = 3

    def draw(self, random: Random, number: int, machines: int) -> tuple[str, dict[str, Any]]:
        """Draw a movement of rights, mostly spending."""
        key = f"b{random.randrange(self.keys)}"
        chance = random.random()
        amount = random.randint(1, 20)
        if chance < 0.12 or number < self.keys:
            return write(operation(self.space, "bounded_counter", key, "mint", 10 * amount))
        if chance < 0.35:
            to = random.randrange(machines)
            place = {"space": [self.space], "key": key}
            return "transfer", {**place, "amount": amount, "to": to, "retries": 1}
        if chance < 0.42:
            return "read", {"space": [self.space], "datatype": "bounded_counter", "key": key}
        if chance < 0.5:
            return write(operation(self.space, "bounded_counter", key, "release", amount))
        if chance < 0.53:
            return write(operation(self.space, "bounded_counter", key, "burn", amount))
        if chance < 0.55:
            return write(operation(self.space, "bounded_counter", "short", "delete"))
        if chance < 0.6:
            name = random.choice(("mint", "consume"))
            return write(operation(self.space, "bounded_counter", "short", name, 1))
        return write(operation(self.space, "bounded_counter", key, "consume", amount))
