"""Bounded counters: whatever happens, never more is spent than was minted."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crdtmem.batch import decode_batch
from crdtmem.crdt import DATATYPES
from crdtmem.crdt.bounded import parse_replica
from crdtmem.errors import (
    ConditionFailed,
    InsufficientRights,
    InvalidValue,
    LimitExceeded,
    LocalError,
)
from tests.conformance.harness import Fleet, Replica

BOUNDED = DATATYPES["bounded_counter"]
FIRST, SECOND, THIRD = (f"{number:016x}" for number in (1, 2, 3))


def minted(amount: int = 10, size: int = 3) -> Fleet:
    """Return a fleet that knows of rights minted at the first replica."""
    fleet = Fleet(size)
    fleet.act(0, "bounded_counter", "mint", amount)
    fleet.settle()
    return fleet


def act(fleet: Fleet, index: int, *operation: Any) -> Any:
    """Carry out one operation of the bounded counter."""
    return fleet.act(index, "bounded_counter", *operation)


def test_rights_are_where_they_were_minted_until_they_are_transferred() -> None:
    fleet = minted()
    act(fleet, 0, "transfer", 4, SECOND)
    act(fleet, 0, "consume", 3)
    fleet.settle()
    act(fleet, 1, "consume", 4)
    fleet.settle()
    expected = {"available": 3, "consumed": 7, "rights": {FIRST: 3}}
    assert fleet[2].value(BOUNDED) == expected


def test_a_refusal_says_how_many_are_held_and_who_holds_the_rest() -> None:
    fleet = minted()
    act(fleet, 0, "transfer", 4, 2)
    fleet.settle()
    for operation, rest in (("consume", ()), ("burn", ()), ("transfer", (FIRST,))):
        with pytest.raises(InsufficientRights) as refused:
            act(fleet, 1, operation, 5, *rest)
        assert refused.value.details == {"needed": 5, "held": 4, "holders": {FIRST: 6}}
    with pytest.raises(InsufficientRights, match="mint more"):
        act(minted(1, 1), 0, "consume", 2)
    assert fleet[1].value(BOUNDED)["available"] == 10


def test_what_was_consumed_can_be_released_where_it_was_consumed() -> None:
    fleet = minted()
    act(fleet, 0, "consume", 6)
    act(fleet, 0, "release", 2)
    assert fleet[0].value(BOUNDED) == {"available": 6, "consumed": 4, "rights": {FIRST: 6}}
    with pytest.raises(InsufficientRights, match="4 consumed here"):
        act(fleet, 0, "release", 5)
    fleet.settle()
    with pytest.raises(InsufficientRights, match="0 consumed here"):
        act(fleet, 1, "release", 1)


def test_only_minting_and_burning_change_the_bound() -> None:
    fleet = minted()
    act(fleet, 0, "burn", 4)
    act(fleet, 1, "mint", 1)
    fleet.settle()
    value = fleet[2].value(BOUNDED)
    assert value == {"available": 7, "consumed": 0, "rights": {FIRST: 6, SECOND: 1}}


def test_nothing_is_deleted_while_others_hold_rights() -> None:
    fleet = minted()
    act(fleet, 0, "transfer", 4, SECOND)
    fleet.settle()
    with pytest.raises(InsufficientRights) as refused:
        act(fleet, 0, "delete")
    assert refused.value.details["holders"] == {SECOND: 4}
    act(fleet, 1, "transfer", 4, FIRST)
    fleet.settle()
    act(fleet, 0, "delete")
    assert not fleet[0].exists(BOUNDED)
    assert fleet[0].value(BOUNDED) == {"available": 0, "consumed": 0, "rights": {}}


def test_a_delete_upon_a_read_needs_all_of_it_to_have_been_read() -> None:
    fleet = minted()
    with pytest.raises(ConditionFailed, match="not observed"):
        fleet.act(0, "bounded_counter", "delete", observed=())
    fleet.act(0, "bounded_counter", "delete", observed=fleet[0].dots(BOUNDED))
    assert not fleet[0].exists(BOUNDED)


def test_a_delete_does_not_give_spent_transfers_back() -> None:
    """The consumption goes with the delete, and a copy of what paid for it stays."""
    fleet = minted()
    act(fleet, 0, "transfer", 4, SECOND)
    act(fleet, 0, "transfer", 6, THIRD)
    fleet.settle()
    act(fleet, 1, "consume", 4)
    act(fleet, 2, "transfer", 6, SECOND)
    fleet.settle()
    act(fleet, 1, "consume", 6)
    fleet.settle()
    # Nobody holds rights. The third mints, unseen by the deleting first: its total, with
    # the transfers to the second in it, survives the delete; the second's consumption,
    # superseded, does not. Only the baselines know that those transfers were spent.
    act(fleet, 2, "mint", 1)
    act(fleet, 0, "delete")
    fleet.settle()
    assert fleet[1].value(BOUNDED) == {"available": 1, "consumed": 0, "rights": {THIRD: 1}}
    with pytest.raises(InsufficientRights):
        act(fleet, 1, "consume", 1)


def test_deleted_and_minted_again_it_starts_from_nothing() -> None:
    fleet = minted()
    act(fleet, 0, "consume", 7)
    fleet.settle()
    act(fleet, 0, "delete")
    act(fleet, 0, "mint", 2)
    fleet.settle()
    expected = {"available": 2, "consumed": 0, "rights": {FIRST: 2}}
    assert fleet[1].value(BOUNDED) == expected
    fleet.collect(1, "bounded_counter")
    fleet.settle()
    assert fleet[2].value(BOUNDED) == expected
    assert len(fleet[2].dots(BOUNDED)) == 1


@pytest.mark.parametrize("amount", [True, 1.0, "1", -1])
@pytest.mark.parametrize("operation", ["mint", "burn", "consume", "release"])
def test_amounts_are_whole_and_not_negative(operation: str, amount: Any) -> None:
    with pytest.raises(InvalidValue, match=f"cannot {operation}"):
        act(minted(), 0, operation, amount)


def test_a_transfer_names_another_replica() -> None:
    fleet = minted()
    for target in (FIRST, 1, 0, -1, 1 << 64, "no hex", None, True):
        with pytest.raises(InvalidValue):
            act(fleet, 0, "transfer", 1, target)
    assert parse_replica("00000000000000ff") == 255


def test_totals_never_outgrow_63_bits() -> None:
    with pytest.raises(LimitExceeded):
        act(minted(2**63 - 1), 0, "mint", 1)


STEPS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.sampled_from(
            [
                *["mint", "consume", "consume", "consume", "release", "burn"],
                *["transfer", "transfer", "transfer", "delete", "delete"],
                *["deliver", "deliver", "pull", "pull", "settle", "collect", "restore"],
            ]
        ),
        st.integers(0, 2),
        st.sampled_from([1, 1, 1, 2]),
    ),
    min_size=30,
    max_size=60,
)


class Budget:
    """A fleet, and what its members have really done: the world outside, which forgets nothing."""

    def __init__(self) -> None:
        self.fleet = Fleet()
        self.bound = 0
        self.spent = 0

    def carry_out(self, index: int, kind: str, other: int, amount: int) -> None:
        fleet = self.fleet
        if kind == "deliver":
            fleet.deliver(index, other)
        elif kind == "pull":
            fleet.pull(index, other)
        elif kind == "settle":
            fleet.settle()
        elif kind == "collect":
            fleet.collect(index, "bounded_counter")
        elif kind == "restore":
            self.restore(index, amount)
        else:
            self.operate(index, kind, other, amount)

    def operate(self, index: int, kind: str, other: int, amount: int) -> None:
        target = self.fleet[other].replica
        arguments = {"transfer": (amount, target), "delete": ()}.get(kind, (amount,))
        try:
            act(self.fleet, index, kind, *arguments)
        except LocalError:
            return
        self.bound += {"mint": amount, "burn": -amount}.get(kind, 0)
        self.spent += {"consume": amount, "release": -amount}.get(kind, 0)

    def restore(self, index: int, lost: int) -> None:
        """Bring a replica back from an older copy, under a new id; what nobody else has is lost.

        What it did in the world stays done.
        """
        fleet, old = self.fleet, self.fleet[index]
        copy = Replica(max(fleet.batches) + 1)
        fleet.batches[copy.replica] = []
        others = [r.vector for r in fleet.replicas if r is not old]
        joined = [d for d in fleet.everything() if old.vector.covers(_last_dot(d))]
        depth = max(0, len(joined) - lost)
        # What cannot be joined without what was lost is refetched like any other gap.
        for data in joined[:depth]:
            if any(vector.covers(_last_dot(data)) for vector in others):
                copy.receive(data)
        fleet.replicas[index] = copy
        fleet.acknowledge(index)
        for replica, batches in fleet.batches.items():
            reach = max(r.vector.get(replica, 0) for r in fleet.replicas)
            fleet.batches[replica] = [d for d in batches if decode_batch(d).header.last <= reach]


def _last_dot(data: bytes) -> int:
    header = decode_batch(data).header
    return header.replica << 64 | header.last


@settings(max_examples=200)
@given(steps=STEPS)
def test_never_overspent(steps: list[tuple[int, str, int, int]]) -> None:
    budget = Budget()
    budget.carry_out(0, "mint", 0, 2)
    for step in steps:
        budget.carry_out(*step)
        assert budget.spent <= budget.bound
    budget.fleet.settle()
    # What is left to spend fits into the bound as well. The rights of ids that were given up
    # are stranded: they show, and a burn that was lost with them shows no more.
    rights = budget.fleet[0].value(BOUNDED)["rights"]
    left = sum(rights.get(f"{replica.replica:016x}", 0) for replica in budget.fleet.replicas)
    assert budget.spent + left <= budget.bound


@pytest.mark.slow
@pytest.mark.timeout(1_200)
@settings(max_examples=5_000)
@given(steps=STEPS)
def test_never_overspent_in_many_schedules(steps: list[tuple[int, str, int, int]]) -> None:
    budget = Budget()
    budget.carry_out(0, "mint", 0, 2)
    for step in steps:
        budget.carry_out(*step)
        assert budget.spent <= budget.bound
