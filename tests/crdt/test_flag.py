"""Flags: which way a tie falls, and what is left of it."""

from __future__ import annotations

import pytest

from crdtmem.crdt import DATATYPES
from crdtmem.errors import ConditionFailed
from tests.conformance.harness import Fleet

ENABLE_WINS = DATATYPES["flag"]
DISABLE_WINS = DATATYPES["flag_disable_wins"]


def switched_concurrently(type_name: str) -> Fleet:
    """Return a fleet in which one replica enabled while another disabled."""
    fleet = Fleet(2)
    fleet.act(0, type_name, "enable")
    fleet.settle()
    fleet.act(0, type_name, "enable")
    fleet.act(1, type_name, "disable")
    fleet.settle()
    return fleet


def test_concurrent_switching_falls_as_the_name_says() -> None:
    assert switched_concurrently("flag")[1].value(ENABLE_WINS) is True
    assert switched_concurrently("flag_disable_wins")[1].value(DISABLE_WINS) is False


@pytest.mark.parametrize("type_name", ["flag", "flag_disable_wins"])
def test_a_flag_follows_one_writer(type_name: str) -> None:
    datatype, fleet = DATATYPES[type_name], Fleet(2)
    assert fleet[0].value(datatype) is False
    fleet.act(0, type_name, "enable")
    assert fleet[0].value(datatype) is True
    assert fleet[0].exists(datatype)
    fleet.act(0, type_name, "disable")
    assert fleet[0].value(datatype) is False
    assert not fleet[0].exists(datatype)
    fleet.act(0, type_name, "enable")
    assert fleet[0].value(datatype) is True


def test_disabling_leaves_nothing_where_enabling_wins() -> None:
    fleet = Fleet(1)
    fleet.act(0, "flag", "enable")
    fleet.act(0, "flag", "disable")
    assert fleet[0].places() == {}


def test_disabling_removes_only_what_was_observed() -> None:
    fleet = Fleet(2)
    fleet.act(0, "flag", "enable")
    seen = fleet[0].dots(ENABLE_WINS)
    fleet.act(1, "flag", "enable")
    fleet.settle()
    fleet.act(0, "flag", "disable", observed=seen)
    assert fleet[0].value(ENABLE_WINS) is True


def test_enabling_supersedes_a_disabling_that_its_caller_had_not_seen() -> None:
    fleet = Fleet(2)
    fleet.act(0, "flag_disable_wins", "enable")
    seen = fleet[0].dots(DISABLE_WINS)
    fleet.act(0, "flag_disable_wins", "disable")
    # An enabling that left the disabling standing would be none at all.
    fleet.act(0, "flag_disable_wins", "enable", observed=seen)
    assert fleet[0].value(DISABLE_WINS) is True


def test_trust_decides_who_may_switch_back() -> None:
    fleet = Fleet(1, trust_ordered=True)
    fleet.act(0, "flag_disable_wins", "disable", trust=5)
    with pytest.raises(ConditionFailed, match="removal of higher trust"):
        fleet.act(0, "flag_disable_wins", "enable", trust=1)
    fleet.act(0, "flag_disable_wins", "enable", trust=5)
    with pytest.raises(ConditionFailed, match="presence of higher trust"):
        fleet.act(0, "flag_disable_wins", "disable", trust=1)
    assert fleet[0].value(DISABLE_WINS) is True


def test_a_stable_disabling_is_collected_with_the_enabling_that_it_beats() -> None:
    fleet = switched_concurrently("flag_disable_wins")
    assert len(fleet[0].dots(DISABLE_WINS)) == 2
    fleet.collect(0, "flag_disable_wins")
    assert fleet[0].places() == {}
    fleet.settle()
    assert fleet[1].places() == {}


def test_a_disabling_that_someone_has_not_acknowledged_is_kept() -> None:
    fleet = Fleet(3)
    fleet.act(0, "flag_disable_wins", "disable")
    fleet.pull(1, 0)
    fleet.acknowledge(0)
    fleet.acknowledge(1)
    fleet.collect(0, "flag_disable_wins")
    assert len(fleet[0].dots(DISABLE_WINS)) == 1
    # The third enables without having seen it, and must lose.
    fleet.act(2, "flag_disable_wins", "enable")
    fleet.settle()
    assert fleet[2].value(DISABLE_WINS) is False
