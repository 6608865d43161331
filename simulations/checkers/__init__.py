"""The checkers, in one table.

A new checker is a module of this package and one line here; ``watch`` puts them into a
world. See ``base`` for what they are made of.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from simulations.checkers.acknowledged import Acknowledged
from simulations.checkers.agreement import Agreement
from simulations.checkers.base import Checker
from simulations.checkers.bounds import Bounds
from simulations.checkers.broadcasts import Broadcasts
from simulations.checkers.budgets import Budgets
from simulations.checkers.clocks import Clocks
from simulations.checkers.conditions import Conditions
from simulations.checkers.counters import Counters
from simulations.checkers.crowding import Crowding
from simulations.checkers.delivery import Delivery
from simulations.checkers.documents import Documents
from simulations.checkers.durability import Durability
from simulations.checkers.expiry import Expiry
from simulations.checkers.false_deaths import FalseDeaths
from simulations.checkers.farewells import Farewells
from simulations.checkers.gathering import Gathering
from simulations.checkers.identities import Identities
from simulations.checkers.joins import Joins
from simulations.checkers.liveness import Liveness
from simulations.checkers.lives import Lives
from simulations.checkers.membership import Membership
from simulations.checkers.oracle import Oracle
from simulations.checkers.reads import Reads
from simulations.checkers.recovery import Recovery
from simulations.checkers.rederivation import Rederivation
from simulations.checkers.repair import Repair
from simulations.checkers.resurrection import Resurrection
from simulations.checkers.semantics import Semantics
from simulations.checkers.sessions import Sessions
from simulations.checkers.stability import Stability
from simulations.checkers.transactions import Transactions
from simulations.checkers.trust import Trust
from simulations.checkers.unwritten import Unwritten
from simulations.history import History
from simulations.world import World

__all__ = ["CHECKERS", "Checker", "watch"]

_ALL: Final[tuple[type[Checker], ...]] = (
    Oracle,
    Agreement,
    Acknowledged,
    Resurrection,
    Unwritten,
    Delivery,
    Sessions,
    Reads,
    Transactions,
    Conditions,
    Crowding,
    Trust,
    Counters,
    Budgets,
    Identities,
    Clocks,
    Durability,
    Recovery,
    Rederivation,
    Joins,
    Repair,
    Stability,
    Membership,
    Expiry,
    Semantics,
    Documents,
    Bounds,
    Gathering,
    Lives,
    Farewells,
    FalseDeaths,
    Broadcasts,
    Liveness,
)

CHECKERS: Final[dict[str, type[Checker]]] = {checker.name: checker for checker in _ALL}
"""Every checker by name."""


def watch(world: World, history: History, names: Iterable[str] | None = None) -> list[Checker]:
    """Let checkers watch a world, all of them if no names are given; returns them.

    To be called before anything starts. Raises ``KeyError`` for a name that is in no table.
    """
    chosen = [CHECKERS[name](world, history) for name in (CHECKERS if names is None else names)]
    world.watchers += chosen
    return chosen
