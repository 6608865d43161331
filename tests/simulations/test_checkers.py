"""Every checker passes on a good life, and trips over a small forgery of one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from crdtmem.batch import Batch
from crdtmem.causality import VersionVector
from crdtmem.crdt import DATATYPES
from crdtmem.entries import SEQUENCE_BITS, Entry, Stamp, as_slot
from crdtmem.executor import Executor
from simulations.checkers import CHECKERS, watch
from simulations.errors import LivenessViolation, SafetyViolation, Violation
from simulations.history import Conflict, History
from simulations.node import Machine
from simulations.workloads import WORKLOADS
from tests.simulations.lives import Life, operation, read, write

REGISTER = DATATYPES["register"].code
SPACE = ("s",)


def _set(key: str, value: object, **arguments: object) -> tuple[str, dict[str, object]]:
    return write(operation("s", "register", key, "set", value), **arguments)


def _life(checker: str, machines: int = 2) -> Life:
    """A life in which something was written, overwritten and read, everywhere."""
    life = Life(machines, [checker])
    life.do(0, _set("k", "old"))
    life.do(0, _set("k", "new"))
    life.do(1 % machines, read("s", "register", "k"))
    life.settle()
    return life


def _slots(machine: Machine, datatype: str = "register") -> dict[str, Any]:
    return machine.engine.state.table(SPACE, DATATYPES[datatype].code).slots


def _trips(life: Life, kind: type[Violation] = SafetyViolation) -> str:
    """Return what the one checker has to say at the end."""
    with pytest.raises(kind) as caught:
        life.checker.finished()
    assert caught.value.checker == life.checker.name
    return caught.value.message


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
    life = _life(name)
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
    life = _life("oracle")
    del _slots(life.machine(1))["k"]
    life.machine(1).engine.state.rebuild_derived()
    assert "lost" in _trips(life)


def test_oracle_trips_over_an_entry_that_came_back() -> None:
    life = _life("oracle")
    _bring_back(life)
    assert "came back" in _trips(life)


def _bring_back(life: Life) -> None:
    """Put the entry that was overwritten beside the one that overwrote it."""
    machine = life.machine(1)
    dot, _, stamp = _slots(machine)["k"]
    old: Entry = (dot - 1, "old", stamp)
    _slots(machine)["k"] = as_slot([old, (dot, "new", stamp)])
    machine.engine.state.rebuild_derived()


def test_oracle_trips_over_a_vector_beyond_what_was_written() -> None:
    life = _life("oracle")
    state = life.machine(1).engine.state
    replica = life.machine(0).engine.replica_id
    state.vector = VersionVector(state.vector | {replica: state.vector[replica] + 1})
    assert "of which" in _trips(life)


def test_resurrection_trips_over_what_came_back_at_the_end_and_at_once() -> None:
    life = _life("resurrection")
    _bring_back(life)
    assert "has come back" in _trips(life)


def test_resurrection_trips_where_something_survives_what_superseded_it() -> None:
    life = _life("resurrection", 1)
    machine = life.machine(0)
    original = machine.replica.persisted

    def persisted(flight: Any, now_us: int) -> Any:
        held = _slots(machine)["k"]
        effects = original(flight, now_us)
        _slots(machine)["k"] = as_slot([held, _slots(machine)["k"]])
        return effects

    machine.replica.persisted = persisted  # type: ignore[method-assign]
    with pytest.raises(SafetyViolation, match="survives what superseded it"):
        life.do(0, _set("k", "newest"))


def test_unwritten_trips_over_another_value_under_the_same_dot() -> None:
    life = _life("unwritten")
    dot, _, stamp = _slots(life.machine(1))["k"]
    _slots(life.machine(1))["k"] = (dot, "never", stamp)
    assert "was written as 'new'" in _trips(life)


def test_unwritten_trips_over_an_entry_in_another_place() -> None:
    life = _life("unwritten")
    slots = _slots(life.machine(1))
    slots["elsewhere"] = slots.pop("k")
    assert "is held at" in _trips(life)


def test_unwritten_trips_over_what_nobody_asked_for() -> None:
    life = Life(1, ["unwritten"])
    life.history.begin = lambda call: None  # type: ignore[method-assign]
    with pytest.raises(SafetyViolation, match="nobody asked"):
        life.do(0, _set("k", 1))


def test_unwritten_trips_over_an_operation_that_one_origin_wrote_twice() -> None:
    life = Life(1, ["unwritten"])
    life.machine(0).replica.operations.find = lambda identity: None  # type: ignore[method-assign]
    life.do(0, _set("k", 1))
    life.clients.client(0)._operations = 0
    with pytest.raises(SafetyViolation, match="a second time"):
        life.do(0, _set("k", 1))


def test_agreement_trips_over_two_digests_at_one_vector() -> None:
    life = _life("agreement")
    life.machine(1).engine.state.digest_of(SPACE).add([1 << SEQUENCE_BITS | 1])
    assert "two digests" in _trips(life)


def test_agreement_trips_over_two_answers_at_one_vector() -> None:
    life = _life("agreement")
    dot, _, stamp = _slots(life.machine(1))["k"]
    _slots(life.machine(1))["k"] = (dot, "other", stamp)
    assert "value" in _trips(life)


def test_agreement_trips_over_two_expiries_of_one_entry() -> None:
    life = _life("agreement")
    dot, value, stamp = _slots(life.machine(1))["k"]
    other = Stamp(stamp.replica, stamp.order, stamp.physical_us, expires_at_us=1 << 61)
    _slots(life.machine(1))["k"] = (dot, value, other)
    assert "entries" in _trips(life)


def test_rederivation_trips_over_a_state_that_the_store_does_not_lead_to() -> None:
    life = _life("rederivation")
    dot, _, stamp = _slots(life.machine(1))["k"]
    _slots(life.machine(1))["k"] = (dot, "other", stamp)
    assert "1 entries differ" in _trips(life)


def test_joins_trips_over_a_state_that_joins_to_less() -> None:
    life = _life("joins")
    del _slots(life.machine(1))["k"]
    assert "it lacks" in _trips(life)


def test_counters_trips_over_a_total_that_is_off_by_one() -> None:
    life = Life(2, ["counters"])
    life.do(0, write(operation("s", "counter", "c", "increment", 3)))
    life.settle()
    life.checker.finished()
    dot, total, stamp = _slots(life.machine(1), "counter")["c"]
    _slots(life.machine(1), "counter")["c"] = (dot, (total[0], total[1] + 1), stamp)
    assert "shows 4, and must be 3" in _trips(life)


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
    assert "shows 2" in _trips(life)


def test_budgets_trips_over_spending_beyond_what_was_minted() -> None:
    life = Life(1, ["budgets"])
    life.do(0, write(operation("s", "bounded_counter", "b", "mint", 10)))
    life.do(0, write(operation("s", "bounded_counter", "b", "consume", 4)))
    life.checker.finished()
    slots = _slots(life.machine(0), "bounded_counter")
    dot, (distance, minted, burned, _), stamp = slots["b"]
    slots["b"] = (dot, (distance, minted, burned, 11), stamp)
    assert "holds -1 rights" in _trips(life)


def test_budgets_trips_over_rights_that_nobody_minted() -> None:
    life = Life(1, ["budgets"])
    life.do(0, write(operation("s", "bounded_counter", "b", "mint", 10)))
    slots = _slots(life.machine(0), "bounded_counter")
    dot, (distance, minted), stamp = slots["b"]
    slots["b"] = (dot, (distance, minted + 5), stamp)
    assert "15 of 'b' is available of 10" in _trips(life)


def test_expiry_trips_over_what_its_origin_keeps() -> None:
    life = _life("expiry")
    *_, stamp = _slots(life.machine(1))["k"]
    stamp.expires_at_us = 1
    assert "kept it" in _trips(life, LivenessViolation)


# ------------------------------------------------------------------ forged histories


def test_acknowledged_trips_over_a_write_that_somebody_lacks() -> None:
    life = _life("acknowledged")
    call = life.history.calls[0]
    assert call.dots is not None
    call.dots = (call.dots[0] + 1_000, 1)
    assert "neither joined nor set aside" in _trips(life)


def test_acknowledged_trips_over_dots_that_became_another_write() -> None:
    life = _life("acknowledged")
    one, two, _ = life.history.calls
    one.dots = two.dots
    assert "was acknowledged for another write" in _trips(life)


def test_sessions_trips_over_an_answer_from_before() -> None:
    life = _life("sessions")
    call = life.do(0, read("s", "register", "k"))
    call.context = VersionVector()
    life.checker._read = 0  # type: ignore[attr-defined]
    assert "from before what it demanded" in _trips(life)


def test_sessions_trips_over_a_write_that_does_not_follow_what_was_read() -> None:
    life = _life("sessions")
    call = life.do(0, _set("k", "newest"))
    assert call.dots is not None
    batch = life.history.batch_of(call.dots[0])
    assert batch is not None
    life.history._contexts[batch.hash] = VersionVector()
    life.checker._read = 0  # type: ignore[attr-defined]
    call.demanded = {7: 1}
    assert call.context is not None
    call.context = VersionVector(call.context | {7: 1})
    assert "does not depend on" in _trips(life)


@pytest.mark.parametrize("entries", [(), ((1 << SEQUENCE_BITS | 1, "x", Stamp(1, 1, 1)),)])
def test_reads_trips_over_a_reading_of_other_entries(entries: tuple[Entry, ...]) -> None:
    life = Life(1, ["reads"])
    life.do(0, _set("k", "v"))
    call = life.do(0, read("s", "register", "k"))
    call.result._entries = entries
    life.checker._read = 0  # type: ignore[attr-defined]
    assert "show" in _trips(life)


def test_transactions_trips_over_half_of_one() -> None:
    life = Life(1, ["transactions"])
    rows = [operation("s", "register", key, "set", 1) for key in ("a", "b")]
    call = life.do(0, write(*rows))
    life.checker.finished()
    assert call.dots is not None
    batch = life.history.batch_of(call.dots[0])
    assert batch is not None
    batch.segments[-1] = replace(batch.segments[-1], keys=("a", "z"))
    assert "lacks its set" in _trips(life)


def test_transactions_trips_over_an_acknowledgement_of_other_dots() -> None:
    life = _life("transactions")
    call = life.do(0, _set("a", 1))
    assert call.dots is not None
    call.dots = (call.dots[0], 2)
    life.checker._read = 0  # type: ignore[attr-defined]
    assert "are not one" in _trips(life)


def test_transactions_trips_over_one_that_was_refused_and_written() -> None:
    life = _life("transactions")
    call = life.history.calls[0]
    call.dots, call.outcome, call.code = None, "refused", "condition_failed"
    life.checker._read = 0  # type: ignore[attr-defined]
    assert "written all the same" in _trips(life)


def test_conditions_trips_over_a_write_that_supersedes_what_was_not_observed() -> None:
    life = Life(1, ["conditions"])
    life.do(0, _set("k", "a"))
    call = life.do(0, _set("k", "b", observe=True))
    call.observed = frozenset()
    assert "had not observed" in _trips(life)


def test_conditions_trips_over_a_condition_that_did_not_hold() -> None:
    life = Life(1, ["conditions"])
    life.do(0, _set("k", "a"))
    call = life.do(0, _set("k", "b", expect=True))
    assert call.observed
    call.observed = call.observed | {7 << SEQUENCE_BITS | 1}
    assert "was written on condition" in _trips(life)


def test_delivery_trips_over_a_vector_that_shrinks() -> None:
    life = _life("delivery")
    machine = life.machine(1)
    machine.engine.state.vector = VersionVector()
    life.history.published(machine)
    with pytest.raises(SafetyViolation, match="its vector went from"):
        life.checker.published(machine)


def test_delivery_trips_over_a_reply_without_its_question() -> None:
    life = _life("delivery")
    life.do(1, _set("answer", 1))
    life.settle()
    state = life.machine(1).engine.state
    question = life.machine(0).engine.replica_id
    state.vector = VersionVector((r, n) for r, n in state.vector.items() if r != question)
    assert "without all that this depends on" in _trips(life)


def test_delivery_trips_over_half_a_batch() -> None:
    life = Life(1, ["delivery"])
    life.do(0, write(*(operation("s", "register", key, "set", 1) for key in ("a", "b"))))
    machine = life.machine(0)
    state, own = machine.engine.state, machine.engine.replica_id
    life.checker._before["m0"] = VersionVector()  # type: ignore[attr-defined]
    life.history.views["m0"].vector = VersionVector({own: state.vector[own] - 1})
    with pytest.raises(SafetyViolation, match="within a batch"):
        life.checker.published(machine)


def test_delivery_trips_over_a_batch_that_supersedes_what_it_never_saw() -> None:
    life = _life("delivery")
    batch = life.history.log[-1]
    life.history._effects[batch.hash] = ([], [7 << SEQUENCE_BITS | 1])
    life.checker._read = 0  # type: ignore[attr-defined]
    with pytest.raises(SafetyViolation, match="which it never saw"):
        life.checker.published(life.machine(0))


@pytest.mark.parametrize(("order", "physical_us"), [(1, 1 << 60), (1 << 60, 1)])
def test_clocks_trips_over_orders_and_stamps_that_step_back(order: int, physical_us: int) -> None:
    life = _life("clocks")
    batch = life.history.log[-1]
    *_, metadata, first = batch.transactions[0]
    batch.transactions[0] = (order, physical_us, metadata, first)
    life.checker._read = 0  # type: ignore[attr-defined]
    assert "after" in _trips(life)


def test_clocks_trips_over_an_order_below_its_cause() -> None:
    life = _life("clocks")
    call = life.do(1, _set("answer", 1))
    assert call.dots is not None
    cause = _batch_of(life, life.history.calls[1].dots)
    order, physical_us, metadata, first = cause.transactions[0]
    cause.transactions[0] = (order + 10**12, physical_us, metadata, first)
    life.checker._read = life.history.log.index(_batch_of(life, call.dots))  # type: ignore[attr-defined]
    assert "its cause" in _trips(life)


def _batch_of(life: Life, dots: tuple[int, int] | None) -> Batch:
    assert dots is not None
    batch = life.history.batch_of(dots[0])
    assert batch is not None
    return batch


def test_stability_trips_over_a_removal_that_was_collected_too_early() -> None:
    life = Life(3, ["stability"])
    life.do(0, write(operation("s", "set_remove_wins", "crew", "add", "Bob")))
    life.settle()
    life.world.network.cut(["m0"], ["m1", "m2"])
    life.do(0, write(operation("s", "set_remove_wins", "crew", "remove", "Bob")))
    for machine in (1, 2):
        life.do(machine, _set("k", "concurrent"), client=machine)
    life.world.network.heal(["m0"], ["m1", "m2"])
    life.settle()
    life.world.run(30)
    assert "crew" not in _slots(life.machine(0), "set_remove_wins")
    life.checker.finished()
    (collecting,) = [
        batch
        for batch in life.history.log
        for written in life.history.transactions(batch)
        if written.operation_id is None and written.segments[0].space == SPACE
    ]
    # As if the collector had heard of nothing but the removal.
    removal = _batch_of(life, life.history.calls[1].dots).header
    known = VersionVector({removal.replica: removal.last})
    life.history._contexts[collecting.hash] = known
    assert "that had not seen it" in _trips(life)


# ------------------------------------------------------------------ forged lives


def test_durability_trips_over_an_acknowledgement_before_the_fsync(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    life = Life(1, ["durability"])
    monkeypatch.setattr(Executor, "_persist", lambda self, flight: self._written(flight, None))
    with pytest.raises(SafetyViolation, match="its disk does not hold"):
        life.do(0, _set("k", 1))


def test_durability_trips_over_an_answer_before_the_fsync() -> None:
    life = _life("durability")
    life.history.calls[0].was_durable = False
    life.checker._read = 0  # type: ignore[attr-defined]
    assert "before its disk held it" in _trips(life)


def test_durability_trips_over_regions_that_were_not_reached() -> None:
    life = Life(2, ["durability"])
    call = life.do(0, _set("k", 1, durability="all"))
    call.reached = frozenset({life.machine(0).region})
    life.checker._read = 0  # type: ignore[attr-defined]
    assert "where no disk holds it" in _trips(life)


def _without_the_last_record(machine: Machine) -> None:
    """Take a record from a disk so that nothing gives it away."""
    disk = machine.device.disk
    disk.lose_tail(1)
    assert disk.mark is not None
    disk.mark = replace(disk.mark, position=disk.position)


def test_recovery_trips_over_a_start_that_brings_back_less() -> None:
    life = _life("recovery")
    machine = life.machine(0)
    machine.crash()
    _without_the_last_record(machine)
    with pytest.raises(SafetyViolation, match="it came back without"):
        machine.start()


def test_recovery_trips_over_a_new_id_without_a_reason() -> None:
    life = _life("recovery")
    machine = life.machine(0)
    machine.crash()
    machine.device.disk.mark = None
    with pytest.raises(SafetyViolation, match="though nobody harmed"):
        machine.start()


def test_identities_trips_over_a_dot_that_is_used_again() -> None:
    life = _life("identities")
    machine = life.machine(0)
    life.world.network.cut(["m0"], ["m1"])
    machine.crash()
    _without_the_last_record(machine)
    machine.start()
    life.world.run(1)
    with pytest.raises(SafetyViolation, match="has another content"):
        life.do(0, _set("k", "other"), client=1)


def test_identities_trips_over_a_batch_that_its_writer_never_had() -> None:
    life = _life("identities")
    batch = life.history.log[0]
    life.history.unsourced.append((batch, "m1"))
    assert "writer's disk never held" in _trips(life)


def test_identities_trips_over_an_id_that_its_store_does_not_prove(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    life = _life("identities")
    machine = life.machine(0)
    old = machine.engine.replica_id
    machine.crash()
    machine.device.disk.mark = None
    monkeypatch.setattr(machine, "draw_id", lambda: old)
    with pytest.raises(SafetyViolation, match="cannot prove it"):
        machine.start()


def test_identities_excuses_a_copy_that_nothing_gives_away() -> None:
    life = _life("identities")
    machine = life.machine(0)
    backup = machine.device.disk.copy()
    life.do(0, _set("k", "after the backup"))
    machine.crash()
    machine.device.disk.restore(backup, with_mark=True)
    life.world.harmed(machine, "restored")
    machine.start()
    assert life.history.copied == {machine.engine.replica_id}
    written = _batch_of(life, life.history.calls[0].dots)
    life.history.conflicts.append(Conflict(written, written, "m0"))
    life.checker.finished()


Forge = Callable[[Machine], None]


def _flood(machine: Machine) -> None:
    machine.replica.inbox.size = 1 << 40


def _crowd(machine: Machine) -> None:
    limit = machine.engine.limits.queue_bytes
    machine.replica._queue.size = 100 * limit


@pytest.mark.parametrize("forge", [_flood, _crowd])
def test_bounds_trips_over_a_queue_beyond_its_limit(forge: Forge) -> None:
    life = _life("bounds")
    forge(life.machine(1))
    assert "the limit is" in _trips(life)


def test_liveness_trips_over_a_call_without_an_answer() -> None:
    life = _life("liveness")
    call = life.do(0, _set("k", 1))
    call.ended_us = None
    life.history.begin(call)
    assert "has waited since" in _trips(life, LivenessViolation)


def test_liveness_trips_over_a_late_answer() -> None:
    life = _life("liveness")
    call = life.do(0, read("s", "register", "k"))
    call.deadline_us -= 60_000_000
    assert "too late" in _trips(life, LivenessViolation)


def test_liveness_trips_over_nodes_that_have_not_converged() -> None:
    life = _life("liveness")
    life.world.network.cut(["m0"], ["m1"])
    life.do(0, _set("k", 1))
    assert "its vector is not" in _trips(life, LivenessViolation)


def test_every_checker_says_what_it_promises() -> None:
    assert len({checker.about for checker in CHECKERS.values()}) == len(CHECKERS)
    assert all(checker.name == name for name, checker in CHECKERS.items())
    assert isinstance(History, type)
