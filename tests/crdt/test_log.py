"""Logs: everything once, in one order."""

from __future__ import annotations

from typing import Any, cast

import pytest

from crdtmem.crdt import DATATYPES
from crdtmem.crdt.log import Log
from crdtmem.entries import unpack_dot
from crdtmem.errors import InvalidValue
from tests.conformance.harness import Fleet, HarnessReader

LOG = cast("Log", DATATYPES["log"])


def test_everyone_sees_one_order_that_extends_causality() -> None:
    fleet = Fleet(3)
    fleet.act(2, "log", "append", "question")
    fleet.settle()
    fleet.act(0, "log", "append", "answer")
    fleet.act(1, "log", "extend", ["other answer", "and more"])
    fleet.settle()
    expected = ["question", "answer", "other answer", "and more"]
    assert [replica.value(LOG) for replica in fleet.replicas] == [expected] * 3


def test_appending_concerns_no_entry_that_is_there() -> None:
    fleet = Fleet(1)
    fleet.act(0, "log", "append", "a")
    dot = fleet.act(0, "log", "append", "b", observed=())
    assert fleet[0].value(LOG) == ["a", "b"]
    assert dot in fleet[0].dots(LOG)


def test_a_retry_through_another_replica_is_shown_once() -> None:
    fleet = Fleet(2)
    fleet.act(0, "log", "extend", ["a", "a", "b"], operation_id=b"op")
    fleet.act(1, "log", "extend", ["a", "a", "b"], operation_id=b"op")
    fleet.act(1, "log", "append", "a", operation_id=b"another")
    fleet.settle()
    assert fleet[0].value(LOG) == fleet[1].value(LOG) == ["a", "a", "b", "a"]


def test_removing_an_entry_removes_what_its_retry_left_behind() -> None:
    fleet = Fleet(2)
    fleet.act(0, "log", "append", "secret", operation_id=b"op")
    fleet.act(1, "log", "append", "secret", operation_id=b"op")
    fleet.settle()
    shown = LOG.entries(fleet[1].place(LOG, "k"), HarnessReader())
    assert fleet.act(1, "log", "remove", [unpack_dot(shown[0][0])]) == 1
    fleet.settle()
    assert fleet[0].value(LOG) == []
    assert fleet[0].places() == {}


def test_removing_names_entries_by_dot_and_counts_those_that_were_held() -> None:
    fleet = Fleet(1)
    dot = fleet.act(0, "log", "append", "a")
    fleet.act(0, "log", "append", "b")
    assert fleet.act(0, "log", "remove", [dot, list(unpack_dot(dot)), [9, 9]]) == 1
    assert fleet[0].value(LOG) == ["b"]


@pytest.mark.parametrize("dots", ["text", 5, None, [None], [[1]], [[1, "2"]], [[1, 0]], [5]])
def test_what_is_no_dot_is_refused(dots: Any) -> None:
    with pytest.raises(InvalidValue):
        Fleet(1).act(0, "log", "remove", dots)


def test_a_cursor_is_a_vector_so_nothing_that_comes_late_is_missed() -> None:
    fleet, reader = Fleet(2), HarnessReader()
    fleet.act(0, "log", "append", "early")
    fleet.act(1, "log", "append", "seen")
    cursor = fleet[1].vector.copy()
    assert LOG.since(fleet[1].place(LOG, "k"), reader, cursor) == []
    fleet.act(1, "log", "append", "late")
    fleet.settle()
    assert fleet[1].value(LOG) == ["early", "seen", "late"]
    assert LOG.since(fleet[1].place(LOG, "k"), reader, cursor) == ["early", "late"]


def test_extend_takes_a_list_and_refuses_whole() -> None:
    fleet = Fleet(1)
    with pytest.raises(InvalidValue, match="pass a list"):
        fleet.act(0, "log", "extend", "text")
    with pytest.raises(InvalidValue):
        fleet.act(0, "log", "extend", ["fine", object()])
    assert fleet[0].value(LOG) == []
