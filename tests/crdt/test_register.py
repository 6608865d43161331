"""Registers: concurrent values are kept, and read as the resolver says."""

from __future__ import annotations

from crdtmem.crdt import DATATYPES
from tests.conformance.harness import Fleet, HarnessReader

REGISTER, MULTI_VALUE = DATATYPES["register"], DATATYPES["multi_value"]


def test_concurrent_values_are_kept_until_someone_who_saw_them_writes() -> None:
    for type_name, datatype in (("register", REGISTER), ("multi_value", MULTI_VALUE)):
        fleet = Fleet(2)
        fleet.act(0, type_name, "set", "early")
        fleet.act(1, type_name, "set", "late")
        fleet.settle()
        assert len(fleet[0].dots(datatype)) == 2
        fleet.act(0, type_name, "set", "both seen")
        fleet.settle()
        assert len(fleet[1].dots(datatype)) == 1


def test_a_register_shows_the_latest_and_a_multi_value_all() -> None:
    fleet = Fleet(2)
    for type_name in ("register", "multi_value"):
        fleet.act(1, type_name, "set", "early")
        fleet.act(0, type_name, "set", "late")
    fleet.settle()
    assert fleet[0].value(REGISTER) == "late"
    assert fleet[0].value(MULTI_VALUE) == ["late", "early"]
    reader = HarnessReader()
    for datatype in (REGISTER, MULTI_VALUE):
        conflicts = list(datatype.conflicts(fleet[0].place(datatype, "k"), reader))
        assert [(field, len(entries)) for field, entries in conflicts] == [(None, 2)]


def test_a_write_upon_a_read_supersedes_what_was_read_and_no_more() -> None:
    fleet = Fleet(2)
    fleet.act(0, "register", "set", "read")
    seen = fleet[0].dots(REGISTER)
    fleet.act(1, "register", "set", "unread")
    fleet.settle()
    fleet.act(0, "register", "set", "written", observed=seen)
    values = {value for _, value, _ in fleet[0].place(REGISTER, "k")}
    assert values == {"unread", "written"}


def test_deleting_leaves_nothing_and_spares_a_concurrent_write() -> None:
    fleet = Fleet(2)
    fleet.act(0, "register", "set", "old")
    fleet.settle()
    fleet.act(0, "register", "delete")
    assert fleet[0].places() == {}
    fleet.act(1, "register", "set", "new")
    fleet.settle()
    assert fleet[0].value(REGISTER) == "new"


def test_a_write_never_supersedes_a_more_trusted_one() -> None:
    fleet = Fleet(1, trust_ordered=True)
    fleet.act(0, "register", "set", "trusted", trust=5)
    fleet.act(0, "register", "set", "doubtful", trust=1)
    assert len(fleet[0].dots(REGISTER)) == 2
    fleet.act(0, "register", "set", "trusted again", trust=5)
    assert fleet[0].value(REGISTER) == "trusted again"
    assert len(fleet[0].dots(REGISTER)) == 1
