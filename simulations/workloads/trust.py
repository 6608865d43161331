"""Trust: people settle what agents go on writing about, in spaces that order trust.

Problem: what the order of trust protects must be attacked: by those who look and those who do
not, by deletes, in every datatype, while policy and values are on their way.

Idea: one space whose policy orders trust from the first moment, said again now and then so
that no client waits for another's word; a few keys, and writers of four degrees of trust.
"""

from __future__ import annotations

from random import Random
from typing import Any

from simulations.workloads.base import Drawn, operation, write

__all__ = ["Trusted"]


class Trusted(Drawn):
    """See the module."""

    name = "trust"
    about = "agents of different trust write over each other where trust is ordered"
    space = "ranked"

    def draw(self, random: Random, number: int, machines: int) -> tuple[str, dict[str, Any]]:
        """Draw a write by somebody of some trust, mostly."""
        chance = random.random()
        if number < machines or chance < 0.03:
            resolver = random.choice(("latest", "most_trusted"))
            policy = {"space": [self.space], "resolver": resolver, "trust_ordered": True}
            return "policy", {**policy, "retries": 2}
        trust = random.choice((0, 0, 1, 1, 2, 3))
        who: dict[str, Any] = {"trust": trust, "author": f"author {trust}"}
        key = f"t{random.randrange(4)}"
        if chance < 0.1:
            return "read", {"space": [self.space], "datatype": "register", "key": key}
        if chance < 0.2:
            kind = random.choice(("register", "set", "flag", "map", "document"))
            return write(operation(self.space, kind, key, "delete"), **who)
        if chance < 0.75:
            row = operation(self.space, "register", key, "set", f"v{number}")
            return write(row, observe=random.random() < 0.3, **who)
        if chance < 0.85:
            name = random.choice(("add", "remove"))
            return write(operation(self.space, "set", key, name, "e"), **who)
        if chance < 0.93:
            return write(operation(self.space, "map", key, "set", ["m"], number), **who)
        name = random.choice(("enable", "disable"))
        return write(operation(self.space, "flag", key, name), **who)
