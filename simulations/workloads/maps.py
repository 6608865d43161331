"""Maps: nested members of every kind, set, counted, deleted with all below them.

Problem: a map is where datatypes meet: a branch is deleted while a counter in it counts,
a name is written as a value and as a map, a member is cleared while its removal races.

Idea: a small tree of names; plain values, counters, sets, flags and logs at its leaves;
deletes of members, branches and the whole.
"""

from __future__ import annotations

from random import Random
from typing import Any, Final

from simulations.workloads.base import Drawn, operation, write

__all__ = ["Maps"]

_PATHS: Final = (["a"], ["a", "b"], ["a", "c"], ["d", "e", "f"], ["d"])
_TYPED: Final[tuple[tuple[str, str, list[Any]], ...]] = (
    ("counter", "increment", [2]),
    ("counter", "reset", []),
    ("set", "add", ["x"]),
    ("set", "remove", ["x"]),
    ("set_remove_wins", "add", ["y"]),
    ("set_remove_wins", "remove", ["y"]),
    ("flag_disable_wins", "enable", []),
    ("flag_disable_wins", "disable", []),
    ("log", "append", ["entry"]),
    ("multi_value", "set", ["seen"]),
)


class Maps(Drawn):
    """See the module."""

    name = "maps"
    about = "nested maps with members of every datatype, and deletes of whole branches"
    space = "maps"

    def draw(self, random: Random, number: int, machines: int) -> tuple[str, dict[str, Any]]:
        """Draw a change of one member or branch."""
        key = f"m{random.randrange(2)}"
        path = list(random.choice(_PATHS))
        chance = random.random()
        if chance < 0.15:
            return "read", {"space": [self.space], "datatype": "map", "key": key, "retries": 1}
        if chance < 0.35:
            row = operation(self.space, "map", key, "set", path, f"v{number}")
            return write(row, observe=random.random() < 0.3)
        if chance < 0.45:
            values = {"x": number, "y": [number], "z": None}
            return write(operation(self.space, "map", key, "update", values, path))
        if chance < 0.57:
            where = [path] if random.random() < 0.8 else []
            return write(operation(self.space, "map", key, "delete", *where))
        datatype, name, arguments = random.choice(_TYPED)
        row = operation(self.space, "map", key, "apply", [*path, datatype], datatype, name)
        row[4] += arguments
        return write(row, timeout_ms=random.choice((300, 5_000)))
