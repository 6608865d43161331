"""The benchmark's own parts: intervals, rows without a peer, serf's log, the picture."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.bench.gossip_agents import serf_line
from tests.bench.gossip_chance import poisson_interval
from tests.bench.gossip_plot import plot
from tests.bench.gossip_virtual import Size, false_deaths, measure_size, rows_of_sizes
from tests.bench.report import Row, as_json


@pytest.mark.parametrize(
    ("count", "low", "high"), [(0, 0.0, 3.689), (1, 0.0253, 5.572), (5, 1.623, 11.668)]
)
def test_intervals_are_those_of_the_tables(count: int, low: float, high: float) -> None:
    assert poisson_interval(count, 1.0) == pytest.approx((low, high), abs=0.001)
    assert poisson_interval(count, 10.0)[1] == pytest.approx(high / 10, abs=0.001)


def test_without_a_peer_there_is_no_ratio_and_nothing_to_pass() -> None:
    absent = Row("one", 2.0, "s", "serf (absent)", None, 1.0)
    assert absent.ratio is None
    assert absent.passes is None
    nothing = Row("two", 0.0, "1/h", "serf", 0.0, 1.0)
    assert nothing.passes is True
    worse = Row("three", 1.0, "1/h", "serf", 0.0, 1.0)
    assert worse.passes is False
    better = Row("four", 0.0, "1/h", "serf", 1.0, 1.0)
    assert better.passes is True
    assert "Infinity" not in as_json([absent, nothing, worse, better], {})
    assert [row["pass"] for row in json.loads(as_json([absent, worse], {}))["rows"]] == [
        None,
        False,
    ]


def test_lines_of_serf_become_events() -> None:
    at = "    2026/11/21 17:14:38"
    failed = serf_line(f"{at} [INFO] serf: EventMemberFailed: m2 127.0.0.2")
    assert failed == {"event": "member", "state": "dead", "name": "m2"}
    joined = serf_line(f"{at} [INFO] serf: EventMemberJoin: m1 127.0.0.1")
    assert joined == {"event": "member", "state": "alive", "name": "m1"}
    told = serf_line(f"{at} [INFO] agent: Received event: user-event: hello")
    assert told == {"event": "payload", "payload": "hello"}
    assert serf_line(f"{at} [INFO] memberlist: Suspect m2 has failed, no acks received") is None


def test_small_pools_are_measured_judged_and_drawn(tmp_path: Path) -> None:
    sizes = [measure_size(members, kills=1, rest_s=2) for members in (5, 15)]
    for size in sizes:
        assert 4.0 < size.first_s[0] <= size.all_s[0] < size.detection_bound_s
        assert 1.8 < size.packets_per_s < 2.5
    assert all(row.passes is not False for row in rows_of_sizes(sizes))
    plot(sizes, tmp_path / "growth.svg")
    picture = ElementTree.parse(tmp_path / "growth.svg").getroot()
    assert len([one for one in picture if one.tag.endswith("polyline")]) == 5


def test_a_load_that_grows_and_a_slow_detection_miss_their_targets() -> None:
    small = Size(20, [5.0], [5.5], [0.3], packets_per_s=2.0)
    large = Size(100, [30.0], [31.0], [0.4], packets_per_s=4.0)
    missed = [row.name for row in rows_of_sizes([small, large]) if row.passes is False]
    assert missed == [
        "detection, all, 100 members, lan, virtual",
        "at rest, 100 members, lan, virtual",
    ]


def test_false_deaths_are_counted_over_member_hours() -> None:
    (row,) = false_deaths(members=5, hours=0.05, slow=1)
    assert row.extra is not None
    assert row.extra["member_hours"] == pytest.approx(0.25)
    assert row.passes is (row.value <= 0.2)
