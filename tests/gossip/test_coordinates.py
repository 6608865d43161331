"""Network coordinates: what is learnt, and what is refused."""

from __future__ import annotations

from math import inf, isfinite, nan
from random import Random
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip.coordinates import DIMENSIONS, ORIGIN, Place, check, distance_s
from gossip.errors import Malformed
from gossip.messages import Coordinate


def test_places_come_to_tell_round_trips() -> None:
    # Three sites with 2 ms within each and 40 to 120 ms between them.
    between = [[2, 40, 80], [40, 2, 120], [80, 120, 2]]
    chance = Random(5)
    places = [Place(Random(seed)) for seed in range(15)]
    for _ in range(400):
        for one, place in enumerate(places):
            other = chance.randrange(len(places))
            if other != one:
                trip_us = between[one % 3][other % 3] * 1_000
                place.update(places[other].value, trip_us)
    errors = []
    for one, place in enumerate(places):
        for other in range(one):
            trip_s = between[one % 3][other % 3] / 1e3
            errors.append(abs(distance_s(place.value, places[other].value) - trip_s) / trip_s)
    assert median(errors) < 0.15


@pytest.mark.parametrize(
    "bad",
    [
        Coordinate((nan,) * DIMENSIONS, 0.1, 0.1),
        Coordinate((0.0,) * (DIMENSIONS - 1) + (inf,), 0.1, 0.1),
        Coordinate((0.0,) * DIMENSIONS, nan, 0.1),
        Coordinate((0.0,) * DIMENSIONS, -0.1, 0.1),
        Coordinate((0.0,) * DIMENSIONS, 0.1, inf),
        Coordinate((0.0,) * DIMENSIONS, 0.1, 2.0),
        Coordinate((1e300,) * DIMENSIONS, 0.1, 0.1),
        Coordinate((0.0,) * (DIMENSIONS + 1), 0.1, 0.1),
        Coordinate((), 0.1, 0.1),
    ],
)
def test_bad_places_are_refused_and_change_nothing(bad: Coordinate) -> None:
    place = Place(Random(0))
    place.update(ORIGIN, 5_000)
    before = place.value
    with pytest.raises(Malformed):
        place.update(bad, 5_000)
    with pytest.raises(Malformed):
        place.update(ORIGIN, 0)
    with pytest.raises(Malformed):
        place.update(ORIGIN, 61_000_000)
    assert place.value == before


_part = st.floats(-60, 60)


@given(
    st.lists(
        st.tuples(
            st.tuples(*[_part] * DIMENSIONS), st.floats(0, 60), st.floats(0, 1.5),
            st.integers(1, 60_000_000),
        ),
        max_size=30,
    )
)  # fmt: skip
def test_whatever_is_taken_one_s_own_place_stays_a_place(
    heard: list[tuple[tuple[float, ...], float, float, int]],
) -> None:
    place = Place(Random(0))
    for vector, height, error, trip_us in heard:
        place.update(Coordinate(vector, height, error), trip_us)
        check(place.value)
        assert isfinite(distance_s(place.value, ORIGIN))
