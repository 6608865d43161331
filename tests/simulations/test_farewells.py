"""The checker ``farewells``: what it lets pass, and what it must not."""

from __future__ import annotations

from collections import Counter
from random import Random
from types import SimpleNamespace
from typing import cast

import pytest

from gossip.effects import MemberChanged
from gossip.messages import Profile, Record, State
from simulations.checkers.farewells import Farewells
from simulations.errors import SafetyViolation
from simulations.history import History
from simulations.node import Machine
from simulations.world import World


def _record(member: int, generation: int) -> Record:
    return Record(member, generation, 0, Profile(f"n{member}", "eu", f"10.0.0.{member}:7"))


def _machine(member: int, generation: int = 1) -> Machine:
    me = _record(member, generation)
    return cast(
        "Machine",
        SimpleNamespace(name=f"m{member}", mesh=SimpleNamespace(mesh=SimpleNamespace(me=me))),
    )


class _Watched:
    """A checker that is told of two machines: 1 looks at 2."""

    def __init__(self) -> None:
        kernel = SimpleNamespace(random=lambda _name: Random(1), elapsed_us=0)
        world = SimpleNamespace(kernel=kernel, reached=Counter())
        history = SimpleNamespace(copied=set(), harms={})
        self.checker = Farewells(cast("World", world), cast("History", history))
        self.here = _machine(1)
        self.checker.meshed(self.here)

    def lives(self, generation: int) -> None:
        self.checker.meshed(_machine(2, generation))

    def leaves(self, generation: int) -> None:
        self.checker.left(_machine(2, generation))

    def sees(self, generation: int, state: State, *, gone: bool = False) -> None:
        change = MemberChanged(_record(2, generation), state, None, gone=gone)
        self.checker.member_changed(self.here, change)


def test_a_later_life_is_news_though_it_has_just_ended_as_well() -> None:
    """The mesh cannot know yet: the second farewell is on its way. This is what world ``leaving``
    with seed 9, and the swarm's plans 967 and 1783, came to."""
    watched = _Watched()
    watched.lives(1)
    watched.sees(1, State.ALIVE)
    watched.leaves(1)
    watched.sees(1, State.LEFT)
    watched.lives(2)
    watched.leaves(2)
    watched.sees(2, State.ALIVE)
    watched.sees(2, State.LEFT)
    with pytest.raises(SafetyViolation, match="in life 2 has left, and is back"):
        watched.sees(2, State.SUSPECT)


def test_an_earlier_life_than_the_one_that_was_taken_for_gone_is_not_back_either() -> None:
    watched = _Watched()
    for generation in (1, 2):
        watched.lives(generation)
        watched.leaves(generation)
    watched.sees(2, State.LEFT)
    with pytest.raises(SafetyViolation, match="in life 1 has left, and is back"):
        watched.sees(1, State.ALIVE)


def test_what_was_said_between_does_not_excuse_it() -> None:
    watched = _Watched()
    for generation in (1, 2):
        watched.lives(generation)
        watched.leaves(generation)
    watched.sees(1, State.LEFT)
    watched.sees(2, State.ALIVE)
    watched.sees(2, State.DEAD)
    with pytest.raises(SafetyViolation, match="in life 1 has left, and is back"):
        watched.sees(1, State.ALIVE)


def test_who_was_reaped_or_begins_anew_knows_of_no_farewell() -> None:
    watched = _Watched()
    watched.lives(1)
    watched.leaves(1)
    watched.sees(1, State.LEFT)
    watched.sees(1, State.LEFT, gone=True)
    watched.sees(1, State.ALIVE)
    watched.sees(1, State.LEFT)
    watched.checker.meshed(watched.here)
    watched.sees(1, State.ALIVE)


def test_who_never_said_farewell_is_not_gone() -> None:
    watched = _Watched()
    watched.lives(1)
    with pytest.raises(SafetyViolation, match="never said farewell"):
        watched.sees(1, State.LEFT)
