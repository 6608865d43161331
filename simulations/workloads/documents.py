"""Documents: several people type into one text, and somebody throws it away.

Problem: a document's entries are another library's updates, which depend on each other;
they are compacted when stable, while others still edit, and deletes race both.

Idea: edits at random positions, small enough to come often, so that compaction (from 64
stable updates on) takes place; rarely a delete.
"""

from __future__ import annotations

from random import Random
from typing import Any

from simulations.workloads.base import Drawn, operation, write

__all__ = ["Documents"]


class Documents(Drawn):
    """See the module."""

    name = "documents"
    about = "documents edited by several people at once, compacted, now and then deleted"
    space = "documents"

    def draw(self, random: Random, number: int, machines: int) -> tuple[str, dict[str, Any]]:
        """Draw an edit, mostly."""
        key = f"d{int(random.random() < 0.2)}"
        chance = random.random()
        if chance < 0.08:
            return "read", {"space": [self.space], "datatype": "document", "key": key}
        if chance < 0.1:
            return write(operation(self.space, "document", key, "delete"))
        place = {"space": [self.space], "key": key, "retries": 1}
        position = random.randrange(40)
        if chance < 0.3:
            return "edit", {**place, "position": position, "delete": random.randint(1, 4)}
        return "edit", {**place, "position": position, "insert": f"<{number}>"}
