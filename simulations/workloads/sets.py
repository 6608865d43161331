"""Sets and flags: where an addition and a removal meet.

Problem: of an addition and a removal that do not know each other one must win, the same
one everywhere, whatever arrives late; and the evidence of removals is collected while
they still race.

Idea: few elements, added and removed at equal rates by everybody, in the sets and flags of
both persuasions; elements that are easily taken for one another; clearing now and then.
"""

from __future__ import annotations

from random import Random
from typing import Any, Final

from simulations.workloads.base import Drawn, operation, write

__all__ = ["Sets"]

_ELEMENTS: Final = ("a", "b", "1", 1, True, 1.5, "", [1, "a"], None)


class Sets(Drawn):
    """See the module."""

    name = "sets"
    about = "sets and flags, add-wins and remove-wins, filled and emptied by everybody"
    space = "sets"

    def draw(self, random: Random, number: int, machines: int) -> tuple[str, dict[str, Any]]:
        """Draw a change of one element or flag, or a reading."""
        kind = random.choice(("set", "set_remove_wins", "flag", "flag_disable_wins"))
        key = f"s{random.randrange(3)}"
        chance = random.random()
        if chance < 0.15:
            return "read", {"space": [self.space], "datatype": kind, "key": key, "retries": 1}
        if chance < 0.2:
            return write(operation(self.space, kind, key, "delete"))
        if kind.startswith("flag"):
            name = random.choice(("enable", "disable"))
            return write(operation(self.space, kind, key, name), observe=random.random() < 0.2)
        if chance < 0.24:
            return write(operation(self.space, kind, key, "clear"))
        if chance < 0.3:
            return write(operation(self.space, kind, key, "update", list(_ELEMENTS[:4])))
        name = "add" if chance < 0.65 else "remove"
        row = operation(self.space, kind, key, name, random.choice(_ELEMENTS))
        return write(row, observe=random.random() < 0.15)
