"""Queues are bounded by bytes as well as by count, and never lose what a replica owes.

Harm: a hundred thousand transactions of four megabytes filled no queue and all memory; and at
a full queue a replica refused its own promises, which nobody asked for again.
"""

from __future__ import annotations

from typing import Any

import pytest

from crdtmem.effects import Reply, SetTimer
from crdtmem.errors import ConfigError, DurabilityTimeout, NotCovered, Overloaded
from crdtmem.limits import DEFAULT_LIMITS, FRAME_OVERHEAD_BYTES, Limits
from crdtmem.transaction import Transaction
from tests.engines import PATIENCE_US, World
from tests.kernel_node import NOW_US, KernelNode, puts

SMALL = Limits(
    key_bytes=64,
    value_bytes=1_000,
    batch_bytes=2_000,
    queue_bytes=10_000,
    queue_transactions=30,
    waiters=5,
    frame_bytes=2_000 + FRAME_OVERHEAD_BYTES,
)


def refused(effects: list[Any]) -> bool:
    """Tell whether the one effect is the refusal of what found no room."""
    return [type(effect.error) for effect in effects if type(effect) is Reply] == [Overloaded]


def fill(node: KernelNode, size: int, **more: Any) -> int:
    """Submit transactions of one value of that size until one is refused; return how many fit."""
    taken = 0
    while True:
        transaction = puts({f"k{taken}": "v" * size}).seal(node.replica.limits)
        effects = node.replica.submit(object(), transaction, NOW_US, **more)
        # What waits asks to be looked at again at its deadline; it has been taken.
        if any(type(effect) is not SetTimer for effect in effects):
            assert refused(effects)
            return taken
        taken += 1


def test_large_transactions_fill_the_queue_by_bytes() -> None:
    node = KernelNode(limits=SMALL)
    assert 8 <= fill(node, 950) <= 10
    assert node.replica.queues()["transaction_bytes"] <= SMALL.queue_bytes
    # Each is staged once, whatever did not fit a batch and was put back meanwhile.
    node.run()
    assert node.replica.queues()["transaction_bytes"] == 0
    assert 8 <= fill(node, 950) <= 10


def test_small_ones_fill_it_by_count() -> None:
    node = KernelNode(limits=SMALL)
    assert fill(node, 1) == SMALL.queue_transactions


def test_what_waits_for_its_causes_counts_too() -> None:
    node = KernelNode(limits=SMALL)
    waiting = fill(node, 950, after={9: 9}, deadline_us=NOW_US + 10)
    assert 4 <= waiting <= 5, "half of the room is for what need not wait"
    assert 8 <= waiting + fill(node, 950) <= 10
    assert len(node.replica.handle_timeout(NOW_US + 10)) >= waiting
    node.run()
    assert node.replica.queues()["transaction_bytes"] == 0
    assert fill(node, 950) >= 8
    node.replica.refuse_queued(Overloaded("a test"))
    assert node.replica.queues()["transaction_bytes"] == 0


def test_what_a_replica_asks_of_itself_is_never_refused() -> None:
    node = KernelNode(limits=SMALL)
    fill(node, 950)
    promise = puts({"promise": "kept"}).seal(SMALL)
    assert node.replica.submit(None, promise, NOW_US, first=True) == []
    node.run()
    assert node.value("promise") == "kept"


def test_readers_that_wait_are_bounded() -> None:
    replica = KernelNode(limits=SMALL).replica
    for number in range(SMALL.waiters):
        assert replica.wait(number, {9: 9}, NOW_US, NOW_US + 10) == []
    assert refused(replica.wait("one more", {9: 9}, NOW_US, NOW_US + 10))
    assert not refused(replica.wait("covered", {}, NOW_US, NOW_US + 10)), "it need not wait"
    answers = replica.handle_timeout(NOW_US + 10)
    assert [type(answer.error) for answer in answers if type(answer) is Reply] == [
        NotCovered
    ] * SMALL.waiters
    assert replica.wait("later", {9: 9}, NOW_US + 10, NOW_US + 20) == []


def test_writers_that_wait_for_durability_are_bounded_and_told_how_far_it_came() -> None:
    world = World()
    a, _ = world.cluster("ab", limits=SMALL)
    unreached, later_us = {a.id: 1 << 40}, world.now_us + 1_000_000
    for number in range(SMALL.waiters):
        effects = a.engine.await_durability(number, unreached, "all", world.now_us, later_us)
        assert not any(isinstance(effect, Reply) for effect in effects)
    (answer,) = a.engine.await_durability("x", unreached, "all", world.now_us, later_us)
    assert isinstance(answer, Reply)
    assert isinstance(answer.error, DurabilityTimeout)
    assert answer.ticket == "x"
    world.spend(2)
    assert len(a.replies) >= SMALL.waiters


def test_a_compensation_that_found_no_room_is_written_when_there_is_some() -> None:
    world = World(7)
    limits = Limits(queue_transactions=1)
    a, b = world.cluster("ab", limits=limits)
    world.cut(a)
    for node in (a, b):
        world.spend(1)
        node.operate("counter", "n", "increment", 5, retry=b"one operation")
    world.spend(1)
    # Somebody waits on b for what never comes, and fills its queue.
    ticket = b.operate("register", "k", "set", 1, after={9: 9})
    world.link(a, b)
    world.until(lambda: b.get("n", "counter") == 10, "second copy")
    world.spend(1)
    assert b.get("n", "counter") == 10
    assert not any(isinstance(key, Transaction) for key in b.replies)
    world.spend(PATIENCE_US / 1e6)
    assert isinstance(b.replies[ticket].error, NotCovered)
    b.put("something", "else")
    world.settle()
    assert (a.get("n", "counter"), b.get("n", "counter")) == (5, 5)


def test_a_queue_holds_at_least_one_transaction() -> None:
    with pytest.raises(ConfigError, match="queue_bytes"):
        Limits(queue_bytes=DEFAULT_LIMITS.batch_bytes - 1)
