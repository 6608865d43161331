"""The simulator sees every planted defect, and every checker sees at least one."""

from __future__ import annotations

from typing import Any

import pytest

from simulations.checkers import CHECKERS
from simulations.runner import Outcome, run
from tests.simulations.mutations import MUTATIONS, Mutation, Patches
from tests.simulations.worlds import WORLDS

NAMES = sorted(MUTATIONS)
ENOUGH = 30
NOT_WHOLE = {"forks"}
"""Worlds that nobody comes out of whole: a copy that nothing gives away, known to half of all."""


def outcome(mutation: Mutation, seed: int, *catchers: str) -> Outcome:
    """Run a mutation's world with a seed, watched by some checkers alone."""
    plan = WORLDS[mutation.world](seed)
    with mutation.planted():
        return run(plan, checkers=catchers)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", NAMES)
def test_it_is_caught_within_so_many_seeds(name: str) -> None:
    """The seed that is known to do it comes first; any change of timing may spoil that one."""
    mutation = MUTATIONS[name]
    catcher = mutation.catchers[0]
    seeds = dict.fromkeys((mutation.seed, *range(1, mutation.seeds + 1)))
    found = (outcome(mutation, seed, catcher) for seed in seeds)
    assert any(one.checker == catcher for one in found), mutation.breaks


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("world", sorted({mutation.world for mutation in MUTATIONS.values()}))
def test_the_same_worlds_pass_where_nothing_is_planted(world: str) -> None:
    """Otherwise what is caught above would be no catch."""
    here = [mutation for mutation in MUTATIONS.values() if mutation.world == world]
    # Elsewhere all watch; what cannot end well may at least not be blamed on what is planted.
    catchers = sorted({m.catchers[0] for m in here}) if world in NOT_WHOLE else None
    for seed in sorted({mutation.seed for mutation in here}):
        found = run(WORLDS[world](seed), checkers=catchers)
        if world in NOT_WHOLE:
            assert found.checker not in (catchers or ()), found
            continue
        assert found.passed, found


def test_every_checker_is_tripped() -> None:
    """A checker that nothing trips is a defect."""
    assert {mutation.catchers[0] for mutation in MUTATIONS.values()} == CHECKERS.keys()


def test_there_are_enough_and_each_says_what_it_breaks() -> None:
    assert len(MUTATIONS) >= ENOUGH
    assert all(mutation.breaks for mutation in MUTATIONS.values())


@pytest.mark.parametrize("name", NAMES)
def test_it_leaves_nothing_behind(name: str) -> None:
    """Every attribute is the very object that it was."""
    with Patches().undoing() as patches:
        MUTATIONS[name].plant(patches)
        touched = list(patches.replaced)
    before: dict[tuple[int, str], Any] = {}
    for owner, attribute, value in touched:
        # The first replacement of an attribute found what belongs there.
        before.setdefault((id(owner), attribute), value)
        assert vars(owner)[attribute] is before[id(owner), attribute]
    assert touched
