"""Whom to stream with: one dials, the other waits; what differs in silence is looked into."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from crdtmem.links import Links

SECOND = 1_000_000


def links(me: int, **wanted: str) -> Links:
    made = Links(me)
    made.members({int(name[1:]): address for name, address in wanted.items()}, {}, (), 0)
    return made


def test_the_lower_id_dials_at_once_and_the_higher_only_in_vain() -> None:
    lower, higher = links(1, m2="b:1"), links(2, m1="a:1")
    assert lower.look(0).dial == {2: "b:1"}
    assert higher.look(0).dial == {}
    assert higher.next_deadline_us(0) == 2 * SECOND
    assert higher.look(2 * SECOND).dial == {1: "a:1"}


def test_who_came_by_itself_is_not_dialled_until_it_is_gone_for_a_while() -> None:
    higher = links(2, m1="a:1")
    higher.streams([1], SECOND)
    assert higher.next_deadline_us(SECOND) is None
    higher.streams([], 5 * SECOND)
    assert higher.look(6 * SECOND).dial == {}
    assert higher.look(7 * SECOND).dial == {1: "a:1"}


def test_a_stream_that_is_no_longer_asked_for_ends_after_a_grace() -> None:
    mine = links(1, m2="b:1")
    mine.streams([2], 0)
    mine.members({}, {2: "b:1"}, (), SECOND)
    assert mine.look(SECOND).hang_up == ()
    assert mine.next_deadline_us(SECOND) == 11 * SECOND
    assert mine.look(11 * SECOND).hang_up == (2,)


def test_a_passing_doubt_costs_no_stream() -> None:
    mine = links(1, m2="b:1")
    mine.streams([2], 0)
    mine.members({}, {2: "b:1"}, (), SECOND)
    mine.members({2: "b:1"}, {}, (), 5 * SECOND)
    assert mine.look(30 * SECOND).hang_up == ()


def test_who_left_is_hung_up_on_in_the_end_and_who_is_unknown_is_let_be() -> None:
    mine = links(1)
    mine.streams([2, 3], 0)
    mine.members({}, {}, [2], 0)
    # It ends its stream itself, behind what it wrote last.
    assert mine.look(9 * SECOND).hang_up == ()
    assert mine.next_deadline_us(9 * SECOND) == 10 * SECOND
    assert mine.look(60 * SECOND).hang_up == (2,)


def test_quiet_and_different_is_compared_once() -> None:
    mine = links(1, m2="b:1")
    mine.streams([2], 0)
    mine.own(b"x", 0)
    mine.heard(2, b"y", SECOND // 2)
    assert mine.look(SECOND).compare == ()
    assert mine.next_deadline_us(SECOND) == 3 * SECOND // 2
    assert mine.look(3 * SECOND // 2).compare == (2,)
    assert mine.look(9 * SECOND).compare == (), "the same two hashes are asked about once"
    mine.own(b"z", 9 * SECOND)
    assert mine.look(10 * SECOND).compare == (2,)


def test_what_still_changes_is_left_alone() -> None:
    mine = links(1, m2="b:1")
    mine.streams([2], 0)
    mine.heard(2, b"y", 0)
    for second in range(10):
        mine.own(b"%d" % second, second * SECOND)
        assert mine.look(second * SECOND + SECOND // 2).compare == ()


def test_a_detour_is_taken_and_given_up_when_the_hashes_meet() -> None:
    mine = links(1)
    mine.members({}, {2: "b:1"}, (), 0)
    mine.own(b"x", 0)
    mine.heard(2, b"y", 0)
    assert mine.look(SECOND).dial == {2: "b:1"}
    mine.streams([2], 2 * SECOND)
    assert mine.look(60 * SECOND).hang_up == ()
    mine.own(b"y", 60 * SECOND)
    assert mine.look(61 * SECOND) == ({}, (), ())
    assert mine.look(71 * SECOND).hang_up == (2,)


def test_detours_are_few() -> None:
    mine = Links(1)
    mine.members({}, {one: f"m:{one}" for one in range(2, 12)}, (), 0)
    mine.own(b"x", 0)
    for one in range(2, 12):
        mine.heard(one, b"y", 0)
    assert len(mine.look(SECOND).dial) == 3
    mine.members({}, {}, (), 2 * SECOND)
    assert mine.look(2 * SECOND).dial == {}


steps = st.lists(
    st.one_of(
        st.tuples(st.just("members"), st.sets(st.integers(1, 6)), st.sets(st.integers(1, 6))),
        st.tuples(st.just("streams"), st.sets(st.integers(1, 6)), st.just(set[int]())),
        st.tuples(st.just("heard"), st.sets(st.integers(1, 6)), st.sets(st.integers(1, 2))),
        st.tuples(st.just("own"), st.sets(st.integers(1, 2)), st.just(set[int]())),
    ),
    max_size=30,
)


@given(steps, st.integers(1, 6))
def test_whatever_happens_only_the_living_are_dialled(
    given_steps: list[tuple[str, set[int], set[int]]], me: int
) -> None:
    mine = Links(me)
    living: set[int] = set()
    now_us = 0
    for kind, first, second in given_steps:
        now_us += SECOND
        if kind == "members":
            living = (first | second) - {me}
            wanted = {one: f"m:{one}" for one in first}
            mine.members(wanted, {one: f"m:{one}" for one in second}, (), now_us)
        elif kind == "streams":
            mine.streams(first - {me}, now_us)
        elif kind == "heard":
            for one in first:
                mine.heard(one, bytes(sorted(second)), now_us)
        else:
            mine.own(bytes(sorted(first)), now_us)
        seen = mine.look(now_us)
        assert seen.dial.keys() <= living
        assert me not in seen.dial
        due_us = mine.next_deadline_us(now_us)
        assert due_us is None or due_us > now_us


def test_a_double_is_dialled_until_somebody_else_lives_there() -> None:
    mine = links(2, m3="c:1")
    mine.doubled("b:1", "x:1")
    assert mine.look(0).dial == {2: "x:1", 3: "c:1"}
    mine.members({3: "c:1"}, {}, (), SECOND)
    assert mine.look(9 * SECOND).dial == {2: "x:1", 3: "c:1"}, "it was not met yet"
    mine.members({3: "c:1"}, {7: "x:1"}, (), 10 * SECOND)
    assert mine.look(10 * SECOND).dial == {3: "c:1"}


def test_neither_oneself_nor_a_member_is_taken_for_a_double() -> None:
    mine = links(2, m3="c:1")
    mine.doubled("b:1", "b:1")
    mine.doubled("b:1", "c:1")
    assert mine.look(0).dial == {3: "c:1"}
