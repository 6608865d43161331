"""The planted mutations: every rule that the simulator has to see broken.

Problem: see ``planted/vocabulary``. Idea: one table, from a mutation's name to the rule that
it breaks, the world in which it is looked for, the checkers that may catch it, and seeds.

Invariants: every function in ``planted`` is in the table; every name of a world is in ``WORLDS``.
"""

from __future__ import annotations

from typing import Final

from tests.simulations.planted import datatypes, kernel, membership, store, sync
from tests.simulations.planted.vocabulary import Mutation, Patches, Plant

__all__ = ["MACHINE", "MUTATIONS", "Mutation", "Patches"]

MACHINE: Final = "machine"
"""Stands among the catchers for an assertion of production code: the run ends as a crash."""


def _plant(plant: Plant, world: str, *catchers: str, seed: int = 1, seeds: int = 20) -> Mutation:
    rule = (plant.__doc__ or "").strip()
    return Mutation(plant, rule, world, catchers, seed, seeds)


_PLANTED: Final = {
    module.__name__.rpartition(".")[2]: module
    for module in (kernel, store, sync, membership, datatypes)
}

MUTATIONS: Final[dict[str, Mutation]] = {
    name: _plant(getattr(module, name), "swarm")
    for module in _PLANTED.values()
    for name in module.__all__
}
