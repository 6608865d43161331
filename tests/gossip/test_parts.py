"""The small parts of a pool: deadlines, health, damping, suspicion, samples, turns."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip.agenda import Agenda
from gossip.config import LAN, LOCAL, WAN, Config
from gossip.damping import Damping
from gossip.health import Health
from gossip.probing import Rotation
from gossip.round_trips import RoundTrips
from gossip.suspicion import REFUSAL, Suspicion, minimum_us

SECOND = 1_000_000

# ------------------------------------------------------------------ deadlines


@given(
    st.lists(
        st.tuples(st.sampled_from(["set", "cancel", "pop"]), st.integers(0, 5), st.integers(0, 20))
    )
)
def test_an_agenda_behaves_like_a_dictionary_of_deadlines(
    steps: list[tuple[str, int, int]],
) -> None:
    agenda: Agenda[int] = Agenda()
    model: dict[int, int] = {}
    for what, key, at in steps:
        if what == "set":
            agenda.set(key, at)
            model[key] = at
        elif what == "cancel":
            agenda.cancel(key)
            model.pop(key, None)
        else:
            popped = agenda.pop(at)
            if popped is None:
                assert all(due > at for due in model.values())
            else:
                found, due = popped
                assert due == min(model.values())
                assert model.pop(found) == due
        assert agenda.next_us() == min(model.values(), default=None)
        assert len(agenda) == len(model)
        assert agenda.due_us(key) == model.get(key)


def test_equal_deadlines_come_in_the_order_in_which_they_were_set() -> None:
    agenda: Agenda[str] = Agenda()
    for key in ("b", "a", "c"):
        agenda.set(key, 7)
    assert [agenda.pop(7) for _ in range(4)] == [("b", 7), ("a", 7), ("c", 7), None]


def _heap_within_its_bound(agenda: Agenda[int]) -> bool:
    return len(agenda._heap) <= 2 * len(agenda) + 64


def test_an_agenda_does_not_grow_by_what_is_moved() -> None:
    agenda: Agenda[int] = Agenda()
    for at in range(10_000):
        agenda.set(at % 3, at)
        assert _heap_within_its_bound(agenda)
    agenda.clear()
    assert agenda.next_us() is None


def test_an_agenda_shrinks_with_what_is_cancelled_and_what_is_taken() -> None:
    cancelled: Agenda[int] = Agenda()
    taken: Agenda[int] = Agenda()
    for key in range(1_000):
        cancelled.set(key, key)
        taken.set(key, 10_000)
        # Moved far away: what is left behind of it lies deep in the heap.
        taken.set(key, key)
    for key in range(1_000):
        cancelled.cancel(999 - key)
        assert taken.pop(key) == (key, key)
        assert _heap_within_its_bound(cancelled)
        assert _heap_within_its_bound(taken)
    assert cancelled.next_us() is None
    assert taken.next_us() is None


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["set", "cancel", "pop"]),
            st.integers(0, 250),
            st.integers(1, 250),
            st.integers(0, 1_000),
        ),
        max_size=60,
    )
)
def test_the_heap_of_an_agenda_stays_within_its_bound(
    steps: list[tuple[str, int, int, int]],
) -> None:
    """Each step is taken with many keys, for the bound begins to bind above 64 entries."""
    agenda: Agenda[int] = Agenda()
    keys: set[int] = set()
    for what, first, count, at in steps:
        for key in range(first, first + count):
            if what == "set":
                agenda.set(key, at - key)
                keys.add(key)
            elif what == "cancel":
                agenda.cancel(key)
                keys.discard(key)
            elif (popped := agenda.pop(at)) is not None:
                keys.remove(popped[0])
            assert _heap_within_its_bound(agenda)
    assert len(agenda) == len(keys)
    left = []
    while (popped := agenda.pop(2_000)) is not None:
        left.append(popped[0])
    assert sorted(left) == sorted(keys)


# ------------------------------------------------------------------ health and damping


def test_health_stays_within_its_bounds_and_scales() -> None:
    health = Health(3)
    assert health.scaled(10) == 10
    for _ in range(9):
        health.worse()
    assert health.score == 3
    assert health.scaled(10) == 40
    for _ in range(9):
        health.better()
    assert health.score == 0


def test_damping_begins_at_the_limit_and_ends_below_its_half() -> None:
    damping = Damping(half_life_us=60 * SECOND, limit=4)
    for at in range(4):
        assert not damping.damped(at)
        damping.charge(at)
    assert damping.damped(4)
    assert damping.damped(59 * SECOND)
    assert not damping.damped(61 * SECOND)
    damping.charge(62 * SECOND)
    assert not damping.damped(62 * SECOND), "one death more is not a storm"


def test_a_long_storm_is_forgiven_in_bounded_time() -> None:
    damping = Damping(half_life_us=SECOND, limit=4)
    for at in range(1_000):
        damping.charge(at)
    assert damping.damped(2 * SECOND - 10_000)
    assert not damping.damped(2 * SECOND + 10_000)
    assert damping.penalty(1_000 * SECOND) == 0


# ------------------------------------------------------------------ suspicion


def suspicion(config: Config = LAN, *, members: int, alone: bool = False) -> Suspicion:
    return Suspicion(config, members=members, accuser=1, started_us=0, alone=alone)


@pytest.mark.parametrize(
    ("config", "members", "least_s", "longest_s"),
    [
        (LAN, 2, 4, 8),  # nobody could confirm: twice the least
        (LAN, 3, 4, 24),
        (LAN, 5, 4, 24),
        (LAN, 100, 8, 48),
        (LAN, 1_000, 12, 72),
        (LOCAL, 5, 3, 18),
        (WAN, 5, 30, 180),
    ],
)
def test_the_time_to_refute(config: Config, members: int, least_s: int, longest_s: int) -> None:
    found = suspicion(config, members=members)
    assert found.least_us == least_s * SECOND == minimum_us(config, members)
    assert found.longest_us == longest_s * SECOND
    assert found.deadline_us() == longest_s * SECOND


def test_independent_accusers_shorten_it_each_once() -> None:
    found = suspicion(members=20)
    assert not found.confirm(1), "the first accuser is not its own confirmation"
    assert found.confirm(2)
    assert not found.confirm(2)
    between = found.deadline_us()
    assert found.least_us < between < found.longest_us
    assert found.wanted
    assert found.confirm(3)
    assert found.deadline_us() == found.least_us
    assert not found.confirm(4), "no more than are wanted are kept"
    assert found.confirmations == 2


def test_a_refusal_is_one_confirmation_and_no_more() -> None:
    found = suspicion(members=20)
    assert found.confirm(REFUSAL)
    assert not found.confirm(REFUSAL)
    assert found.deadline_us() > found.least_us


def test_one_confirmation_is_enough_where_only_one_could_confirm() -> None:
    found = suspicion(members=3)
    assert found.confirm(2)
    assert found.deadline_us() == found.least_us


def test_who_hears_nobody_waits_twice_the_least_whatever_the_size() -> None:
    found = suspicion(members=20, alone=True)
    assert found.longest_us == 2 * found.least_us


@given(st.integers(2, 1_000), st.lists(st.integers(0, 30), max_size=40))
def test_the_deadline_never_moves_away(members: int, accusers: list[int]) -> None:
    found = suspicion(members=members)
    last = found.deadline_us()
    for accuser in accusers:
        found.confirm(accuser)
        assert found.least_us <= found.deadline_us() <= last
        last = found.deadline_us()


def test_another_is_believed_after_half_of_the_least() -> None:
    found = suspicion(members=5)
    assert not found.credible(2 * SECOND - 1)
    assert found.credible(2 * SECOND)


# ------------------------------------------------------------------ round trips and offsets


def sample(trips: RoundTrips, *, there: int, back: int, ahead: int, step: int = 0) -> bool:
    """Add a probe with these ways, to a clock that is so far ahead."""
    sent, held = 1_000_000_000, 30
    heard = sent + there + ahead
    return trips.add(
        elapsed_us=there + held + back, sent_us=sent, heard_us=heard, answered_us=heard + held,
        received_us=sent + there + held + back + step,
    )  # fmt: skip


def test_the_shortest_round_trip_has_the_best_offset() -> None:
    trips = RoundTrips()
    assert trips.round_trip_us is None
    assert trips.clock_offset_us is None
    assert sample(trips, there=50_000, back=1_000, ahead=7_000)
    assert trips.clock_offset_us == 7_000 + (50_000 - 1_000) // 2
    assert sample(trips, there=400, back=600, ahead=7_000)
    assert trips.clock_offset_us == 7_000 - 100
    assert sample(trips, there=30_000, back=70_000, ahead=7_000)
    assert trips.clock_offset_us == 7_000 - 100
    assert trips.round_trip_us == 51_000, "the median"


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(-(10**8), 10**8))
def test_an_offset_is_wrong_by_half_of_the_round_trip_at_most(
    there: int, back: int, ahead: int
) -> None:
    trips = RoundTrips()
    assert sample(trips, there=there, back=back, ahead=ahead)
    offset = trips.clock_offset_us
    assert offset is not None
    assert abs(offset - ahead) <= (there + back) / 2 + 1


def test_a_clock_that_steps_during_a_probe_spoils_only_the_offset() -> None:
    trips = RoundTrips()
    assert not sample(trips, there=500, back=500, ahead=0, step=5_000_000)
    assert trips.clock_offset_us is None
    assert trips.round_trip_us == 1_000


def test_impossible_times_are_not_taken() -> None:
    trips = RoundTrips()
    assert not trips.add(elapsed_us=10, sent_us=0, heard_us=100, answered_us=99, received_us=10)
    assert not trips.add(elapsed_us=10, sent_us=0, heard_us=100, answered_us=111, received_us=10)
    assert trips.round_trip_us is None


def test_only_the_last_eight_samples_count() -> None:
    trips = RoundTrips()
    sample(trips, there=1, back=1, ahead=123)
    for _ in range(8):
        sample(trips, there=500, back=500, ahead=-5)
    assert trips.clock_offset_us == -5


# ------------------------------------------------------------------ turns


@pytest.mark.parametrize("count", [1, 2, 4, 5, 60])
def test_everybody_has_a_turn_in_every_round(count: int) -> None:
    rotation = Rotation(Random(1))
    living = list(range(1, count + 1))
    for _ in range(5):
        assert sorted(rotation.next(living) or 0 for _ in living) == living


def test_newcomers_get_a_turn_in_the_same_round() -> None:
    places = set()
    for seed in range(20):
        rotation = Rotation(Random(seed))
        living = list(range(1, 21))
        assert rotation.next(living) is not None
        rotation.add(99)
        rotation.add(99)
        order = [rotation.next(living) for _ in range(20)]
        assert order.count(99) == 1
        places.add(order.index(99))
    assert len(places) > 5, "at random, or newcomers would all be probed at once by everybody"


def test_a_rotation_without_members_has_no_turn() -> None:
    assert Rotation(Random(0)).next([]) is None
