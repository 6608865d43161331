"""Every checker passes on a good life, and trips over a small forgery of its state."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from crdtmem.causality import VersionVector
from crdtmem.entries import SEQUENCE_BITS, Entry, Stamp, as_slot
from simulations.checkers import CHECKERS, watch
from simulations.errors import LivenessViolation, SafetyViolation
from simulations.workloads import WORKLOADS
from tests.simulations.lives import (
    SPACE,
    Life,
    operation,
    put,
    read,
    slots,
    small_life,
    trips,
    write,
)

# ------------------------------------------------------------------ good lives


def test_all_checkers_pass_on_a_good_life_with_crashes_and_cuts() -> None:
    life = Life(3, None, checkpoint_bytes=4_000)
    for workload in WORKLOADS.values():
        if not workload.needs:
            life.clients.schedule(workload.steps(Random(5), 3, 3, 8_000_000, 5))
    world, crashed = life.world, life.machine(1)
    world.after(2, world.network.cut, ["m0"], ["m1", "m2"])
    world.after(4, world.network.heal, ["m0"], ["m1", "m2"])
    world.after(3, crashed.crash)
    world.after(5, crashed.start)
    world.run(12)
    world.run_until(lambda: life.clients.idle, "answers", within_s=120)
    life.settle()
    world.run(15)
    life.settle()
    world.finished()
    outcomes = [call.outcome for call in life.history.calls]
    assert outcomes.count("ok") > 300
    assert len(life.checkers) == len(CHECKERS) >= 20


@pytest.mark.parametrize("name", CHECKERS)
def test_a_checker_passes_on_a_small_life(name: str) -> None:
    life = small_life(name)
    crashed = life.machine(1)
    crashed.crash()
    crashed.start()
    life.settle()
    life.world.finished()


def test_checkers_change_nothing_in_a_world() -> None:
    digests = set()
    choices: tuple[tuple[str, ...] | None, ...] = ((), None)
    for names in choices:
        life = Life(2, names, seed=9)
        life.clients.schedule(WORKLOADS["registers"].steps(Random(2), 3, 2, 3_000_000, 30))
        life.world.run(5)
        digests.add(life.world.trace.digest())
    assert len(digests) == 1


def test_a_name_that_is_no_checker_is_refused() -> None:
    life = Life(1)
    with pytest.raises(KeyError):
        watch(life.world, life.history, ["nobody"])


# ------------------------------------------------------------------ forged states


def test_oracle_trips_over_an_entry_that_is_gone() -> None:
    life = small_life("oracle")
    del slots(life.machine(1))["k"]
    life.machine(1).engine.state.rebuild_derived()
    assert "lost" in trips(life)


def test_oracle_trips_over_an_entry_that_came_back() -> None:
    life = small_life("oracle")
    _bring_back(life)
    assert "came back" in trips(life)


def _bring_back(life: Life) -> None:
    """Put the entry that was overwritten beside the one that overwrote it."""
    machine = life.machine(1)
    dot, _, stamp = slots(machine)["k"]
    old: Entry = (dot - 1, "old", stamp)
    slots(machine)["k"] = as_slot([old, (dot, "new", stamp)])
    machine.engine.state.rebuild_derived()


def test_oracle_trips_over_a_vector_beyond_what_was_written() -> None:
    life = small_life("oracle")
    state = life.machine(1).engine.state
    replica = life.machine(0).engine.replica_id
    state.vector = VersionVector(state.vector | {replica: state.vector[replica] + 1})
    assert "of which" in trips(life)


def test_resurrection_trips_over_what_came_back_at_the_end_and_at_once() -> None:
    life = small_life("resurrection")
    _bring_back(life)
    assert "has come back" in trips(life)


def test_resurrection_trips_where_something_survives_what_superseded_it() -> None:
    life = small_life("resurrection", 1)
    machine = life.machine(0)
    original = machine.replica.persisted

    def persisted(flight: Any, now_us: int) -> Any:
        held = slots(machine)["k"]
        effects = original(flight, now_us)
        slots(machine)["k"] = as_slot([held, slots(machine)["k"]])
        return effects

    machine.replica.persisted = persisted  # type: ignore[method-assign]
    with pytest.raises(SafetyViolation, match="survives what superseded it"):
        life.do(0, put("k", "newest"))


def test_unwritten_trips_over_another_value_under_the_same_dot() -> None:
    life = small_life("unwritten")
    dot, _, stamp = slots(life.machine(1))["k"]
    slots(life.machine(1))["k"] = (dot, "never", stamp)
    assert "was written as 'new'" in trips(life)


def test_unwritten_trips_over_an_entry_in_another_place() -> None:
    life = small_life("unwritten")
    table = slots(life.machine(1))
    table["elsewhere"] = table.pop("k")
    assert "is held at" in trips(life)


def test_unwritten_trips_over_what_nobody_asked_for() -> None:
    life = Life(1, ["unwritten"])
    life.history.begin = lambda call: None  # type: ignore[method-assign]
    with pytest.raises(SafetyViolation, match="nobody asked"):
        life.do(0, put("k", 1))


def test_unwritten_trips_over_an_operation_that_one_origin_wrote_twice() -> None:
    life = Life(1, ["unwritten"])
    life.machine(0).replica.operations.find = lambda identity: None  # type: ignore[method-assign]
    life.do(0, put("k", 1))
    life.clients.client(0)._operations = 0
    with pytest.raises(SafetyViolation, match="a second time"):
        life.do(0, put("k", 1))


def test_agreement_trips_over_two_digests_at_one_vector() -> None:
    life = small_life("agreement")
    life.machine(1).engine.state.digest_of(SPACE).add([1 << SEQUENCE_BITS | 1])
    assert "two digests" in trips(life)


def test_agreement_trips_over_two_answers_at_one_vector() -> None:
    life = small_life("agreement")
    dot, _, stamp = slots(life.machine(1))["k"]
    slots(life.machine(1))["k"] = (dot, "other", stamp)
    assert "value" in trips(life)


def test_agreement_trips_over_two_expiries_of_one_entry() -> None:
    life = small_life("agreement")
    dot, value, stamp = slots(life.machine(1))["k"]
    other = Stamp(stamp.replica, stamp.order, stamp.physical_us, expires_at_us=1 << 61)
    slots(life.machine(1))["k"] = (dot, value, other)
    assert "entries" in trips(life)


def test_rederivation_trips_over_a_state_that_the_store_does_not_lead_to() -> None:
    life = small_life("rederivation")
    dot, _, stamp = slots(life.machine(1))["k"]
    slots(life.machine(1))["k"] = (dot, "other", stamp)
    assert "1 entries differ" in trips(life)


def test_joins_trips_over_a_state_that_joins_to_less() -> None:
    life = small_life("joins")
    del slots(life.machine(1))["k"]
    assert "it lacks" in trips(life)


def test_counters_trips_over_a_total_that_is_off_by_one() -> None:
    life = Life(2, ["counters"])
    life.do(0, write(operation("s", "counter", "c", "increment", 3)))
    life.settle()
    life.checker.finished()
    dot, total, stamp = slots(life.machine(1), "counter")["c"]
    slots(life.machine(1), "counter")["c"] = (dot, (total[0], total[1] + 1), stamp)
    assert "shows 4, and must be 3" in trips(life)


def test_counters_knows_what_a_reset_had_seen() -> None:
    life = Life(2, ["counters"])
    life.do(0, write(operation("s", "counter", "c", "increment", 3)))
    life.settle()
    life.world.network.cut(["m0"], ["m1"])
    life.do(0, write(operation("s", "counter", "c", "reset")))
    life.do(1, write(operation("s", "counter", "c", "increment", 5)), client=1)
    life.world.network.heal(["m0"], ["m1"])
    life.settle()
    assert life.do(1, read("s", "counter", "c"), client=2).result.value == 5
    life.checker.finished()


def test_counters_trips_over_a_wrong_reading() -> None:
    life = Life(1, ["counters"])
    life.do(0, write(operation("s", "counter", "c", "increment", 3)))
    call = life.do(0, read("s", "counter", "c"))
    call.result.value = 2
    assert "shows 2" in trips(life)


def test_budgets_trips_over_spending_beyond_what_was_minted() -> None:
    life = Life(1, ["budgets"])
    life.do(0, write(operation("s", "bounded_counter", "b", "mint", 10)))
    life.do(0, write(operation("s", "bounded_counter", "b", "consume", 4)))
    life.checker.finished()
    table = slots(life.machine(0), "bounded_counter")
    dot, (distance, minted, burned, _), stamp = table["b"]
    table["b"] = (dot, (distance, minted, burned, 11), stamp)
    assert "holds -1 rights" in trips(life)


def test_budgets_trips_over_rights_that_nobody_minted() -> None:
    life = Life(1, ["budgets"])
    life.do(0, write(operation("s", "bounded_counter", "b", "mint", 10)))
    table = slots(life.machine(0), "bounded_counter")
    dot, (distance, minted), stamp = table["b"]
    table["b"] = (dot, (distance, minted + 5), stamp)
    assert "15 of 'b' is available of 10" in trips(life)


def test_expiry_trips_over_what_its_origin_keeps() -> None:
    life = small_life("expiry")
    *_, stamp = slots(life.machine(1))["k"]
    stamp.expires_at_us = 1
    assert "kept it" in trips(life, LivenessViolation)
