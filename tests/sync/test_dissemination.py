"""What the benchmark of dissemination measures in full, held to its bounds in small."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.bench.dissemination import COPIES, IDLE_BYTES_PER_S, Case, measure


def test_all_that_are_joined_get_each_delta_once_and_directly() -> None:
    seen = measure(Case("joined", 10, writes=100))
    assert seen.copies == 1.0
    assert seen.streams == 9.0
    assert seen.slowest_ms < 2.0, "half a millisecond of a link and one of an fsync"


def test_regions_get_each_delta_once_over_two_relays() -> None:
    seen = measure(Case("regions", 12, regions=3, writes=200))
    assert seen.copies == 1.0
    # Two more links within regions, and two more commits.
    assert seen.p99_ms < 1.2 * (seen.direct_p99_ms + 2 * 1.5)


@pytest.mark.parametrize("seed", range(2))
def test_rings_shed_what_is_too_much(seed: int) -> None:
    seen = measure(Case("rings", 24, all_to_all=5, writes=600), seed=seed)
    assert seen.streams <= 4 + (24).bit_length()
    assert seen.copies <= COPIES
    assert seen.settled <= 1.05
    assert seen.slowest_ms < 50


def test_idle_streams_cost_next_to_nothing() -> None:
    assert measure(Case("idle", 5, writes=1)).idle_bytes_per_s < IDLE_BYTES_PER_S / 4


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.integers(7, 14),
    st.integers(0, 3),
    st.sampled_from([5, 50]),
    st.sampled_from([1, 2, 3]),
    st.integers(0, 99),
)
def test_whatever_relays_die_survivors_hold_all_that_survivors_wrote(
    nodes: int, deaths: int, all_to_all: int, regions: int, seed: int
) -> None:
    case = Case("drawn", nodes, regions, all_to_all, writes=60, pace_us=20_000, deaths=deaths)
    measure(case, seed=seed)
