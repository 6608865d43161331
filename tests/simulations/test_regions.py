"""Latencies are those of a globe."""

from __future__ import annotations

from itertools import combinations

import pytest

from simulations.regions import LOCAL_US, REGIONS, one_way_us


def test_fifty_regions_lie_on_the_globe() -> None:
    assert len(REGIONS) == 50
    assert len(set(REGIONS.values())) == 50
    for latitude, longitude in REGIONS.values():
        assert -90 <= latitude <= 90
        assert -180 <= longitude <= 180


def test_latency_is_symmetric_and_never_below_that_of_one_building() -> None:
    for here, there in combinations(REGIONS, 2):
        assert one_way_us(here, there) == one_way_us(there, here) > LOCAL_US
    assert one_way_us("eu-west", "eu-west") == LOCAL_US


def test_no_pair_is_slower_than_the_other_side_of_the_world() -> None:
    # Half the equator at two thirds of the speed of light, with the detours.
    assert max(one_way_us(*pair) for pair in combinations(REGIONS, 2)) < 165_000


def test_detours_do_not_pay() -> None:
    # Distances on a sphere keep the triangle inequality; equipment only helps it.
    names = list(REGIONS)[:16]
    for here, there in combinations(names, 2):
        for between in names:
            assert one_way_us(here, there) <= (
                one_way_us(here, between) + one_way_us(between, there)
            )


@pytest.mark.parametrize(
    ("here", "there", "published_ms"),
    [
        ("eu-central", "us-east", 45),
        ("us-east", "us-west", 33),
        ("eu-west", "ap-southeast", 90),
        ("eu-west", "eu-central", 12),
    ],
)
def test_published_latencies_are_met(here: str, there: str, published_ms: int) -> None:
    assert one_way_us(here, there) == pytest.approx(published_ms * 1_000, rel=0.2)


def test_an_unknown_region_is_an_error() -> None:
    with pytest.raises(KeyError):
        one_way_us("eu-west", "atlantis")
