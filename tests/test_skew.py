"""Clock skew is judged by the median, named once, and taken back once."""

from __future__ import annotations

from typing import Any

import pytest

from crdtmem.batch import Batch, BatchHeader
from crdtmem.effects import Alarm
from crdtmem.skew import SkewWatch

SECOND_US = 1_000_000
BOUND_US = 500_000


def names(effects: list[object]) -> list[tuple[str, int]]:
    """The alarms, and whom each names."""
    return [(e.name, e.details["replica"]) for e in effects if isinstance(e, Alarm)]


def test_two_clocks_cannot_tell_which_of_them_is_wrong() -> None:
    watch = SkewWatch(1, BOUND_US)
    assert watch.look({2: 90 * SECOND_US}, SECOND_US) == []


@pytest.mark.parametrize(
    ("offsets_us", "culprit"),
    [({2: 0, 3: 2 * SECOND_US}, 3), ({2: 2 * SECOND_US, 3: 2 * SECOND_US + 9}, 1)],
)
def test_the_one_off_the_median_is_named(offsets_us: dict[int, int], culprit: int) -> None:
    watch = SkewWatch(1, BOUND_US)
    assert names(list(watch.look(offsets_us, SECOND_US))) == [("clock skew", culprit)]


def test_an_alarm_is_raised_once_and_taken_back_once() -> None:
    watch = SkewWatch(1, BOUND_US)
    wrong, right = {2: 0, 3: SECOND_US}, {2: 0, 3: 10}
    told = [names(list(watch.look(o, at * SECOND_US))) for at, o in
            enumerate((wrong, wrong, right, right), 1)]  # fmt: skip
    assert told == [[("clock skew", 3)], [], [("clock sane", 3)], []]


def test_within_a_second_it_does_not_look_again() -> None:
    watch = SkewWatch(1, BOUND_US)
    assert watch.look({2: 0, 3: 0}, SECOND_US) == []
    assert watch.look({2: 0, 3: 9 * SECOND_US}, SECOND_US + 1) == []


def test_clocks_that_only_probes_measured_count_and_streams_know_better() -> None:
    watch = SkewWatch(1, BOUND_US)
    watch.probed_us = {2: 0, 3: SECOND_US, 4: 7 * SECOND_US}
    # The stream's own measure of 4 is the newer one.
    assert names(list(watch.look({4: 10}, SECOND_US))) == [("clock skew", 3)]
    watch.probed_us = {2: 0, 3: 0}
    assert names(list(watch.look({}, 2 * SECOND_US))) == [("clock sane", 3)]


def test_stamps_from_the_future_are_counted_by_origin() -> None:
    watch = SkewWatch(1, BOUND_US)
    stamps: list[Any] = [
        (1, SECOND_US, {}, 0),
        (2, 2 * SECOND_US, {}, 0),
        (3, 3 * SECOND_US, {}, 0),
    ]
    batch = Batch(BatchHeader(7, 1, 3, bytes(16), "eu", {}), stamps, [], b"", b"")
    watch.note(batch, SECOND_US)
    assert watch.future_stamps == {7: 2}
