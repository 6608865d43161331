"""The state machine of one replica, driven by hand: what is visible when, and to whom."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from crdtmem.causality import Context
from crdtmem.crdt import DATATYPES
from crdtmem.errors import (
    InvalidValue,
    LimitExceeded,
    Overloaded,
    ReplicaHalted,
    StoreFailed,
    UnknownName,
)
from crdtmem.inbox import Verdict
from crdtmem.limits import DEFAULT_LIMITS
from crdtmem.transaction import Transaction
from tests.kernel_node import (
    NOW_US,
    SPACE,
    KernelNode,
    operation,
    puts,
    settle,
    transaction_of,
)

# ---------------------------------------------------------------------- before and after fsync


def test_nothing_is_visible_or_answered_before_it_is_durable() -> None:
    node = KernelNode()
    ticket = node.submit(puts({"a": 1}))
    flight = node.stage()
    assert flight is not None
    assert [batch.header.count for batch in flight.batches] == [1]
    assert node.value("a") is None
    assert node.replica.peek(SPACE, "a", NOW_US) is None
    assert node.replica.context == Context()
    assert node.digest == (0, 0)
    assert ticket not in node.replies
    node.land()
    assert node.value("a") == node.replica.peek(SPACE, "a", NOW_US) == 1
    assert node.answer(ticket).context == Context({1: 1})


def test_a_flight_persists_then_notifies_then_answers() -> None:
    node = KernelNode()
    ticket = node.submit(puts({"a": 1, "b": 2}))
    node.run()
    assert node.order == [("persist", 1), ("notify", [2]), ("reply", ticket)]


def test_work_that_arrives_while_a_flight_is_out_is_one_next_flight() -> None:
    node = KernelNode()
    node.submit(puts({"first": 1}))
    node.stage()
    tickets = [node.submit(puts({f"k{n}": n})) for n in range(5)]
    assert node.replica.stage(NOW_US) == []
    node.land()
    flight = node.stage()
    assert flight is not None
    assert [batch.header.count for batch in flight.batches] == [5]
    node.land()
    assert [node.answer(ticket).first for ticket in tickets] == [node.dot(n) for n in range(2, 7)]


def test_a_transaction_sees_those_staged_before_it_and_not_published() -> None:
    node = KernelNode()
    for amount in (1, 2, 3):
        node.submit(transaction_of(operation("counter", "c", "increment", amount)))
    node.run()
    assert node.value("c", "counter") == 6
    assert len(node.log) == 1


def test_a_transaction_of_nothing_is_answered_without_a_commit() -> None:
    node = KernelNode()
    committed = node.commit(operation("register", "absent", "delete"))
    assert (committed.count, committed.context) == (0, Context())
    assert node.log == []


# ---------------------------------------------------------------------- failed commits


def test_after_a_failed_commit_the_same_dots_are_used_again() -> None:
    node = KernelNode()
    node.put("kept", 0)
    lost = node.submit(puts({"a": 1}))
    node.stage()
    node.fail()
    with pytest.raises(StoreFailed):
        node.answer(lost)
    assert node.value("a") is None
    assert node.put("b", 2).first == node.dot(2)
    assert node.value("b") == 2
    assert node.digest == node.restarted().digest


def test_the_batch_after_a_failed_one_names_all_its_dependencies_and_the_right_parent() -> None:
    node, other, third = KernelNode(1), KernelNode(2), KernelNode(3)
    other.put("x", 1)
    node.join(other)
    node.submit(puts({"a": 1}))
    node.stage()
    node.fail()
    node.put("b", 2)
    batch = node.log[-1]
    assert batch.header.dependencies == {2: 1}
    assert batch.header.previous_hash == bytes(16)
    third.join(node)
    assert third.value("b") is None, "its cause has not arrived"
    third.join(other)
    assert third.value("b") == 2


def test_remote_batches_of_a_failed_flight_are_joined_by_the_next() -> None:
    node, other = KernelNode(1), KernelNode(2)
    other.put("x", 1)
    node.offer(other.log[0])
    node.stage()
    node.fail()
    assert node.value("x") is None
    node.run()
    assert node.value("x") == 1


def test_an_operation_id_of_a_failed_commit_may_be_tried_again() -> None:
    node = KernelNode()
    node.submit(puts({"a": 1}, operation_id=b"once"))
    node.stage()
    node.fail()
    committed = node.put("a", 1, operation_id=b"once")
    assert not committed.repeated
    assert node.value("a") == 1


def test_a_repeat_in_the_flight_that_fails_is_told_so_too() -> None:
    node = KernelNode()
    tickets = [node.submit(puts({"a": 1}, operation_id=b"once")) for _ in range(2)]
    node.stage()
    node.fail()
    for ticket in tickets:
        with pytest.raises(StoreFailed):
            node.answer(ticket)


# ---------------------------------------------------------------------- refusals


def test_a_refused_transaction_leaves_nothing_and_takes_no_dots() -> None:
    node = KernelNode()
    node.put("a", "old")
    before = node.digest
    with pytest.raises(UnknownName):
        node.commit(
            operation("register", "a", "set", "new"),
            operation("set", "s", "add", "element"),
            operation("counter", "c", "increment", 3),
            operation("register", "a", "delete"),
            operation("register", "b", "no such operation"),
        )
    assert node.value("a") == "old"
    assert node.value("s", "set") == []
    assert node.value("c", "counter") == 0
    assert node.digest == before
    assert node.put("next", 1).first == node.dot(2)


def test_a_refused_transaction_leaves_its_neighbours_in_the_flight_alone() -> None:
    node = KernelNode()
    node.put("a", 0)
    first = node.submit(puts({"a": 1}))
    refused = Transaction()
    refused.put(SPACE, DATATYPES["register"].code, "a", 2)
    refused.put(SPACE, DATATYPES["register"].code, "fresh", 2)
    refused.add(operation("register", "a", "set", 3))
    refused.add(operation("counter", "a", "decrement", -1))
    second = node.submit(refused)
    third = node.submit(transaction_of(operation("register", "a", "set", 4)))
    node.run()
    with pytest.raises(InvalidValue):
        node.answer(second)
    assert node.answer(first).first == node.dot(2)
    assert node.answer(third).first == node.dot(3)
    assert node.value("a") == 4
    assert node.value("fresh") is None
    assert node.digest == node.restarted().digest
    other = KernelNode(2)
    other.join(node)
    assert other.digest == node.digest


def test_a_transaction_that_grows_beyond_the_limit_is_refused_whole() -> None:
    node = KernelNode(limits=replace(DEFAULT_LIMITS, batch_deltas=10))
    many = {f"m{n}": n for n in range(11)}
    with pytest.raises(LimitExceeded):
        node.commit(operation("register", "a", "set", 1), operation("map", "m", "update", many))
    assert node.value("a") is None
    assert node.value("m", "map") == {}


def test_batches_stay_within_the_limits_however_transactions_fall() -> None:
    limits = replace(
        DEFAULT_LIMITS,
        batch_deltas=100,
        key_bytes=64,
        value_bytes=1_000,
        batch_bytes=2_000,
        frame_bytes=2_000 + 64 * 1024,
    )
    node = KernelNode(limits=limits)
    for n in range(20):
        node.submit(puts({f"small{n}-{i}": i for i in range(n)}))
        node.submit(transaction_of(operation("log", "l", "extend", ["v" * 100] * 15)))
        node.submit(transaction_of(operation("register", f"r{n}", "set", "v" * 900)))
        node.submit(puts({f"big{n}": "v" * 900, f"b{n}": "v" * 900}))
    node.run()
    assert all(reply.error is None for reply in node.replies.values())
    assert max(batch.header.count for batch in node.log) <= 100
    assert max(sum(map(len, [batch.data])) for batch in node.log) <= 2_000 + 200
    assert node.restarted().digest == node.digest


def test_a_full_queue_says_so() -> None:
    node = KernelNode()
    replica = node.replica
    transaction = puts({"a": 1}).seal(replica.limits)
    effects: list[Any] = []
    while not effects:
        effects = replica.submit(object(), transaction, NOW_US)
    assert isinstance(effects[0].error, Overloaded)


def test_a_halted_replica_refuses_writes_and_serves_reads() -> None:
    node = KernelNode()
    node.put("a", 1)
    queued = node.submit(puts({"a": 2}))
    node.apply(node.replica.halt("it was evicted"))
    later = node.submit(puts({"a": 3}))
    for ticket in (queued, later):
        with pytest.raises(ReplicaHalted):
            node.answer(ticket)
    assert node.value("a") == 1
    assert [alarm.name for alarm in node.alarms] == ["halted"]


# ---------------------------------------------------------------------- causality


def test_a_batch_waits_for_its_dependencies() -> None:
    question, answer, reader = KernelNode(1), KernelNode(2), KernelNode(3)
    question.put("q", "why?")
    answer.join(question)
    answer.put("a", "because")
    reader.join(answer)
    assert reader.value("a") is None
    assert reader.replica.inbox.missing(reader.replica.state.vector) == {1: 1}
    reader.join(question)
    assert (reader.value("q"), reader.value("a")) == ("why?", "because")


def test_batches_out_of_order_and_repeated_join_once() -> None:
    node, other = KernelNode(1), KernelNode(2)
    for n in range(5):
        node.commit(operation("counter", "c", "increment", n))
    for batch in reversed(node.log):
        assert other.offer(batch) is Verdict.ACCEPTED
        assert other.offer(batch) is Verdict.DUPLICATE
    other.run()
    for batch in node.log:
        assert other.offer(batch) is Verdict.DUPLICATE
    assert other.value("c", "counter") == 10
    assert other.digest == node.digest


def test_a_batch_offered_again_while_its_flight_is_out_changes_nothing() -> None:
    node, other = KernelNode(1), KernelNode(2)
    node.put("a", 1)
    other.offer(node.log[0])
    other.stage()
    other.offer(node.log[0])
    other.land()
    other.run()
    assert other.digest == node.digest
    assert len(other.log) == 1
    assert other.replica.inbox.size == len(other.replica.inbox) == 0


def test_two_contents_for_one_dot_fence_the_replica_and_alarm() -> None:
    original, clone, reader = KernelNode(7), KernelNode(7), KernelNode(2)
    original.put("a", "one")
    clone.put("a", "another")
    reader.join(original)
    assert reader.offer(clone.log[0]) is Verdict.FENCED
    assert [alarm.name for alarm in reader.alarms] == ["fork"]
    original.put("b", 1)
    assert reader.offer(original.log[1]) is Verdict.FENCED
    assert reader.value("a") == "one"


def test_a_fork_that_shows_only_in_the_chain_of_hashes_is_fenced() -> None:
    original, clone, reader = KernelNode(7), KernelNode(7), KernelNode(2)
    original.put("a", "one")
    clone.put("a", "another")
    clone.put("b", "of the clone")
    reader.join(original)
    reader.offer(clone.log[1])
    reader.run()
    assert reader.value("b") is None
    assert [alarm.name for alarm in reader.alarms] == ["fork"]
    assert 7 in reader.replica.inbox.fenced


def test_a_fork_that_arrived_before_what_shows_it_is_fenced_when_its_turn_comes() -> None:
    original, clone, reader = KernelNode(7), KernelNode(7), KernelNode(2)
    original.put("a", "one")
    clone.put("a", "another")
    clone.put("b", "of the clone")
    assert reader.offer(clone.log[1]) is Verdict.ACCEPTED
    assert reader.offer(original.log[0]) is Verdict.ACCEPTED
    reader.run()
    assert (reader.value("a"), reader.value("b")) == ("one", None)
    assert [alarm.name for alarm in reader.alarms] == ["fork"]
    assert 7 in reader.replica.inbox.fenced


def test_a_fork_of_one_replica_does_not_hold_up_another() -> None:
    original, clone, sound, reader = (KernelNode(r) for r in (7, 7, 8, 2))
    original.put("a", "one")
    clone.put("a", "another")
    clone.put("b", "of the clone")
    sound.put("c", "sound")
    reader.join(original)
    reader.offer(clone.log[1])
    reader.offer(sound.log[0])
    reader.run()
    assert reader.value("c") == "sound"


def test_a_later_batch_of_our_own_id_from_elsewhere_is_never_joined() -> None:
    original = KernelNode(7)
    original.put("a", 1)
    clone = original.restarted()
    clone.put("b", "written by a copy of us")
    assert original.offer(clone.log[1]) is Verdict.FENCED
    assert original.alarms
    original.run()
    assert original.value("b") is None


def test_the_clock_goes_on_beyond_what_was_joined() -> None:
    ahead, behind = KernelNode(1), KernelNode(2)
    ahead.now_us += 3_600_000_000
    ahead.put("a", "from the future")
    behind.join(ahead)
    behind.put("a", "after it")
    stamp = behind.read("a").siblings[0]
    assert stamp.order > ahead.read("a").siblings[0].order
    assert stamp.physical_us == NOW_US
    settle(ahead, behind)
    assert ahead.value("a") == "after it"
