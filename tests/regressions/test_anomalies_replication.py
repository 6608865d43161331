"""The anomalies of other replication systems, each a named test of the kernel.

The numbers are those of our list of anomalies; what each system's users reported
is in the docstring. Anomalies of datatypes, identity and membership have modules of
their own beside this one.
"""

from __future__ import annotations

import dataclasses

import pytest

from crdtmem.causality import Context, DotRanges, VersionVector
from crdtmem.effects import Persist
from crdtmem.entries import pack_dot
from crdtmem.errors import (
    ConditionFailed,
    FrameTooLarge,
    NotCovered,
    SiblingLimit,
)
from crdtmem.frames import FrameReader
from crdtmem.inbox import Verdict
from crdtmem.install import Installation, Kind
from crdtmem.limits import DEFAULT_LIMITS
from crdtmem.policy import SYSTEM_SPACE, Policy, policy_key
from crdtmem.snapshot import SnapshotHeader
from crdtmem.table import State
from crdtmem.transaction import Transaction
from tests.kernel_node import SPACE, KernelNode, operation, puts, settle

SECOND_US = 1_000_000


def three() -> tuple[KernelNode, KernelNode, KernelNode]:
    """Three regions that know nothing of each other yet."""
    return KernelNode(1, "eu"), KernelNode(2, "us"), KernelNode(3, "ap")


def set_policy(node: KernelNode, policy: Policy) -> None:
    node.commit(operation("register", policy_key(SPACE), "set", policy.as_value(),
                          space=SYSTEM_SPACE))  # fmt: skip


def snapshot_of(node: KernelNode) -> Installation:
    """The whole published state, as it would reach a peer."""
    state = State(node.replica.state.shapes)
    for table, key, field, entry in node.replica.state.entries():
        copy = state.table(table.space, table.datatype)
        if copy.nested:
            copy.slots.setdefault(key, {})[field] = entry
        else:
            copy.slots[key] = entry
    vector = node.replica.state.vector.copy()
    state.vector = vector
    header = SnapshotHeader(vector=vector, tips=dict(node.replica.tips))
    return Installation(Kind.WHOLE, header, state)


def test_01_a_partial_payload_claims_no_more_context_than_it_covers() -> None:
    """A diff of some keys sent with the full context deleted the others (delta_crdt_ex #65)."""
    a, b, _ = three()
    a.put("kept", 1)
    b.join(a)
    a.put("one", 1)
    a.put("two", 2)
    b.offer(a.written[-1])
    b.run()
    # The second of two batches alone: it waits, it claims nothing, it deletes nothing.
    assert b.value("kept") == 1
    assert b.value("two") is None
    assert not b.replica.state.vector.covers(a.dot(2))
    b.join(a)
    assert (b.value("kept"), b.value("one"), b.value("two")) == (1, 1, 2)


def test_02_a_gap_between_dots_is_never_read_as_seen() -> None:
    """Compressing a set of dots to its maximum hid dots that nobody had joined."""
    ranges = DotRanges({7: [(1, 3), (5, 9)]})
    assert ranges.contiguous() == VersionVector({7: 3})
    assert ranges.gaps(7, 9) == [(4, 4)]
    assert pack_dot(7, 4) not in ranges


def test_04_an_old_removal_cannot_kill_a_key_that_was_made_again() -> None:
    """A tombstone kept under the key's name removed a later incarnation ("doomstone")."""
    a, b, c = three()
    a.put("k", "old")
    settle(a, b)
    b.commit(operation("register", "k", "delete"))
    a.join(b)
    a.put("k", "new")
    # C sees the new value's batches before it sees the removal's.
    for batch in a.written:
        c.offer(batch)
    c.run()
    c.join(b)
    c.join(a)
    assert c.value("k") == a.value("k") == "new"
    assert c.digest == a.digest


def test_05_a_replica_that_was_away_for_long_resurrects_nothing() -> None:
    """A peer offline past the tombstones' lifetime brought deleted keys back ("zombie")."""
    a, b, c = three()
    a.put("k", "dead soon")
    settle(a, b, c)
    a.commit(operation("register", "k", "delete"))
    settle(a, b)
    for number in range(50):
        a.put(f"other {number}", number)
    c.put("written offline", 1)
    settle(a, b, c)
    assert a.value("k") is b.value("k") is c.value("k") is None
    assert a.digest == b.digest == c.digest


def test_06_no_time_that_passes_collects_anything() -> None:
    """Tombstones dropped by a timer let an in-flight add come back (smg #1661)."""
    a, b, c = three()
    a.commit(operation("set_remove_wins", "s", "add", "x"))
    settle(a, b, c)
    b.commit(operation("set_remove_wins", "s", "remove", "x"))
    c.commit(operation("set_remove_wins", "s", "add", "x"))
    for node in (a, b, c):
        node.now_us += 365 * 24 * 3600 * SECOND_US
        node.apply(node.replica.handle_timeout(node.now_us))
        node.run()
    settle(a, b, c)
    assert [node.value("s", "set_remove_wins") for node in (a, b, c)] == [[], [], []]


def test_08_whoever_knows_that_entries_are_gone_also_lacks_them() -> None:
    """A marker "pruned" travelled without the pruned state (akka.net #8219)."""
    a, b, c = three()
    a.put("k", 1)
    settle(a, b)
    b.commit(operation("register", "k", "delete"))
    a.join(b)
    c.put("mine", 2)
    c.replica.install(snapshot_of(a))
    c.run()
    # Marker and state are one thing: the vector, and the absence of the entry.
    assert c.replica.state.vector.dominates(a.replica.state.vector)
    assert c.value("k") is None
    assert c.value("mine") == 2
    c.join(b, a)
    assert c.value("k") is None


def test_11_sent_is_not_acknowledged() -> None:
    """A delta counted as delivered once it was written to a socket (Pekko)."""
    a, b, _ = three()
    a.put("k", 1)
    verdict = b.offer(a.written[0])
    assert verdict is Verdict.ACCEPTED
    # Taken in, even staged, but not durable: the vector, which is what is
    # acknowledged, does not cover it.
    flight = b.stage()
    assert flight is not None
    assert not b.replica.state.vector.covers(a.dot(1))
    b.land()
    assert b.replica.state.vector.covers(a.dot(1))


def test_12_nothing_is_answered_seen_or_notified_before_it_is_durable() -> None:
    """Writes were acknowledged before their fsync, and a crash lost them."""
    a, _, _ = three()
    ticket = a.submit(puts({"k": 1}))
    effects = a.replica.stage(a.now_us)
    assert [type(effect) for effect in effects] == [Persist]
    assert ticket not in a.replies
    assert a.value("k") is None
    a.flight = a.replica.flight
    a.land()
    assert a.order[-2:] == [("notify", [1]), ("reply", ticket)]
    assert a.value("k") == 1


def test_14_a_refused_batch_is_not_remembered_as_seen() -> None:
    """Dropped changes stayed in the cache of seen ones, and were never taken (corrosion #577)."""
    limits = dataclasses.replace(DEFAULT_LIMITS, early_batches_per_peer=2)
    a, b = KernelNode(1), KernelNode(2, limits=limits)
    for number in range(6):
        a.put(f"k{number}", number)
    verdicts = [b.offer(batch) for batch in reversed(a.written)]
    assert Verdict.FULL in verdicts
    b.run()
    for _ in range(6):
        b.join(a)
    assert b.digest == a.digest
    assert b.value("k5") == 5


def test_17_a_clock_in_the_future_pins_no_key() -> None:
    """One write from a clock years ahead won against all later ones for years."""
    a, b, _ = three()
    a.now_us += 10 * 365 * 24 * 3600 * SECOND_US
    a.put("k", "from the future")
    b.join(a)
    b.put("k", "later, and it saw the other")
    a.join(b)
    assert a.value("k") == b.value("k") == "later, and it saw the other"
    assert not a.read("k").contested


def test_18_a_clock_that_steps_back_after_a_restart_reorders_nothing() -> None:
    """Stamps fell below those already issued, so a newer write lost against an older one."""
    a, b, _ = three()
    first = a.put("k", "first")
    old = a.replica.state.find(SPACE, 1)
    assert old is not None
    before = old.slots["k"][2]
    again = a.restarted()
    again.replica.recovered(
        {"clock": b"\x92" + b"\xcf" + before.order.to_bytes(8, "big")
                  + b"\xcf" + before.physical_us.to_bytes(8, "big")}
    )  # fmt: skip
    again.now_us -= 3_600 * SECOND_US
    second = again.put("k", "second")
    table = again.replica.state.find(SPACE, 1)
    assert table is not None
    after = table.slots["k"][2]
    assert after.order > before.order
    assert after.physical_us >= before.physical_us
    assert first.context < second.context
    b.join(again)
    assert b.value("k") == "second"


def test_19_only_dots_decide_what_came_before() -> None:
    """Clocks without a common origin were compared across hosts (delta_crdt)."""
    a, b, _ = three()
    a.now_us, b.now_us = 5, 10**17
    a.put("k", "a")
    b.join(a)
    b.put("k", "b saw a")
    a.join(b)
    a.put("k", "a saw b")
    b.join(a)
    assert a.value("k") == b.value("k") == "a saw b"
    assert not b.read("k").contested


def test_24_siblings_do_not_explode() -> None:
    """A client that wrote without reading grew one key by a sibling per write (Riak)."""
    limits = dataclasses.replace(DEFAULT_LIMITS, siblings=4)
    nodes = [KernelNode(number, f"r{number}", limits) for number in range(1, 7)]
    for node in nodes:
        node.put("k", node.replica.identity.replica)
    settle(*nodes)
    a = nodes[0]
    # Joins are never refused, and a blind write at the limit is, with what is there.
    assert len(a.read("k").siblings) == 6
    with pytest.raises(SiblingLimit) as refused:
        a.put("k", "blind")
    assert len(refused.value.details["siblings"]) == 6
    observed = a.read("k").observed
    a.commit(operation("register", "k", "set", "settled", observed=observed.dots))
    assert a.value("k") == "settled"
    assert not a.read("k").contested


def test_25_no_half_of_a_transaction_is_ever_visible() -> None:
    """Readers saw some of the keys that were written together."""
    a, b, _ = three()
    transaction = puts({"debit": -5})
    transaction.put(("other", "space"), 1, "credit", 5)
    transaction.add(operation("counter", "moves", "increment", 1))
    a.commit(transaction)
    b.offer(a.written[0])
    assert b.stage() is not None
    seen = [b.value("debit"), b.read("credit", space=("other", "space")).value]
    assert seen == [None, None]
    assert b.value("moves", "counter") == 0
    b.land()
    seen = [b.value("debit"), b.read("credit", space=("other", "space")).value]
    assert seen == [-5, 5]
    assert b.value("moves", "counter") == 1


def test_26_regions_agree_on_what_has_expired() -> None:
    """Each region expired by its own timer, and one region's expiry undid another's renewal."""
    a, b, _ = three()
    end_us = a.now_us + 10 * SECOND_US
    a.commit(operation("register", "k", "set", "short", expires_at_us=end_us))
    b.join(a)
    # B renews what A's expiry is about to remove.
    observed = b.read("k").observed
    b.commit(operation("register", "k", "set", "renewed", observed=observed.dots))
    a.now_us = end_us + 1
    assert a.value("k") is None
    a.apply(a.replica.handle_timeout(a.now_us))
    a.run()
    b.now_us = a.now_us
    settle(a, b)
    assert a.value("k") == b.value("k") == "renewed"
    assert a.digest == b.digest


def test_28_an_oversized_frame_is_refused_once_and_not_asked_for_again() -> None:
    """A frame over the peer's limit was sent, refused and sent again, for ever."""
    reader = FrameReader(1 << 16)
    with pytest.raises(FrameTooLarge):
        list(reader.feed((1 << 31).to_bytes(4, "big") + bytes(4)))
    # Nothing that could be over the limit can be written in the first place.
    a, _, _ = three()
    with pytest.raises(Exception, match="limit"):
        a.put("k", "x" * (DEFAULT_LIMITS.value_bytes + 1))
    assert DEFAULT_LIMITS.batch_bytes < DEFAULT_LIMITS.frame_bytes


def test_29_a_resolver_that_a_node_lacks_is_said_and_not_guessed() -> None:
    """Nodes of two versions resolved the same siblings to two values."""
    a, b, _ = three()
    set_policy(a, Policy("latest", 99))
    a.put("k", "from a")
    b.put("k", "from b")
    settle(a, b)
    for node in (a, b):
        reading = node.read("k")
        assert reading.unknown_resolver
        assert reading.contested
        assert reading.value == ["from a", "from b"]


def test_30_a_decision_on_stale_context_is_refused_with_what_is_newer() -> None:
    """Two agents decided upon the same old value, and both decisions were merged."""
    a, b, _ = three()
    a.put("seat", "free")
    b.join(a)
    seen_by_b = b.read("seat").observed
    a.put("seat", "taken by a")
    b.join(a)
    with pytest.raises(ConditionFailed) as refused:
        b.commit(operation("register", "seat", "set", "taken by b",
                           observed=seen_by_b.dots, conditional=True))  # fmt: skip
    assert [s["value"] for s in refused.value.details["siblings"]] == ["taken by a"]
    assert b.value("seat") == "taken by a"


def test_31_a_snapshot_meets_what_was_written_meanwhile() -> None:
    """An import over a shallow snapshot with a concurrent operation never finished (loro)."""
    a, b, _ = three()
    for number in range(20):
        a.put(f"k{number}", number)
    b.put("k3", "mine, concurrent")
    b.put("own", 1)
    b.replica.install(snapshot_of(a))
    b.run()
    assert b.value("own") == 1
    assert b.value("k4") == 4
    assert {s.value for s in b.read("k3").siblings} == {3, "mine, concurrent"}
    a.put("after", 2)
    settle(a, b)
    assert b.value("after") == 2
    assert a.digest == b.digest


def test_a_read_in_one_region_and_its_write_in_another_that_has_not_joined_it() -> None:
    """The write waits for the dots that its reader saw, or is refused at the deadline."""
    a, b, _ = three()
    a.put("k", "v1")
    observed = a.read("k").observed
    transaction = Transaction()
    transaction.add(operation("register", "k", "set", "v2", observed=observed.dots))
    ticket = b.submit(transaction, deadline_us=b.now_us + SECOND_US)
    b.run()
    assert ticket not in b.replies
    b.join(a)
    assert b.answer(ticket).count == 1
    a.join(b)
    assert a.value("k") == b.value("k") == "v2"
    assert not a.read("k").contested
    with pytest.raises(NotCovered):
        b.commit(operation("register", "k", "set", "v3", observed=frozenset({a.dot(99)})))


def test_a_read_in_one_region_followed_by_a_blind_write_in_another() -> None:
    """A blind write supersedes what *its* replica holds: the value read elsewhere survives."""
    a, b, _ = three()
    a.put("k", "read here")
    assert a.value("k") == "read here"
    b.put("k", "blind there")
    settle(a, b)
    assert {s.value for s in a.read("k").siblings} == {"read here", "blind there"}


def test_a_read_in_one_region_followed_by_a_conditional_write_in_another() -> None:
    """It waits for what was read, and then either holds or names what is newer."""
    a, b, _ = three()
    a.put("k", "v1")
    observed = a.read("k").observed.dots
    transaction = Transaction()
    transaction.add(operation("register", "k", "set", "v2", observed=observed, conditional=True))
    b.put("k", "written there meanwhile")
    ticket = b.submit(transaction, deadline_us=b.now_us + SECOND_US)
    b.join(a)
    with pytest.raises(ConditionFailed):
        b.answer(ticket)
    assert {s.value for s in b.read("k").siblings} == {"v1", "written there meanwhile"}


@pytest.mark.parametrize("has_read", [False, True])
def test_an_untrusted_write_over_a_trusted_value(has_read: bool) -> None:
    """Neither timing nor having read it lets an untrusted author displace a trusted value."""
    a, b, _ = three()
    set_policy(a, Policy("most_trusted", 1, trust_ordered=True))
    settle(a, b)
    a.put("limit", 100, trust=9, author="operator")
    b.join(a)
    observed = {"observed": b.read("limit").observed.dots} if has_read else {}
    b.commit(operation("register", "limit", "set", 10**6, **observed), author="tool")
    settle(a, b)
    assert a.value("limit") == b.value("limit") == 100
    assert {s.author for s in a.read("limit").siblings} == {"operator", "tool"}
    a.put("limit", 200, trust=9, author="operator")
    settle(a, b)
    assert [s.value for s in b.read("limit").siblings] == [200]


def test_a_failed_commit_and_the_next_dot() -> None:
    """A dot that may have been written is used again only if the store does not hold it."""
    a, b, _ = three()
    a.put("k", 1)
    ticket = a.submit(puts({"k": 2}))
    flight = a.stage()
    assert flight is not None
    lost = flight.batches[0]
    a.fail()
    assert a.replies[ticket].error is not None
    assert a.value("k") == 1
    a.put("k", 3)
    # Read back, the store did not hold the batch: its dot names the next delta now.
    assert a.written[-1].header.first == lost.header.first == 2
    b.join(a)
    assert b.value("k") == 3
    assert b.digest == a.digest
    # Had it been sent all the same, the second batch of that dot would be found out.
    c = KernelNode(3)
    c.offer(a.written[0])
    c.offer(lost)
    c.run()
    assert c.offer(a.written[-1]) is Verdict.FENCED
    assert [alarm.name for alarm in c.alarms] == ["fork"]


def test_contexts_of_writes_order_as_the_writes_did() -> None:
    """Every write returns a context; a later one that saw it is greater, others concurrent."""
    a, b, _ = three()
    first = a.put("x", 1).context
    apart = b.put("y", 1).context
    assert first.concurrent_with(apart)
    b.join(a)
    later = b.put("y", 2).context
    assert later > first
    assert later > apart
    assert Context.parse(str(first.merge(apart))) < later
