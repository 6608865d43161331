"""Each rule of the specification, and the shortest schedule that shows what it is for.

Each breaks something when its rule is broken, and nothing when it is kept. The list reads as the
reasons behind the rules."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from tests.model import broken
from tests.model.explore import fails
from tests.model.membership import Replica
from tests.model.schedule import World, parse, transcript


class Case(NamedTuple):
    """A broken rule, and a schedule that shows the harm, with a part of its message."""

    kind: type[Replica]
    founders: str
    schedule: str
    harm: str
    trust_ordered: bool = False


CASES = [
    Case(
        broken.CollectsUnstable,
        "ab",
        """
        a: exclude s x
        b: include s x      # concurrent, and still on its way when a collects
        a: collect
        a: pull b
        """,
        "a reads remove_wins s as frozenset({'x'})",
    ),
    Case(
        broken.StableWithoutOwnDeltas,
        "ab",
        """
        a: exclude s x
        b: include s x
        b: pull a
        a: acknowledge b    # b has joined the removal; a has not joined b's add
        a: collect
        a: pull b
        """,
        "still arrived",
    ),
    Case(
        broken.CollectsRemovalsAlone,
        "ab",
        """
        a: exclude s x
        b: include s x
        b: pull a
        a: pull b
        a: acknowledge b
        a: collect
        """,
        "a reads remove_wins s as frozenset({'x'})",
    ),
    Case(
        broken.AddsObserveFromOutside,
        "ab",
        """
        a: read s @nothing
        a: exclude s x
        b: pull a
        a: acknowledge b
        b: include s x @nothing     # leaves the removal that it holds
        a: collect                  # takes the removal, and not the add
        a: pull b
        """,
        "reads remove_wins s",
    ),
    Case(
        broken.CollectsAcrossTrust,
        "ab",
        """
        a: exclude s x trust=2
        b: pull a
        a: acknowledge b
        b: include s x trust=1      # after the removal, and cannot supersede it
        a: collect
        a: pull b
        """,
        "a reads remove_wins s as frozenset({'x'})",
        trust_ordered=True,
    ),
    Case(
        broken.IgnoresTrust,
        "a",
        """
        a: put k reviewed trust=2
        a: put k guessed trust=1
        """,
        "a reads register k as ['guessed']",
        trust_ordered=True,
    ),
    Case(
        broken.WritesWithoutWaiting,
        "abc",
        """
        a: put k x
        a: read k @seen
        b: put k y @seen    # b has not joined x, and could not supersede it later
        b: pull a
        """,
        "b reads register k as ['x', 'y']",
    ),
    Case(
        broken.TakesJoinedForObserved,
        "ab",
        """
        b: read k @nothing
        a: put k x
        b: pull a           # joined, but its writer has not looked
        b: put k y @nothing
        """,
        "b reads register k as ['y']",
    ),
    Case(
        broken.ResetsWithoutBaselines,
        "ab",
        """
        a: increment c 2
        b: pull a
        b: reset c
        a: increment c 3    # concurrent with the reset: a total of 5, of which 3 count
        b: pull a
        """,
        "b reads counter c as 5, not 3",
    ),
    Case(
        broken.OneFieldForEver,
        "a",
        """
        a: increment c 5
        a: reset c
        a: increment c 2
        """,
        "a reads counter c as 0, not 2",
    ),
    Case(
        broken.CollectsLiveBaselines,
        "ab",
        """
        a: increment c 2
        b: pull a
        a: increment c 3
        b: reset c
        a: pull b
        b: acknowledge a
        b: pull a
        b: collect
        """,
        "b reads counter c as 5, not 3",
    ),
    Case(
        broken.DeletesBounded,
        "abc",
        """
        a: mint q 3; transfer q b 3
        b: pull a
        b: transfer q a 3
        a: pull b
        a: spend q 3
        c: pull a
        c: clear q          # no rights are out, as far as c knows
        b: mint q 1         # concurrent: b's field, and in it b's transfer, survives
        a: pull c
        a: pull b
        a: spend q 3
        """,
        "q is overspent by 2",
    ),
    Case(
        broken.InheritsRights,
        "ab",
        """
        a: mint q 3
        b: pull a
        a: backup
        a: spend q 3
        c: restore a
        b: admit c
        c: pull b
        c: spend q 3
        """,
        "q is overspent by 3",
    ),
    Case(
        broken.ErasesByDots,
        "ab",
        """
        a: edit d
        b: pull a
        a: acknowledge b
        a: compact d        # an ordinary delta, so a concurrent write to what b erases
        b: erase d
        b: pull a
        """,
        "b reads document d as frozenset({'a:1'}), not frozenset()",
    ),
    Case(
        broken.TakesAnyOrder,
        "abc",
        """
        a: put k x
        b: pull a
        b: delete k
        c: deliver b b
        c: deliver a a
        """,
        "came before what it depends on",
    ),
    Case(
        broken.ClockIgnoresOthers,
        "ab",
        """
        a: append l question
        b: pull a
        b: append l answer
        """,
        "ordered before what it saw",
    ),
    Case(
        broken.SnapshotOverwrites,
        "ab",
        """
        a: put k x
        a: backup
        b: put j y          # written while the snapshot is on its way
        b: snapshot a*
        """,
        "b reads register j as [], not ['y']",
    ),
    Case(
        broken.SnapshotAdds,
        "ab",
        """
        a: put k x
        b: pull a
        a: delete k
        b: snapshot a
        """,
        "b reads register k as ['x'], not []",
    ),
    Case(
        broken.OverclaimsSnapshot,
        "ab",
        """
        a: put k x; put j y
        b: snapshot a
        """,
        "b reads register j as [], not ['y']",
    ),
    Case(
        broken.WritesUnadmitted,
        "ab",
        """
        n: boot
        a: exclude s x
        b: pull a
        a: acknowledge b
        a: collect          # every member has joined the removal; n is none
        n: include s x
        a: pull n
        """,
        "still arrived",
    ),
    Case(
        broken.AdmitsAnyone,
        "abc",
        """
        c: include s x
        n: boot
        n: pull c           # what c wrote beyond the cut to be
        a: evict c
        b: pull a
        b: promise
        a: pull b
        a: acknowledge b    # the cut, c:0, is final
        a: exclude s x
        a: admit n
        n: pull a
        """,
        "still arrived",
    ),
    Case(
        broken.NewcomerTakesFromAll,
        "abc",
        """
        n: boot
        c: include s x
        a: evict c
        b: pull a
        b: promise
        a: pull b
        a: acknowledge b
        a: exclude s x
        a: admit n
        n: pull c           # between its admission and its joining it
        n: pull a
        """,
        "still arrived",
    ),
    Case(
        broken.BreaksItsPromise,
        "abc",
        """
        c: include s x
        a: evict c
        b: pull a
        b: promise
        b: pull c
        """,
        "b is past the cut of c, 0",
    ),
    Case(
        broken.PromisesToTheLetter,
        "abc",
        """
        c: put k x
        b: pull c
        a: evict c          # a holds nothing of c
        b: pull a
        b: promise          # which depends on c:1, so that a can never join it
        a: pull b
        """,
        "never learns a final cut",
    ),
    Case(
        broken.CutsWithoutTheNamed,
        "abcd",
        """
        n: boot
        c: admit n
        n: pull c
        b: pull c           # the admission got through to b
        c: include s x
        n: pull c           # and this to n only
        a: evict c
        b: pull a
        b: promise
        d: pull b
        d: promise
        b: pull d           # decided, as b thinks, without the word of n, whom b names
        b: pull n
        """,
        "b is past the cut of c, 1",
    ),
    Case(
        broken.DropsAtItsOwnPromise,
        "abc",
        """
        c: include s x
        b: pull c
        a: exclude s x
        b: pull a
        a: acknowledge b
        a: evict c          # b, who has c's add, has promised nothing yet
        a: pull b
        """,
        "still arrived",
    ),
    Case(
        broken.DecidesByKnownMembers,
        "abc",
        """
        n: boot
        m: boot
        a: admit n
        a: admit m
        n: pull a
        m: pull a
        a: evict b c        # three of five, as a counts
        n: pull a
        n: promise
        m: pull n
        m: promise
        b: evict a          # two of three, as b and c count
        c: pull b
        c: promise
        b: pull c
        a: pull m
        """,
        "two sides each decided",
    ),
    Case(
        broken.JoinsBeyondACut,
        "abc",
        """
        c: include s x      # beyond the cut to be
        a: evict c
        b: pull a
        b: promise
        a: pull b
        a: acknowledge b
        a: exclude s x
        b: pull a
        a: acknowledge b
        a: collect          # the removal, and every presence beside it that a holds
        c: pull a
        """,
        "c reads remove_wins s as frozenset({'x'})",
    ),
    Case(
        broken.HearsOnlyDeltas,
        "abc",
        """
        a: evict c
        c: evict a          # and so takes nothing more from a, which would tell it
        b: pull a
        b: promise
        a: pull b
        d: rejoin b         # and b, who might have, is gone
        """,
        "c is cut off and never learns it",
    ),
    Case(
        broken.RescuesUnclaimed,
        "abc",
        """
        c: increment t 1
        c: backup
        a: evict c
        b: pull a
        b: promise
        n: rejoin c
        m: restore c
        o: rejoin m         # has the same lost increment apart, by way of the backup
        a: pull b
        a: admit n
        b: admit o
        n: pull a
        o: pull b
        n: acknowledge a
        n: acknowledge b
        o: pull a
        o: acknowledge a
        o: acknowledge b
        n: rescue c
        o: rescue c
        """,
        "c:1 was rescued 2 times",
    ),
    Case(
        broken.RescuesTotals,
        "abc",
        """
        c: increment t 1
        a: pull c
        c: increment t 1    # a total of 2, of which 1 got through
        b: pull a
        a: evict c
        b: pull a
        b: promise
        a: pull b
        a: acknowledge b
        n: rejoin c
        a: admit n
        b: pull a
        n: pull a
        n: acknowledge a
        n: acknowledge b
        n: rescue c
        """,
        "c:2 was rescued as",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.kind.__name__)
def test_a_broken_rule_is_noticed_and_the_kept_one_is_not(case: Case) -> None:
    steps = tuple(parse(case.schedule))

    def world_of(kind: type[Replica]) -> World:
        return World(case.founders, trust_ordered=case.trust_ordered, kind=kind)

    violation = fails(lambda: world_of(case.kind), steps, settled=True)
    shown = transcript(steps, world_of(case.kind))
    assert violation is not None, f"the broken rule went unnoticed:\n{shown}"
    assert case.harm in str(violation), f"{violation}\n{shown}"

    violation = fails(lambda: world_of(Replica), steps, settled=True)
    assert violation is None, f"{violation}\n{transcript(steps, world_of(Replica))}"


def test_every_broken_rule_has_its_case() -> None:
    classes = {
        value
        for value in vars(broken).values()
        if isinstance(value, type) and value.__module__ == broken.__name__
    }
    assert classes == {case.kind for case in CASES}
