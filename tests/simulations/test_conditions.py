"""The checker ``conditions``: what it lets pass, and what it must not."""

from __future__ import annotations

import pytest

from tests.simulations.lives import Life, put, slots, trips


@pytest.mark.parametrize("known", [True, False])
def test_conditions_does_not_ask_for_what_was_taken_from_the_writer(known: bool) -> None:
    """Swarm seed 20521: a node that has lost an entry writes as if it had never been there."""
    life = Life(1, ["conditions"])
    first = life.do(0, put("k", "a"))
    assert first.dots is not None
    machine = life.machine(0)
    slots(machine).clear()
    if known:
        life.history.harmed(machine, f"lost entry {first.dots[0]}")
    assert not life.do(0, put("k", "b", expect=True)).observed
    if known:
        life.checker.finished()
    else:
        assert "was written on condition" in trips(life)
