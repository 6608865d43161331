"""The hybrid clock: orders that only rise, stamps that never adopt another machine's time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from crdtmem.clock import HybridClock

TIMES = st.integers(0, 100)
STEPS = st.lists(st.tuples(st.sampled_from(["tick", "receive"]), TIMES), max_size=30)


@given(STEPS)
def test_orders_rise_beyond_everything_joined_and_stamps_never_step_back(
    steps: list[tuple[str, int]],
) -> None:
    clock = HybridClock()
    joined = issued = physical = 0
    for what, number in steps:
        if what == "receive":
            clock.receive(number)
            joined = max(joined, number)
        else:
            order, stamp = clock.tick(number)
            assert order > max(issued, joined)
            assert order >= stamp >= max(physical, number)
            issued, physical = order, stamp


def test_a_peer_from_the_future_moves_the_order_and_not_the_stamp() -> None:
    clock = HybridClock()
    clock.receive(1_000_000)
    assert clock.tick(50) == (1_000_001, 50)


def test_while_clocks_are_sane_the_order_is_real_time() -> None:
    clock = HybridClock()
    assert clock.tick(100) == (100, 100)
    assert clock.tick(100) == (101, 100)
    assert clock.tick(200) == (200, 200)


def test_a_restart_with_a_clock_set_back_continues_beyond_what_was_issued() -> None:
    clock = HybridClock()
    clock.tick(500)
    issued = clock.tick(500)
    again = HybridClock()
    again.recover(*issued)
    order, stamp = again.tick(3)
    assert order > issued[0]
    assert stamp >= issued[1]


def test_recovering_older_stamps_changes_nothing() -> None:
    clock = HybridClock(50, 40)
    clock.recover(10, 10)
    assert (clock.order, clock.physical_us) == (50, 40)
