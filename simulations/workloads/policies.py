"""Policies: resolvers and trust that change while people write.

Problem: what a reader sees of a conflict is a policy's decision, and a policy is data that
arrives at different times; trust decides what may be superseded, at the origin only.

Idea: two spaces whose policies change now and then, to any resolver, to a version of one
that nobody has, to an order of trust and back, under writers of different trust.
"""

from __future__ import annotations

from random import Random
from typing import Any, Final

from simulations.workloads.base import Drawn, operation, write

__all__ = ["Policies"]

_RESOLVERS: Final = (
    "latest", "keep_all", "maximum", "minimum", "union", "most_trusted", "most_confident",
    "majority", "manual",
)  # fmt: skip


class Policies(Drawn):
    """See the module."""

    name = "policies"
    about = "spaces whose resolver and order of trust change under writers of different trust"

    def draw(self, random: Random, number: int, machines: int) -> tuple[str, dict[str, Any]]:
        """Draw a write, a reading, or rarely a policy."""
        space = random.choice(("resolved", "trusted"))
        kind = random.choice(("register", "set_remove_wins", "flag_disable_wins", "counter", "map"))
        key = f"p{random.randrange(3)}"
        chance = random.random()
        if chance < 0.06:
            policy = {
                "space": [space],
                "resolver": random.choice(_RESOLVERS),
                "version": random.choice((1, 1, 1, 99)),
                "trust_ordered": space == "trusted" and random.random() < 0.7,
            }
            return "policy", {**policy, "retries": 2}
        if chance < 0.2:
            return "read", {"space": [space], "datatype": kind, "key": key}
        trust = {"trust": random.randint(0, 3), "author": f"author {random.randrange(4)}"}
        if chance < 0.3:
            return write(operation(space, kind, key, "delete"), **trust)
        if kind == "register":
            value = random.choice((number, f"v{number}", [number, "x"], {"n": number}))
            metadata = {"c": random.random()}
            row = operation(space, kind, key, "set", value, metadata=metadata)
            return write(row, observe=random.random() < 0.2, **trust)
        if kind == "map":
            return write(operation(space, kind, key, "set", ["m"], number), **trust)
        if kind == "counter":
            return write(operation(space, kind, key, "increment", 1), **trust)
        if kind == "set_remove_wins":
            name = random.choice(("add", "remove"))
            return write(operation(space, kind, key, name, "e"), **trust)
        name = random.choice(("enable", "disable"))
        return write(operation(space, kind, key, name), **trust)
