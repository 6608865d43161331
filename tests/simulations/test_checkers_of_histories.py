"""Checkers trip over small forgeries of a history, and of a life."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from crdtmem import recovery
from crdtmem.causality import VersionVector
from crdtmem.effects import Alarm
from crdtmem.entries import SEQUENCE_BITS, Entry, Stamp, unpack_dot
from crdtmem.executor import Executor
from crdtmem.retirement import RETIRED
from simulations.checkers import CHECKERS
from simulations.checkers.base import Tail
from simulations.errors import LivenessViolation, MachineFailed, SafetyViolation
from simulations.history import Call, Conflict, History
from simulations.node import Machine
from tests.simulations.lives import (
    SPACE,
    Life,
    batch_of,
    operation,
    put,
    read,
    slots,
    small_life,
    trips,
    write,
)

# ------------------------------------------------------------------ forged histories


def rewind(life: Life, to: int = 0) -> None:
    """Let the checker look again at what it has looked at."""
    for tail in vars(life.checker).values():
        if isinstance(tail, Tail):
            tail.rewind(to)


def test_acknowledged_trips_over_a_write_that_somebody_lacks() -> None:
    life = small_life("acknowledged")
    call = life.history.calls[0]
    assert call.dots is not None
    call.dots = (call.dots[0] + 1_000, 1)
    assert "neither joined nor set aside" in trips(life)


def test_acknowledged_trips_over_dots_that_became_another_write() -> None:
    life = small_life("acknowledged")
    one, two, _ = life.history.calls
    one.dots = two.dots
    assert "was acknowledged for another write" in trips(life)


def test_sessions_trips_over_an_answer_from_before() -> None:
    life = small_life("sessions")
    call = life.do(0, read("s", "register", "k"))
    call.context = VersionVector()
    rewind(life)
    assert "from before what it demanded" in trips(life)


def test_sessions_trips_over_a_write_that_does_not_follow_what_was_read() -> None:
    life = small_life("sessions")
    call = life.do(0, put("k", "newest"))
    assert call.dots is not None
    batch = life.history.batch_of(call.dots[0])
    assert batch is not None
    life.history._contexts[batch.hash] = VersionVector()
    rewind(life)
    call.demanded = {7: 1}
    assert call.context is not None
    call.context = VersionVector(call.context | {7: 1})
    assert "does not depend on" in trips(life)


@pytest.mark.parametrize("entries", [(), ((1 << SEQUENCE_BITS | 1, "x", Stamp(1, 1, 1)),)])
def test_reads_trips_over_a_reading_of_other_entries(entries: tuple[Entry, ...]) -> None:
    life = Life(1, ["reads"])
    life.do(0, put("k", "v"))
    call = life.do(0, read("s", "register", "k"))
    call.result._entries = entries
    rewind(life)
    assert "show" in trips(life)


def test_transactions_trips_over_half_of_one() -> None:
    life = Life(1, ["transactions"])
    rows = [operation("s", "register", key, "set", 1) for key in ("a", "b")]
    call = life.do(0, write(*rows))
    life.checker.finished()
    assert call.dots is not None
    batch = life.history.batch_of(call.dots[0])
    assert batch is not None
    batch.segments[-1] = replace(batch.segments[-1], keys=("a", "z"))
    assert "lacks its set" in trips(life)


def test_transactions_trips_over_an_acknowledgement_of_other_dots() -> None:
    life = small_life("transactions")
    call = life.do(0, put("a", 1))
    assert call.dots is not None
    call.dots = (call.dots[0], 2)
    rewind(life)
    assert "are not one" in trips(life)


def test_transactions_trips_over_one_that_was_refused_and_written() -> None:
    life = small_life("transactions")
    call = life.history.calls[0]
    call.dots, call.outcome, call.code = None, "refused", "condition_failed"
    rewind(life)
    assert "written all the same" in trips(life)


def test_conditions_trips_over_a_write_that_supersedes_what_was_not_observed() -> None:
    life = Life(1, ["conditions"])
    life.do(0, put("k", "a"))
    call = life.do(0, put("k", "b", observe=True))
    call.observed = frozenset()
    assert "had not observed" in trips(life)


def test_conditions_trips_over_a_condition_that_did_not_hold() -> None:
    life = Life(1, ["conditions"])
    life.do(0, put("k", "a"))
    call = life.do(0, put("k", "b", expect=True))
    assert call.observed
    call.observed = call.observed | {7 << SEQUENCE_BITS | 1}
    assert "was written on condition" in trips(life)


def test_delivery_trips_over_a_vector_that_shrinks() -> None:
    life = small_life("delivery")
    machine = life.machine(1)
    machine.engine.state.vector = VersionVector()
    life.history.published(machine)
    with pytest.raises(SafetyViolation, match="its vector went from"):
        life.checker.published(machine)


def test_delivery_trips_over_a_reply_without_its_question() -> None:
    life = small_life("delivery")
    life.do(1, put("answer", 1))
    life.settle()
    state = life.machine(1).engine.state
    question = life.machine(0).engine.replica_id
    state.vector = VersionVector((r, n) for r, n in state.vector.items() if r != question)
    assert "without all that this depends on" in trips(life)


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
    life = small_life("delivery")
    batch = life.history.log[-1]
    life.history._effects[batch.hash] = ([], [7 << SEQUENCE_BITS | 1])
    rewind(life)
    with pytest.raises(SafetyViolation, match="which it never saw"):
        life.checker.published(life.machine(0))


@pytest.mark.parametrize(("order", "physical_us"), [(1, 1 << 60), (1 << 60, 1)])
def test_clocks_trips_over_orders_and_stamps_that_step_back(order: int, physical_us: int) -> None:
    life = small_life("clocks")
    batch = life.history.log[-1]
    *_, metadata, first = batch.transactions[0]
    batch.transactions[0] = (order, physical_us, metadata, first)
    rewind(life)
    assert "after" in trips(life)


def test_clocks_trips_over_an_order_below_its_cause() -> None:
    life = small_life("clocks")
    call = life.do(1, put("answer", 1))
    assert call.dots is not None
    cause = batch_of(life, life.history.calls[1].dots)
    order, physical_us, metadata, first = cause.transactions[0]
    cause.transactions[0] = (order + 10**12, physical_us, metadata, first)
    rewind(life, life.history.log.index(batch_of(life, call.dots)))
    assert "its cause" in trips(life)


def test_stability_trips_over_a_removal_that_was_collected_too_early() -> None:
    life = Life(3, ["stability"])
    life.do(0, write(operation("s", "set_remove_wins", "crew", "add", "Bob")))
    life.settle()
    life.world.network.cut(["m0"], ["m1", "m2"])
    life.do(0, write(operation("s", "set_remove_wins", "crew", "remove", "Bob")))
    for machine in (1, 2):
        life.do(machine, put("k", "concurrent"), client=machine)
    life.world.network.heal(["m0"], ["m1", "m2"])
    life.settle()
    life.world.run(30)
    assert "crew" not in slots(life.machine(0), "set_remove_wins")
    life.checker.finished()
    (collecting,) = [
        batch
        for batch in life.history.log
        for written in life.history.transactions(batch)
        if written.operation_id is None and written.segments[0].space == SPACE
    ]
    # As if the collector had heard of nothing but the removal.
    removal = batch_of(life, life.history.calls[1].dots).header
    known = VersionVector({removal.replica: removal.last})
    life.history._contexts[collecting.hash] = known
    assert "that had not seen it" in trips(life)


# ------------------------------------------------------------------ forged lives


def test_durability_trips_over_an_acknowledgement_before_the_fsync(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    life = Life(1, ["durability"])
    monkeypatch.setattr(Executor, "_persist", lambda self, flight: self._written(flight, None))
    with pytest.raises(SafetyViolation, match="its disk does not hold"):
        life.do(0, put("k", 1))


def test_durability_trips_over_an_answer_before_the_fsync() -> None:
    life = small_life("durability")
    life.history.calls[0].was_durable = False
    rewind(life)
    assert "before its disk held it" in trips(life)


def test_durability_trips_over_regions_that_were_not_reached() -> None:
    life = Life(2, ["durability"])
    call = life.do(0, put("k", 1, durability="all"))
    call.reached = frozenset({life.machine(0).region})
    rewind(life)
    assert "where no disk holds it" in trips(life)


def _without_the_last_record(machine: Machine) -> None:
    """Take a record from a disk so that nothing gives it away."""
    disk = machine.device.disk
    disk.lose_tail(1)
    assert disk.mark is not None
    disk.mark = replace(disk.mark, position=disk.position)


def test_recovery_trips_over_a_start_that_brings_back_less() -> None:
    life = small_life("recovery")
    machine = life.machine(0)
    machine.crash()
    _without_the_last_record(machine)
    with pytest.raises(SafetyViolation, match="it came back without"):
        machine.start()


def test_recovery_trips_over_a_new_id_without_a_reason() -> None:
    life = small_life("recovery")
    machine = life.machine(0)
    machine.crash()
    machine.device.disk.mark = None
    with pytest.raises(SafetyViolation, match="though nobody harmed"):
        machine.start()


def given_up(life: Life) -> Machine:
    """A machine that has to give its id up, for what it holds of another lies beyond a cut."""
    machine = life.machine(1)
    cuts = {life.machine(0).engine.replica_id: 0}
    executor = machine.executor
    assert executor is not None
    executor.apply(machine.engine.membership.retire("a test", cuts))
    return machine


def test_recovery_trips_over_an_id_given_up_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    life = small_life("recovery")
    monkeypatch.setattr(recovery, "set_aside", lambda store, retirement: None)
    given_up(life)
    with pytest.raises(MachineFailed) as caught:
        life.world.run(2)
    assert "still holds" in str(caught.value.__cause__)


@pytest.mark.parametrize("is_obeyed", [True, False])
def test_recovery_holds_a_start_to_a_verdict_that_was_durable(
    is_obeyed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    life = small_life("recovery")
    machine = given_up(life)
    disk = machine.device.disk
    life.world.run_until(lambda: RETIRED in disk.metadata, "verdict", within_s=5, step_s=0.0005)
    machine.crash()
    if is_obeyed:
        machine.start()
        assert RETIRED not in disk.metadata
        return
    monkeypatch.setattr(recovery, "set_aside", lambda store, retirement: None)
    with pytest.raises(SafetyViolation, match="still holds"):
        machine.start()


def test_recovery_expects_nothing_of_a_verdict_that_was_not_durable() -> None:
    life = small_life("recovery")
    machine = given_up(life)
    replica = machine.engine.replica_id
    machine.crash()
    assert RETIRED not in machine.device.disk.metadata
    machine.start()
    assert machine.engine.replica_id == replica
    life.settle()
    life.world.finished()


def test_identities_trips_over_a_dot_that_is_used_again() -> None:
    life = small_life("identities")
    machine = life.machine(0)
    life.world.network.cut(["m0"], ["m1"])
    machine.crash()
    _without_the_last_record(machine)
    machine.start()
    life.world.run(1)
    with pytest.raises(SafetyViolation, match="has another content"):
        life.do(0, put("k", "other"), client=1)


def test_identities_trips_over_a_batch_that_its_writer_never_had() -> None:
    life = small_life("identities")
    batch = life.history.log[0]
    life.history.unsourced.append((batch, "m1"))
    assert "writer's disk never held" in trips(life)


def test_identities_trips_over_an_id_that_its_store_does_not_prove(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    life = small_life("identities")
    machine = life.machine(0)
    old = machine.engine.replica_id
    machine.crash()
    machine.device.disk.mark = None
    monkeypatch.setattr(machine, "draw_id", lambda: old)
    with pytest.raises(SafetyViolation, match="cannot prove it"):
        machine.start()


def test_identities_excuses_a_copy_that_nothing_gives_away() -> None:
    life = small_life("identities")
    machine = life.machine(0)
    backup = machine.device.disk.copy()
    life.do(0, put("k", "after the backup"))
    machine.crash()
    machine.device.disk.restore(backup, with_mark=True)
    life.world.harmed(machine, "restored")
    machine.start()
    assert life.history.copied == {machine.engine.replica_id}
    written = batch_of(life, life.history.calls[0].dots)
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
    life = small_life("bounds")
    forge(life.machine(1))
    assert "the limit is" in trips(life)


def test_liveness_trips_over_a_call_without_an_answer() -> None:
    life = small_life("liveness")
    call = life.do(0, put("k", 1))
    call.ended_us = None
    life.history.begin(call)
    assert "has waited since" in trips(life, LivenessViolation)


def test_liveness_trips_over_a_late_answer() -> None:
    life = small_life("liveness")
    call = life.do(0, read("s", "register", "k"))
    call.deadline_us -= 60_000_000
    assert "too late" in trips(life, LivenessViolation)


def test_liveness_trips_over_nodes_that_have_not_converged() -> None:
    life = small_life("liveness")
    life.world.network.cut(["m0"], ["m1"])
    life.do(0, put("k", 1))
    assert "its vector is not" in trips(life, LivenessViolation)


def test_every_checker_says_what_it_promises() -> None:
    assert len({checker.about for checker in CHECKERS.values()}) == len(CHECKERS)
    assert all(checker.name == name for name, checker in CHECKERS.items())
    assert isinstance(History, type)


def test_crowding_trips_over_a_blind_write_beyond_the_limit() -> None:
    life = small_life("crowding")
    life.checker.finished()
    config = life.world.config
    life.world.config = replace(config, limits=replace(config.limits, siblings=1))
    rewind(life)
    assert "upon none of the 1 values there; the limit is 1" in trips(life)


def ranked_life() -> Life:
    """A life in which somebody trusted writes over somebody less trusted, and not the reverse."""
    life = Life(1, ["trust"])
    life.do(0, ("policy", {"space": ["s"], "trust_ordered": True}))
    for number in range(4):
        life.do(0, put("other", number))
    for trust in (1, 2, 0):
        life.do(0, put("k", f"of trust {trust}", trust=trust))
    life.checker.finished()
    rewind(life)
    return life


def pretend(call: Call, **arguments: object) -> None:
    """Let a client have asked for something else."""
    call.step = replace(call.step, arguments={**call.step.arguments, **arguments})


def test_trust_trips_over_a_write_that_displaces_somebody_more_trusted() -> None:
    life = ranked_life()
    # Who wrote over an entry of trust 1 turns out to be trusted less.
    pretend(life.history.calls[-2], trust=0)
    assert "was written with more" in trips(life)


def test_trust_trips_over_a_write_that_is_not_obeyed() -> None:
    life = ranked_life()
    pretend(life.history.calls[-1], trust=3)
    assert "standing" in trips(life)


def test_documents_trips_over_an_update_that_is_missing() -> None:
    life = Life(1, ["documents"])
    for text in ("one", "two"):
        life.do(0, ("edit", {"space": ["s"], "key": "d", "position": 0, "insert": text}))
    life.checker.finished()
    held = slots(life.machine(), "document")["d"]
    held.pop(max(held))
    assert "must show {'text': 'twoone'}" in trips(life)


@pytest.mark.parametrize(("what", "words"), [("dropped", "dropped"), ("restored", "brought back")])
def test_repair_trips_over_what_is_done_without_evidence(what: str, words: str) -> None:
    life = small_life("repair")
    life.checker.finished()
    old, new, _ = life.history.calls
    call = new if what == "dropped" else old
    assert call.dots is not None
    details = {"dropped": [], "restored": [], what: [str(unpack_dot(call.dots[0]))]}
    with pytest.raises(SafetyViolation, match=words):
        life.checker.alarmed(life.machine(), Alarm("repaired", "", details))


def test_repair_trips_over_an_entry_that_never_came_back() -> None:
    life = small_life("repair")
    call = life.history.calls[1]
    assert call.dots is not None
    life.world.harmed(life.machine(), f"lost entry {call.dots[0]}")
    life.checker.finished()
    slots(life.machine()).clear()
    assert "which one node had lost, is missing here" in trips(life)
