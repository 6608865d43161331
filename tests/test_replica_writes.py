"""What a write supersedes, waits for and leaves: observed, conditions, ids, expiry, trust."""

from __future__ import annotations

from dataclasses import replace

import pytest

from crdtmem.causality import Observed
from crdtmem.entries import pack_dot
from crdtmem.errors import (
    ConditionFailed,
    InvalidValue,
    NotCovered,
    SiblingLimit,
    StoreFailed,
)
from crdtmem.limits import DEFAULT_LIMITS
from crdtmem.policy import SYSTEM_SPACE, Policy, policy_key
from tests.kernel_node import (
    NOW_US,
    SPACE,
    KernelNode,
    operation,
    puts,
    settle,
    siblings,
    transaction_of,
)

SMALL = replace(DEFAULT_LIMITS, siblings=3)


# ---------------------------------------------------------------------- what a write supersedes


def test_concurrent_writes_are_siblings_and_all_replicas_read_alike() -> None:
    nodes = [KernelNode(r) for r in (1, 2, 3)]
    for node in nodes:
        node.put("k", f"by {node.replica.identity.replica}")
    settle(*nodes)
    assert siblings(nodes[0], "k") == ["by 1", "by 2", "by 3"]
    assert len({node.value("k") for node in nodes}) == 1
    assert len({node.digest for node in nodes}) == 1
    assert nodes[0].read("k").contested


def test_a_blind_write_supersedes_what_is_held_at_that_moment() -> None:
    one, two = KernelNode(1), KernelNode(2)
    one.put("k", 1)
    two.put("k", 2)
    one.join(two)
    one.put("k", 3)
    settle(one, two)
    assert siblings(two, "k") == [3]


def test_a_write_with_observed_supersedes_exactly_that() -> None:
    one, two = KernelNode(1), KernelNode(2)
    one.put("k", 1)
    seen = one.read("k").observed
    two.put("k", 2)
    one.join(two)
    one.commit(operation("register", "k", "set", 3, observed=seen.dots))
    assert siblings(one, "k") == [2, 3]


def test_a_write_waits_for_what_it_observed() -> None:
    origin, node = KernelNode(1), KernelNode(2)
    origin.put("k", "seen over there")
    seen = origin.read("k").observed
    write = transaction_of(operation("register", "k", "set", "then", observed=seen.dots))
    ticket = node.submit(write, deadline_us=NOW_US + 1_000)
    assert node.stage() is None
    assert ticket not in node.replies
    assert node.replica.next_deadline_us() == NOW_US + 1_000
    node.join(origin)
    assert node.answer(ticket).count == 1
    assert siblings(node, "k") == ["then"]


def test_a_write_whose_observed_never_comes_is_refused_at_its_deadline() -> None:
    node = KernelNode()
    seen = frozenset({pack_dot(9, 1)})
    write = transaction_of(operation("register", "k", "set", 1, observed=seen))
    ticket = node.submit(write, deadline_us=NOW_US + 1_000)
    at_once = node.submit(transaction_of(operation("register", "k", "set", 1, observed=seen)))
    with pytest.raises(NotCovered):
        node.answer(at_once)
    node.apply(node.replica.handle_timeout(NOW_US + 999))
    assert ticket not in node.replies
    node.apply(node.replica.handle_timeout(NOW_US + 1_000))
    with pytest.raises(NotCovered):
        node.answer(ticket)
    assert node.replica.next_deadline_us() is None


def test_a_write_after_a_context_waits_for_all_of_it() -> None:
    origin, node = KernelNode(1), KernelNode(2)
    first = origin.put("a", 1)
    second = origin.put("b", 2)
    ticket = node.submit(puts({"c": 3}), after=second.context.vector, deadline_us=NOW_US + 1_000)
    node.offer(origin.log[0])
    node.run()
    assert ticket not in node.replies
    assert node.replica.context >= first.context
    node.offer(origin.log[1])
    node.run()
    assert node.answer(ticket).context >= second.context


def test_a_wait_is_answered_when_its_context_is_published_or_at_its_deadline() -> None:
    origin, node = KernelNode(1), KernelNode(2)
    context = origin.put("a", 1).context
    assert node.replica.wait("late", context.vector, NOW_US, NOW_US)[0].error is not None  # type: ignore[union-attr]
    node.apply(node.replica.wait("w", context.vector, NOW_US, NOW_US + 10))
    node.offer(origin.log[0])
    node.stage()
    assert "w" not in node.replies, "joined, but not published yet"
    node.land()
    assert node.replies["w"].result >= context
    node.apply(node.replica.wait("x", {9: 1}, NOW_US, NOW_US + 10))
    node.apply(node.replica.handle_timeout(NOW_US + 10))
    assert isinstance(node.replies["x"].error, NotCovered)


def test_a_conditional_write_is_refused_with_the_newer_siblings() -> None:
    node = KernelNode()
    node.put("k", "old")
    seen = node.read("k").observed
    node.put("k", "newer")
    with pytest.raises(ConditionFailed) as refused:
        node.commit(operation("register", "k", "set", 1, observed=seen.dots, conditional=True))
    details = refused.value.details
    assert [sibling["value"] for sibling in details["siblings"]] == ["newer"]
    again = Observed.parse(details["observed"]).dots
    node.commit(operation("register", "k", "set", "mine", observed=again, conditional=True))
    assert node.value("k") == "mine"


def test_of_two_conditional_writes_in_one_flight_the_second_is_refused() -> None:
    node = KernelNode()
    write = operation("register", "k", "set", 1, observed=frozenset(), conditional=True)
    first, second = (node.submit(transaction_of(write)) for _ in range(2))
    node.run()
    assert node.answer(first).count == 1
    with pytest.raises(ConditionFailed):
        node.answer(second)


def test_a_conditional_write_means_what_a_reader_sees_of_what_expired() -> None:
    origin, node = KernelNode(1), KernelNode(2)
    origin.commit(operation("register", "k", "set", "brief", expires_at_us=NOW_US + 10))
    node.join(origin)
    node.now_us = NOW_US + 20
    seen = node.read("k").observed
    assert not seen
    node.commit(operation("register", "k", "set", 1, observed=seen.dots, conditional=True))
    assert node.value("k") == 1


def test_at_the_sibling_limit_a_blind_write_is_refused_and_an_informed_one_is_not() -> None:
    nodes = [KernelNode(r, limits=SMALL) for r in (1, 2, 3, 4)]
    for node in nodes:
        node.put("k", node.replica.identity.replica)
        node.commit(operation("map", "m", "set", "f", node.replica.identity.replica))
    settle(*nodes)
    node = nodes[0]
    assert siblings(node, "k") == [1, 2, 3, 4], "a join never refuses"
    for blind in (puts({"k": 5}), transaction_of(operation("register", "k", "set", 5))):
        with pytest.raises(SiblingLimit) as refused:
            node.commit(blind)
        assert len(refused.value.details["siblings"]) == 4
    nothing = operation("register", "k", "set", 5, observed=frozenset())
    with pytest.raises(SiblingLimit):
        node.commit(nothing)
    seen = Observed.parse(refused.value.details["observed"])
    node.commit(operation("register", "k", "set", 5, observed=seen.dots))
    assert siblings(node, "k") == [5]
    node.put("k", 6)


# ---------------------------------------------------------------------- operation ids


def test_an_operation_id_counts_once_in_one_flight_and_across_flights() -> None:
    node = KernelNode()
    step = operation("counter", "c", "increment", 5)
    tickets = [node.submit(transaction_of(step, operation_id=b"charge")) for _ in range(3)]
    node.run()
    tickets.append(node.submit(transaction_of(step, operation_id=b"charge")))
    node.run()
    answers = [node.answer(ticket) for ticket in tickets]
    assert node.value("c", "counter") == 5
    assert [answer.repeated for answer in answers] == [False, True, True, True]
    assert {answer.first for answer in answers} == {node.dot(1)}
    assert all(answer.context >= answers[0].context for answer in answers)


def test_an_operation_id_is_known_after_a_restart_and_at_other_replicas() -> None:
    node, other = KernelNode(1), KernelNode(2)
    step = operation("counter", "c", "increment", 5)
    node.commit(step, operation_id=b"charge")
    other.join(node)
    for place in (node.restarted(), other):
        assert place.commit(step, operation_id=b"charge").repeated
        assert place.value("c", "counter") == 5


def test_a_repeat_of_a_transaction_of_several_parts_names_all_its_dots() -> None:
    node = KernelNode()
    parts = (
        operation("register", "a", "set", 1),
        operation("counter", "c", "increment", 1),
        operation("log", "l", "extend", [1, 2, 3]),
    )
    first = node.commit(*parts, operation_id=b"x")
    node.put("other", 1)
    again = node.restarted().commit(*parts, operation_id=b"x")
    assert (again.first, again.count) == (first.first, first.count) == (node.dot(1), 5)


# ---------------------------------------------------------------------- expiry


def test_an_entry_expires_for_readers_at_once_and_for_good_by_a_delta() -> None:
    node, other = KernelNode(1), KernelNode(2)
    node.commit(operation("register", "k", "set", 1, expires_at_us=NOW_US + 10))
    other.join(node)
    node.now_us = other.now_us = NOW_US + 10
    for place in (node, other):
        assert not place.read("k").exists
        assert place.replica.peek(SPACE, "k", place.now_us, "none") == "none"
    node.apply(node.replica.handle_timeout(node.now_us))
    other.apply(other.replica.handle_timeout(other.now_us))
    assert not other.replica.has_work, "only its writer removes it"
    node.run()
    settle(node, other)
    assert node.digest == other.digest == (0, 0)
    assert node.replica.state.find(SPACE, 1).slots == {}  # type: ignore[union-attr]


def test_a_renewal_survives_the_removal_of_what_it_renewed() -> None:
    node = KernelNode()
    node.commit(operation("register", "k", "set", 1, expires_at_us=NOW_US + 10))
    node.apply(node.replica.handle_timeout(NOW_US + 10))
    node.commit(operation("register", "k", "set", 2, expires_at_us=NOW_US + 1_000))
    assert node.value("k") == 2


def test_expiry_is_taken_up_again_after_a_restart() -> None:
    node = KernelNode()
    node.commit(operation("register", "k", "set", 1, expires_at_us=NOW_US + 10))
    fresh = node.restarted()
    assert fresh.replica.next_deadline_us() == NOW_US + 10
    fresh.apply(fresh.replica.handle_timeout(NOW_US + 10))
    fresh.run()
    assert fresh.digest == (0, 0)


def test_a_removal_that_could_not_be_committed_is_tried_again() -> None:
    node = KernelNode()
    node.commit(operation("register", "k", "set", 1, expires_at_us=NOW_US + 10))
    node.apply(node.replica.handle_timeout(NOW_US + 10))
    node.stage()
    node.fail()
    node.apply(node.replica.refuse_queued(StoreFailed("still broken")))
    node.run()
    assert node.digest == (0, 0)


@pytest.mark.parametrize("datatype", ["counter", "bounded_counter", "set_remove_wins"])
def test_what_guards_others_is_not_given_an_expiry(datatype: str) -> None:
    node = KernelNode()
    name, argument = {
        "counter": ("increment", 1),
        "bounded_counter": ("mint", 1),
        "set_remove_wins": ("add", "x"),
    }[datatype]
    with pytest.raises(InvalidValue):
        node.commit(operation(datatype, "k", name, argument, expires_at_us=NOW_US + 10))


# ---------------------------------------------------------------------- policies and trust


def set_policy(node: KernelNode, policy: Policy) -> None:
    key = policy_key(SPACE)
    node.commit(operation("register", key, "set", policy.as_value(), space=SYSTEM_SPACE))


def test_a_policy_is_replicated_and_survives_a_restart() -> None:
    node, other = KernelNode(1), KernelNode(2)
    node.put("k", 3)
    other.put("k", 1)
    settle(node, other)
    set_policy(node, Policy(resolver="maximum"))
    other.join(node)
    for place in (node, other, other.restarted()):
        assert place.value("k") == 3
        assert place.read("k").resolver == "maximum@1"
    set_policy(other, Policy(resolver="minimum"))
    node.join(other)
    assert node.value("k") == 1


def test_an_unknown_resolver_serves_the_siblings_and_says_so() -> None:
    node = KernelNode()
    set_policy(node, Policy(resolver="latest", resolver_version=99))
    node.put("k", 1)
    reading = node.read("k")
    assert reading.unknown_resolver
    assert reading.value == [1]


def test_a_less_trusted_write_never_displaces_a_more_trusted_one() -> None:
    node = KernelNode()
    set_policy(node, Policy(trust_ordered=True))
    keys = [f"k{n}" for n in range(12)]
    node.commit(puts(dict.fromkeys(keys, "trusted"), trust=5))
    node.commit(puts(dict.fromkeys(keys, "rumour"), trust=1))
    node.commit(operation("register", "k0", "delete"), trust=1)
    assert siblings(node, "k0") == ["trusted"]
    assert siblings(node, "k1") == ["rumour", "trusted"]
    node.commit(puts({"k1": "settled"}, trust=5))
    assert siblings(node, "k1") == ["settled"]
    other = KernelNode(2)
    other.join(node)
    assert other.digest == node.digest


# ---------------------------------------------------------------------- recovery


def test_recovery_from_the_log_gives_the_same_state_and_goes_on() -> None:
    one, two = KernelNode(1), KernelNode(2)
    for n in range(30):
        one.put(f"k{n % 7}", n)
        one.commit(operation("counter", "c", "increment", 1), author=f"agent {n % 3}")
        two.commit(operation("set", "s", "add", n), operation("set", "s", "remove", n - 1))
        two.put(f"k{n % 5}", -n)
        if n % 4 == 0:
            settle(one, two)
    settle(one, two)
    fresh = one.restarted()
    assert fresh.digest == one.digest == two.digest
    assert fresh.replica.state.vector == one.replica.state.vector
    assert fresh.replica.tips == one.replica.tips
    assert fresh.value("c", "counter") == 30
    order = max(view.order for key in ("k0", "k1") for view in one.read(key).siblings)
    assert fresh.replica.clock.order >= order
    fresh.put("after", 1)
    two.join(fresh)
    assert two.digest == fresh.digest


def test_recovering_a_batch_twice_changes_nothing() -> None:
    node, other = KernelNode(1), KernelNode(2)
    for n in range(20):
        node.put(f"k{n % 3}", n)
        other.put(f"k{n % 3}", -n)
        node.commit(operation("log", "l", "append", n))
        if n % 5 == 0:
            settle(node, other)
    settle(node, other)
    fresh = node.restarted()
    for batch in node.log:
        fresh.replica.recover_batch(batch)
    fresh.replica.recovered({})
    assert fresh.digest == node.digest
    assert {key: siblings(fresh, key) for key in ("k0", "k1", "k2")} == {
        key: siblings(node, key) for key in ("k0", "k1", "k2")
    }


def test_also_names_what_else_is_held_under_a_key() -> None:
    node = KernelNode()
    node.put("k", 1)
    node.commit(operation("counter", "k", "increment", 1))
    node.commit(operation("set", "k", "add", 1))
    node.commit(operation("set", "k", "remove", 1))
    assert node.read("k").also == ("counter",)
    assert node.read("k", "counter").also == ("register",)
