"""Worlds of few and of very many machines run and agree; the benchmark measures what it says."""

from __future__ import annotations

import pytest

from tests.bench.simulator import Kind, Plan, kinds, measured, timed


def test_the_benchmark_times_the_world_that_it_names() -> None:
    row = measured(Kind("5 nodes, transactions of 10, eager", 5, 10, False, 2), 2).as_value()
    assert row["peer_value"] == 1_000
    assert row["target"] == 1_000
    assert row["value"] > 0
    assert row["events_per_s"] > row["messages_per_s"] > 10 * 4, "each of ten commits goes to four"


def test_it_names_the_sizes_that_the_simulator_is_held_to() -> None:
    assert {kind.nodes for kind in kinds(Plan())} == {5, 100, 500}
    assert {kind.writes for kind in kinds(Plan())} == {1, 10, 20}


def test_grouped_worlds_commit_less_often() -> None:
    eager, grouped = (timed(Kind("five", 5, 1, grouped, 2)) for grouped in (False, True))
    assert grouped.events * 3 < eager.events


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_hundred_machines_agree_through_relays() -> None:
    timing = timed(Kind("a hundred", 100, 20, True, 2))
    # Ten transactions of which nearly everybody hears through somebody else.
    assert timing.messages > 10 * 99
