"""Counters with reasons could not be printed as JSON: ``asdict`` counted pairs, not reasons."""

from __future__ import annotations

import json

from gossip.counters import Counters


def test_refusals_by_reason_are_plain_values() -> None:
    counters = Counters(packets_sent=3)
    counters.refused["stale"] += 2
    printed = json.loads(json.dumps(counters.as_value()))
    assert printed["packets_sent"] == 3
    assert printed["refused"] == {"stale": 2}
