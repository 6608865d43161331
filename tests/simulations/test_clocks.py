"""Clocks are wrong in the ways that were asked for, and in no other."""

from __future__ import annotations

import pytest

from simulations.clocks import Clock
from simulations.kernel import EPOCH_US, Kernel

HOUR_US = 3_600_000_000


def later(kernel: Kernel, by_us: int) -> None:
    kernel.run(kernel.now_us + by_us)


def test_a_clock_is_right_until_it_is_made_wrong() -> None:
    kernel = Kernel(1)
    clock = Clock(kernel)
    later(kernel, 12_345)
    assert clock.now_us() == EPOCH_US + 12_345


def test_a_jump_moves_it_at_once_and_for_good() -> None:
    kernel = Kernel(1)
    clock = Clock(kernel, offset_us=500)
    clock.jump(-2_000)
    assert clock.now_us() == EPOCH_US - 1_500
    later(kernel, HOUR_US)
    assert clock.now_us() == kernel.now_us - 1_500


def test_drift_begins_where_the_clock_stands() -> None:
    kernel = Kernel(1)
    clock = Clock(kernel, offset_us=7)
    later(kernel, HOUR_US)
    clock.drift(200)
    assert clock.now_us() == kernel.now_us + 7
    later(kernel, 1_000_000)
    assert clock.now_us() == kernel.now_us + 7 + 200
    clock.drift(-100)
    later(kernel, 1_000_000)
    assert clock.now_us() == kernel.now_us + 7 + 200 - 100


def test_a_clock_that_is_cured_of_drift_stays_off_by_what_it_drifted() -> None:
    kernel = Kernel(1)
    clock = Clock(kernel, drift_ppm=1_000)
    later(kernel, HOUR_US)
    clock.drift(0)
    later(kernel, HOUR_US)
    assert clock.now_us() - kernel.now_us == HOUR_US // 1_000


def test_no_clock_shows_a_time_before_1970() -> None:
    clock = Clock(Kernel(1))
    clock.jump(-3 * EPOCH_US)
    assert clock.now_us() == 0


def test_reading_changes_nothing() -> None:
    kernel = Kernel(1)
    clock = Clock(kernel, offset_us=5, drift_ppm=31)
    later(kernel, HOUR_US)
    assert clock.now_us() == clock.now_us()


@pytest.mark.parametrize("drift_ppm", [-400, -1, 0, 1, 250])
def test_a_delay_in_true_time_ends_when_the_clock_shows_so(drift_ppm: int) -> None:
    kernel = Kernel(1)
    clock = Clock(kernel, offset_us=-90, drift_ppm=drift_ppm)
    until_us = clock.now_us() + 10 * HOUR_US
    delay_us = clock.true_delay_us(until_us)
    later(kernel, delay_us - 2)
    assert clock.now_us() < until_us
    later(kernel, 2)
    assert clock.now_us() >= until_us
    assert clock.true_delay_us(until_us) == 0
