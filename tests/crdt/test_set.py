"""Sets: elements of any type, and which way a tie falls."""

from __future__ import annotations

from typing import Any

import pytest

from crdtmem.crdt import DATATYPES
from crdtmem.crdt.base import element_field, field_element
from crdtmem.crdt.set import RemoveWinsSet
from crdtmem.errors import ConditionFailed, InvalidValue
from tests.conformance.harness import Fleet, HarnessReader

BOTH = pytest.mark.parametrize("type_name", ["set", "set_remove_wins"])


@BOTH
def test_elements_of_any_type_are_kept_apart_and_listed_in_order(type_name: str) -> None:
    fleet = Fleet(1)
    elements: list[Any] = [{"n": 1}, [1], b"1", "1", "", 1.0, 1, True, None]
    fleet.act(0, type_name, "update", elements)
    shown = fleet[0].value(DATATYPES[type_name])
    expected: list[Any] = [None, True, 1, 1.0, "", "1", b"1", [1], {"n": 1}]
    assert repr(shown) == repr(expected)


@pytest.mark.parametrize("element", ["", "text", 1, 1.0, True, None, b"", [1, ["x"]], {"a": {}}])
def test_a_field_stands_for_one_element(element: Any) -> None:
    field = element_field(element)
    assert field
    assert repr(field_element(field)) == repr(element)


@BOTH
def test_adding_twice_and_removing_once_leaves_nothing_in(type_name: str) -> None:
    datatype, fleet = DATATYPES[type_name], Fleet(2)
    fleet.act(0, type_name, "add", "a")
    fleet.act(1, type_name, "add", "a")
    fleet.settle()
    assert fleet.act(0, type_name, "remove", "a") is True
    fleet.settle()
    assert [replica.value(datatype) for replica in fleet.replicas] == [[], []]
    assert fleet.act(0, type_name, "discard", "a") is False


def test_a_concurrent_addition_wins_or_loses_as_the_name_says() -> None:
    for type_name, expected in (("set", ["a"]), ("set_remove_wins", [])):
        fleet = Fleet(2)
        fleet.act(0, type_name, "add", "a")
        fleet.settle()
        fleet.act(0, type_name, "add", "a")
        fleet.act(1, type_name, "remove", "a")
        fleet.settle()
        assert fleet[0].value(DATATYPES[type_name]) == expected


@BOTH
def test_clear_takes_out_what_is_known_and_only_that(type_name: str) -> None:
    fleet = Fleet(2)
    fleet.act(0, type_name, "update", ["a", "b"])
    fleet.settle()
    fleet.act(1, type_name, "add", "c")
    fleet.act(0, type_name, "clear")
    fleet.settle()
    assert fleet[1].value(DATATYPES[type_name]) == ["c"]


@BOTH
def test_clear_upon_a_read_spares_what_was_not_read(type_name: str) -> None:
    datatype, fleet = DATATYPES[type_name], Fleet(1)
    fleet.act(0, type_name, "add", "a")
    seen = fleet[0].dots(datatype)
    fleet.act(0, type_name, "add", "b")
    fleet.act(0, type_name, "clear", observed=seen)
    assert fleet[0].value(datatype) == ["b"]


@BOTH
def test_the_cost_of_an_element_does_not_depend_on_the_others(type_name: str) -> None:
    fleet = Fleet(1)
    fleet.act(0, type_name, "update", [f"element {number}" for number in range(100)])
    fleet.act(0, type_name, "add", "one more")
    sizes = [len(data) for data in fleet.everything()]
    assert sizes[1] < 80


def test_an_element_removed_before_it_is_known_stays_out() -> None:
    fleet = Fleet(2)
    fleet.act(0, "set_remove_wins", "add", "a")
    fleet.act(1, "set_remove_wins", "remove", "a")
    fleet.settle()
    assert fleet[0].value(DATATYPES["set_remove_wins"]) == []
    # Having seen the removal, whoever adds it again puts it in.
    fleet.act(0, "set_remove_wins", "add", "a")
    fleet.settle()
    assert fleet[1].value(DATATYPES["set_remove_wins"]) == ["a"]


def test_membership_is_answered_from_one_field() -> None:
    fleet, reader = Fleet(1), HarnessReader()
    fleet.act(0, "set_remove_wins", "update", ["a", "b"])
    fleet.act(0, "set_remove_wins", "remove", "b")
    datatype = DATATYPES["set_remove_wins"]
    assert isinstance(datatype, RemoveWinsSet)
    place = fleet[0].place(datatype, "k")
    assert datatype.contains(place, "a", reader)
    assert not datatype.contains(place, "b", reader)
    assert not datatype.contains(place, "c", reader)
    assert not datatype.contains(None, "a", reader)


def test_trust_decides_which_elements_may_be_taken_out() -> None:
    fleet = Fleet(1, trust_ordered=True)
    fleet.act(0, "set", "add", "a", trust=5)
    assert fleet.act(0, "set", "remove", "a", trust=1) is False
    assert fleet[0].value(DATATYPES["set"]) == ["a"]
    fleet.act(0, "set_remove_wins", "add", "a", trust=5)
    with pytest.raises(ConditionFailed):
        fleet.act(0, "set_remove_wins", "remove", "a", trust=1)
    assert fleet[0].value(DATATYPES["set_remove_wins"]) == ["a"]


@BOTH
def test_update_takes_a_list(type_name: str) -> None:
    with pytest.raises(InvalidValue, match="pass a list"):
        Fleet(1).act(0, type_name, "update", "abc")
