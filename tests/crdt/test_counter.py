"""Counters: exact under concurrency, resets, deletes and collections."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crdtmem.crdt import DATATYPES
from crdtmem.crdt.totals import TOTAL_LIMIT
from crdtmem.errors import ConditionFailed, InvalidValue, LimitExceeded
from tests.conformance.harness import Fleet

COUNTER = DATATYPES["counter"]


def values(fleet: Fleet) -> list[Any]:
    """Return what every replica reads."""
    return [replica.value(COUNTER) for replica in fleet.replicas]


def test_counts_up_and_down_everywhere_at_once() -> None:
    fleet = Fleet(3)
    fleet.act(0, "counter", "increment")
    fleet.act(1, "counter", "increment", 10)
    fleet.act(2, "counter", "decrement", 4)
    fleet.settle()
    assert values(fleet) == [7, 7, 7]


def test_one_entry_per_replica_however_often_it_counts() -> None:
    fleet = Fleet(2)
    for _ in range(20):
        fleet.act(0, "counter", "increment")
        fleet.act(1, "counter", "decrement")
    fleet.settle()
    assert len(fleet[0].dots(COUNTER)) == 2
    assert values(fleet) == [0, 0]


def test_a_reset_takes_back_what_was_seen_and_no_more() -> None:
    fleet = Fleet(2)
    fleet.act(0, "counter", "increment", 5)
    fleet.settle()
    fleet.act(1, "counter", "reset")
    fleet.act(0, "counter", "increment", 3)
    fleet.settle()
    assert values(fleet) == [3, 3]
    fleet.act(0, "counter", "decrement", 1)
    fleet.settle()
    assert values(fleet) == [2, 2]


def test_two_resets_at_once_take_back_once() -> None:
    fleet = Fleet(3)
    fleet.act(0, "counter", "increment", 5)
    fleet.settle()
    fleet.act(1, "counter", "reset")
    fleet.act(2, "counter", "reset")
    fleet.act(0, "counter", "increment", 2)
    fleet.settle()
    assert values(fleet) == [2, 2, 2]


def test_a_reset_counter_stays_listed_and_a_deleted_one_does_not() -> None:
    fleet = Fleet(2)
    fleet.act(0, "counter", "increment", 5)
    fleet.act(0, "counter", "reset")
    assert fleet[0].exists(COUNTER)
    assert fleet[0].value(COUNTER) == 0
    fleet.act(0, "counter", "delete")
    assert not fleet[0].exists(COUNTER)
    assert fleet[0].value(COUNTER) == 0
    fleet.act(0, "counter", "increment", 1)
    assert fleet[0].exists(COUNTER)
    assert fleet[0].value(COUNTER) == 1


def test_a_counter_that_was_deleted_unseen_comes_back_with_what_was_added() -> None:
    fleet = Fleet(2)
    fleet.act(0, "counter", "increment", 5)
    fleet.settle()
    fleet.act(1, "counter", "delete")
    fleet.act(0, "counter", "increment", 2)
    fleet.settle()
    assert values(fleet) == [2, 2]
    assert fleet[1].exists(COUNTER)


def test_a_reset_upon_a_read_spares_what_was_not_read() -> None:
    fleet = Fleet(2)
    fleet.act(0, "counter", "increment", 5)
    seen = fleet[0].dots(COUNTER)
    fleet.act(1, "counter", "increment", 2)
    fleet.settle()
    fleet.act(0, "counter", "reset", observed=seen)
    assert fleet[0].value(COUNTER) == 2


def test_a_reset_upon_a_read_that_has_been_counted_on_is_refused() -> None:
    fleet = Fleet(2)
    fleet.act(0, "counter", "increment", 5)
    seen = fleet[0].dots(COUNTER)
    fleet.act(0, "counter", "increment", 1)
    for operation in ("reset", "delete"):
        with pytest.raises(ConditionFailed, match="counted on"):
            fleet.act(0, "counter", operation, observed=seen)
    assert fleet[0].value(COUNTER) == 6
    fleet.act(0, "counter", "reset", observed=fleet[0].dots(COUNTER))
    assert fleet[0].value(COUNTER) == 0


def test_baselines_are_collected_when_stable_and_the_field_is_gone() -> None:
    fleet = Fleet(2)
    fleet.act(0, "counter", "increment", 5)
    fleet.settle()
    fleet.act(1, "counter", "reset")
    # Not stable yet: the owner may still be counting on.
    fleet.act(0, "counter", "increment", 3)
    fleet.collect(1, "counter")
    fleet.settle()
    assert values(fleet) == [3, 3]
    # The owner has counted on, so the baseline is needed for as long as the field lives.
    fleet.collect(1, "counter")
    fleet.settle()
    assert values(fleet) == [3, 3]
    fleet.act(0, "counter", "delete")
    fleet.settle()
    fleet.collect(0, "counter")
    fleet.settle()
    assert fleet[1].places().keys() == fleet[0].places().keys()
    assert values(fleet) == [0, 0]


def test_several_baselines_of_one_field_become_one() -> None:
    fleet = Fleet(3)
    fleet.act(0, "counter", "increment", 5)
    fleet.settle()
    fleet.act(1, "counter", "reset")
    fleet.act(2, "counter", "reset")
    fleet.act(0, "counter", "increment", 2)
    fleet.settle()
    before = len(fleet[0].dots(COUNTER))
    fleet.collect(0, "counter")
    fleet.settle()
    assert len(fleet[0].dots(COUNTER)) == before - 1
    assert values(fleet) == [2, 2, 2]


@pytest.mark.parametrize("amount", [True, 1.5, "1", None, -1])
def test_amounts_are_whole_and_not_negative(amount: Any) -> None:
    for type_name in ("counter", "g_counter"):
        with pytest.raises(InvalidValue, match="cannot increment"):
            Fleet(1).act(0, type_name, "increment", amount)
    with pytest.raises(InvalidValue) as refused:
        Fleet(1).act(0, "counter", "increment", -1)
    assert "decrement" in refused.value.hint


def test_a_total_never_outgrows_63_bits() -> None:
    fleet = Fleet(1)
    fleet.act(0, "counter", "increment", TOTAL_LIMIT)
    with pytest.raises(LimitExceeded):
        fleet.act(0, "counter", "increment")
    with pytest.raises(LimitExceeded):
        fleet.act(0, "counter", "decrement", TOTAL_LIMIT + 1)
    fleet.act(0, "counter", "decrement", TOTAL_LIMIT)
    assert fleet[0].value(COUNTER) == 0


def test_trust_never_lets_a_reset_take_back_what_is_trusted_more() -> None:
    fleet = Fleet(1, trust_ordered=True)
    fleet.act(0, "counter", "increment", 10, trust=5)
    for _ in range(3):
        fleet.act(0, "counter", "increment", 1, trust=1)
        fleet.act(0, "counter", "increment", 10, trust=5)
    # Not one field per change of hands: one per level of trust.
    assert len(fleet[0].dots(COUNTER)) == 2
    assert fleet[0].value(COUNTER) == 43
    fleet.act(0, "counter", "reset", trust=1)
    assert fleet[0].value(COUNTER) == 40


STEPS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.sampled_from(["up", "up", "down", "reset", "delete", "pull", "settle", "collect"]),
        st.integers(0, 2),
    ),
    min_size=10,
    max_size=40,
)


@settings(max_examples=150)
@given(steps=STEPS)
def test_the_value_is_what_causal_history_says(steps: list[tuple[int, str, int]]) -> None:
    """The oracle: every increment that no joined reset had joined before it, and no other."""
    fleet = Fleet()
    # Per replica, what it has joined: increments as (id, amount), and what resets took back.
    joined: list[set[tuple[int, int]]] = [set(), set(), set()]
    taken: list[set[tuple[int, int]]] = [set(), set(), set()]
    for number, (index, kind, other) in enumerate(steps):
        if kind in ("up", "down"):
            amount = number % 5 + 1
            fleet.act(index, "counter", "increment" if kind == "up" else "decrement", amount)
            joined[index].add((number, amount if kind == "up" else -amount))
        elif kind in ("reset", "delete"):
            fleet.act(index, "counter", kind)
            taken[index] |= joined[index]
        elif kind == "pull":
            fleet.pull(index, other)
            joined[index] |= joined[other]
            taken[index] |= taken[other]
        elif kind == "settle":
            fleet.settle()
            everything, everything_taken = set().union(*joined), set().union(*taken)
            joined = [set(everything) for _ in joined]
            taken = [set(everything_taken) for _ in taken]
        else:
            fleet.collect(index, "counter")
        for replica, seen, gone in zip(fleet.replicas, joined, taken, strict=True):
            assert replica.value(COUNTER) == sum(amount for _, amount in seen - gone)
