"""Maps: members merge one by one, whatever they are and however deep."""

from __future__ import annotations

from typing import Any

import pytest

from crdtmem.crdt import DATATYPES
from crdtmem.crdt.member import Member, member_field, parse_field
from crdtmem.errors import InsufficientRights, InvalidValue, LimitExceeded, UnknownName
from tests.conformance.harness import Fleet, HarnessReader

MAP = DATATYPES["map"]
TYPED = [
    ("register", ("set", 1), 1),
    ("multi_value", ("set", 1), [1]),
    ("flag", ("enable",), True),
    ("flag_disable_wins", ("enable",), True),
    ("g_counter", ("increment", 2), 2),
    ("counter", ("increment", 2), 2),
    ("bounded_counter", ("mint", 2), {"available": 2, "consumed": 0, "rights": {f"{1:016x}": 2}}),
    ("set", ("add", "x"), ["x"]),
    ("set_remove_wins", ("add", "x"), ["x"]),
    ("log", ("append", "x"), ["x"]),
    ("document", ("update", b"\x00\x00"), {}),
]


def value(fleet: Fleet, index: int = 0) -> Any:
    """Return what one replica reads."""
    return fleet[index].value(MAP)


def also(fleet: Fleet) -> tuple[str, ...]:
    """Return under which names the first replica shows what had to yield."""
    return MAP.also(fleet[0].place(MAP, "k"), HarnessReader())


def test_members_written_in_different_regions_all_survive() -> None:
    fleet = Fleet(2)
    fleet.act(0, "map", "set", "name", "Ada")
    fleet.act(1, "map", "set", ["address", "city"], "London")
    fleet.act(1, "map", "update", {"born": 1815, "tags": ["x"]})
    fleet.settle()
    expected = {"name": "Ada", "address": {"city": "London"}, "born": 1815, "tags": ["x"]}
    assert value(fleet, 0) == value(fleet, 1) == expected


def test_update_may_write_below_a_path_and_refuses_whole() -> None:
    fleet = Fleet(1)
    fleet.act(0, "map", "update", {"a": 1, "b": 2}, ["deep", "er"])
    assert value(fleet) == {"deep": {"er": {"a": 1, "b": 2}}}
    with pytest.raises(InvalidValue):
        fleet.act(0, "map", "update", {"c": 3, "d": object()})
    with pytest.raises(InvalidValue, match="an update is a dict"):
        fleet.act(0, "map", "update", [("c", 3)])
    assert value(fleet) == {"deep": {"er": {"a": 1, "b": 2}}}


@pytest.mark.parametrize(("type_name", "operation", "expected"), TYPED)
def test_every_datatype_lives_in_a_map(
    type_name: str, operation: tuple[Any, ...], expected: Any
) -> None:
    fleet = Fleet(2)
    fleet.act(0, "map", "set", "beside", 1)
    fleet.act(0, "map", "apply", ["deep", "member"], type_name, *operation)
    fleet.settle()
    assert value(fleet, 1) == {"beside": 1, "deep": {"member": expected}}
    fleet.act(1 if type_name != "bounded_counter" else 0, "map", "delete", ["deep", "member"])
    fleet.settle()
    assert value(fleet, 0) == value(fleet, 1) == {"beside": 1}
    fleet.collect(0, "map")
    fleet.settle()
    assert len(fleet[1].dots(MAP)) == 1


def test_deleting_a_member_spares_what_is_written_concurrently_below_it() -> None:
    fleet = Fleet(2)
    fleet.act(0, "map", "update", {"a": 1, "b": 2}, "sub")
    fleet.settle()
    fleet.act(0, "map", "delete", "sub")
    fleet.act(1, "map", "set", ["sub", "b"], 3)
    fleet.act(1, "map", "set", ["sub", "c"], 4)
    fleet.settle()
    assert value(fleet, 0) == value(fleet, 1) == {"sub": {"b": 3, "c": 4}}


def test_deleting_upon_a_read_spares_what_was_not_read() -> None:
    fleet = Fleet(1)
    fleet.act(0, "map", "set", "a", 1)
    seen = fleet[0].dots(MAP)
    fleet.act(0, "map", "set", "b", 2)
    fleet.act(0, "map", "delete", observed=seen)
    assert value(fleet) == {"b": 2}


def test_a_prefix_is_one_of_names_not_of_letters() -> None:
    fleet = Fleet(1)
    fleet.act(0, "map", "update", {"a": 1, "ab": 2})
    fleet.act(0, "map", "set", ["a", "b"], 3)
    fleet.act(0, "map", "delete", "a")
    assert value(fleet) == {"ab": 2}


def test_a_name_that_holds_several_things_shows_them_all_and_says_so() -> None:
    fleet = Fleet(2)
    fleet.act(0, "map", "apply", "n", "counter", "increment", 5)
    assert also(fleet) == ()
    fleet.act(1, "map", "set", "n", "plain")
    fleet.act(1, "map", "apply", "n", "set", "add", "x")
    fleet.settle()
    assert value(fleet) == {"n": "plain", "n (counter)": 5, "n (set)": ["x"]}
    assert also(fleet) == ("n (counter)", "n (set)")
    fleet.act(0, "map", "set", ["n", "below"], 1)
    fleet.act(0, "map", "set", "n (register)", "taken")
    assert value(fleet)["n"] == {"below": 1}
    assert value(fleet)["n (register)"] == "taken"
    assert value(fleet)["n (register)'"] == "plain"
    # A member that goes leaves its name to the next.
    fleet.act(0, "map", "delete")
    assert value(fleet) == {}


def test_a_dict_is_one_value_unless_it_is_written_by_paths() -> None:
    fleet = Fleet(2)
    fleet.act(0, "map", "set", "whole", {"a": 1})
    fleet.act(1, "map", "set", "whole", {"b": 2})
    fleet.settle()
    assert value(fleet) == {"whole": {"b": 2}}
    conflicts = list(MAP.conflicts(fleet[0].place(MAP, "k"), HarnessReader()))
    assert [(parse_field(field), len(entries)) for field, entries in conflicts if field] == [
        (Member(("whole",), 1, None), 2)
    ]


def test_concurrent_counts_are_no_conflict() -> None:
    fleet = Fleet(2)
    fleet.act(0, "map", "apply", "n", "counter", "increment")
    fleet.act(1, "map", "apply", "n", "counter", "increment")
    fleet.settle()
    assert value(fleet) == {"n": 2}
    assert list(MAP.conflicts(fleet[0].place(MAP, "k"), HarnessReader())) == []


def test_a_map_with_rights_out_is_not_deleted() -> None:
    fleet = Fleet(2)
    fleet.act(0, "map", "apply", "budget", "bounded_counter", "mint", 5)
    fleet.act(0, "map", "set", "a", 1)
    fleet.settle()
    with pytest.raises(InsufficientRights):
        fleet.act(1, "map", "delete")
    assert set(value(fleet, 1)) == {"a", "budget"}


def test_what_may_expire_is_up_to_the_member() -> None:
    assert MAP.may_expire("set", ("a", 1))
    assert MAP.may_expire("apply", ("a", "set", "add", "x"))
    assert not MAP.may_expire("apply", ("a", "counter", "increment"))
    # It writes baselines and removals for the members that have them.
    assert not MAP.may_expire("delete", ())


@pytest.mark.parametrize("path", ["", [], [""], [1], 1, None, ["a", None], "\ud800"])
def test_what_is_no_path_is_refused(path: Any) -> None:
    with pytest.raises(InvalidValue):
        Fleet(1).act(0, "map", "set", path, 1)


@pytest.mark.parametrize("path", ["", [], None])
def test_deleting_everything_has_to_be_meant(path: Any) -> None:
    fleet = Fleet(1)
    fleet.act(0, "map", "set", "a", 1)
    with pytest.raises(InvalidValue):
        fleet.act(0, "map", "delete", path)
    assert value(fleet) == {"a": 1}


def test_paths_and_names_have_limits() -> None:
    with pytest.raises(LimitExceeded):
        Fleet(1).act(0, "map", "set", ["a"] * 33, 1)
    with pytest.raises(LimitExceeded):
        Fleet(1).act(0, "map", "set", "a" * 1025, 1)


def test_maps_nest_by_path_not_by_type() -> None:
    for type_name in ("map", "no_such_type", None):
        with pytest.raises(UnknownName) as refused:
            Fleet(1).act(0, "map", "apply", "a", type_name, "set", "b", 1)
        assert "nest by path" in refused.value.hint


def test_a_field_stands_for_one_place_and_is_read_back() -> None:
    dot = 7 << 64 | 9
    fields = [
        (member_field(("a", "b"), 1), Member(("a", "b"), 1, None)),
        (member_field(("a",), 6), Member(("a",), 6, None)),
        (member_field(("a",), 8, "x"), Member(("a",), 8, "x")),
        (member_field(("a",), 8, b"x"), Member(("a",), 8, b"x")),
        (member_field(("a",), 11, dot), Member(("a",), 11, dot)),
    ]
    assert len({field for field, _ in fields}) == len(fields)
    for field, member in fields:
        assert parse_field(field) == member


@pytest.mark.parametrize(
    "field",
    [b"", b"\xff", b"\x90", b"\x91\x01", b"\x92\x90\x06", b"\x93\x91\xa1a\x0b\x91\x01", "a", 5],
)
def test_a_field_of_another_form_is_passed_over(field: Any) -> None:
    assert parse_field(field) is None
