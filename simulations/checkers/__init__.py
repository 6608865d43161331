"""The checkers, in one table.

A new checker is a module of this package and one line here; ``watch`` puts them into a
world. See ``base`` for what they are made of.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from simulations.checkers.base import Checker
from simulations.checkers.oracle import Oracle
from simulations.history import History
from simulations.world import World

__all__ = ["CHECKERS", "Checker", "watch"]

_ALL: Final[tuple[type[Checker], ...]] = (Oracle,)

CHECKERS: Final[dict[str, type[Checker]]] = {checker.name: checker for checker in _ALL}
"""Every checker by name."""


def watch(world: World, history: History, names: Iterable[str] | None = None) -> list[Checker]:
    """Let checkers watch a world, all of them if no names are given; returns them.

    To be called before anything starts. Raises ``KeyError`` for a name that is in no table.
    """
    chosen = [CHECKERS[name](world, history) for name in (CHECKERS if names is None else names)]
    world.watchers += chosen
    return chosen
