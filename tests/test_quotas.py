"""Quotas of a space: judged at the origin, exact, and in nobody's way who does not add."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crdtmem.entries import as_siblings
from crdtmem.errors import InvalidValue, LimitExceeded, QuotaExceeded
from crdtmem.policy import SYSTEM_SPACE, Policy, policy_key
from crdtmem.quotas import entries_of, keys_of
from crdtmem.transaction import Operation, Transaction
from tests.kernel_node import SPACE, KernelNode, operation, puts, settle, transaction_of


def set_policy(node: KernelNode, space: Any = SPACE, **fields: Any) -> None:
    value = Policy(**fields).as_value()
    node.commit(operation("register", policy_key(space), "set", value, space=SYSTEM_SPACE))


def figures(node: KernelNode, space: Any = SPACE) -> tuple[int, int]:
    """Count what a space holds, the slow way."""
    tables = [table for table in node.replica.state.tables.values() if table.space == space]
    entries = sum(len(as_siblings(slot)) for table in tables for _, _, slot in table.places())
    return sum(len(table.slots) for table in tables), entries


def counted(node: KernelNode, space: Any = SPACE) -> tuple[int, int]:
    """Return the same as the replica knows it."""
    return keys_of(node.replica.state, space), entries_of(node.replica.state, space)


def refused(node: KernelNode, *steps: Operation | Transaction) -> QuotaExceeded:
    before = figures(node), node.digest
    with pytest.raises(QuotaExceeded) as error:
        node.commit(*steps)
    assert (figures(node), node.digest) == before
    return error.value


def test_a_key_too_many_is_refused_with_figures_and_all_else_goes_on() -> None:
    node = KernelNode()
    set_policy(node, quota_keys=3)
    node.commit(puts({"a": 1, "b": 2, "c": 3}))
    error = refused(node, puts({"d": 4}))
    assert error.details == {
        "space": ["notes"],
        "quota": "quota_keys",
        "limit": 3,
        "held": 3,
        "after": 4,
    }
    assert isinstance(error, LimitExceeded)
    assert error.code == "quota_exceeded"
    assert error.hint
    node.commit(puts({"a": 5, "b": 6}))
    node.commit(puts({"elsewhere": 1}, space=("other",)))
    node.commit(operation("register", "a", "delete"))
    node.commit(puts({"d": 4}))
    assert counted(node) == figures(node) == (3, 3)


def test_keys_count_per_datatype_and_entries_count_fields() -> None:
    node = KernelNode()
    set_policy(node, quota_keys=2, quota_entries=5)
    node.commit(operation("set", "k", "update", ["a", "b", "c"]))
    node.commit(operation("counter", "k", "increment", 1))
    assert counted(node) == (2, 4)
    assert refused(node, puts({"k": 1})).details["quota"] == "quota_keys"
    node.commit(operation("set", "k", "add", "d"))
    assert refused(node, operation("set", "k", "add", "e")).details["quota"] == "quota_entries"
    node.commit(operation("counter", "k", "increment", 5))
    node.commit(operation("set", "k", "clear"))
    node.commit(operation("set", "k", "add", "e"))
    assert counted(node) == figures(node) == (2, 2)


def test_what_one_flight_stages_is_counted_together() -> None:
    node = KernelNode()
    set_policy(node, quota_keys=2)
    tickets = [node.submit(puts({key: 1})) for key in ("a", "b", "c", "a")]
    node.run()
    outcomes = [type(node.replies[ticket].error).__name__ for ticket in tickets]
    assert outcomes == ["NoneType", "NoneType", "QuotaExceeded", "NoneType"]
    assert counted(node) == (2, 2)


@pytest.mark.parametrize("count", [3, 40])
def test_a_run_alone_in_its_transaction_is_taken_back_whole(count: int) -> None:
    node = KernelNode()
    set_policy(node, quota_keys=2)
    refused(node, puts({f"k{n}": n for n in range(count)}))
    counts = Transaction()
    for number in range(count):
        counts.count(SPACE, 6, f"k{number}", 1)
    refused(node, counts)
    assert counted(node) == (0, 0)
    node.commit(puts({"k0": 1}))
    assert node.value("k0") == 1


def test_one_space_over_its_quota_refuses_the_transaction_in_all() -> None:
    node = KernelNode()
    set_policy(node, quota_entries=0)
    both = puts({"elsewhere": 1}, space=("other",))
    both.put(SPACE, 1, "here", 2)
    refused(node, both)
    assert figures(node, ("other",)) == (0, 0)


def test_a_quota_of_nothing_lets_things_only_go() -> None:
    node = KernelNode()
    node.commit(puts({"a": 1, "b": 2}))
    node.commit(operation("set_remove_wins", "s", "add", "x"))
    set_policy(node, quota_keys=0, quota_entries=0)
    refused(node, puts({"c": 1}))
    node.commit(puts({"a": 3}))
    # A removal that guards against what may still arrive is an entry more, and goes ahead.
    node.commit(operation("set_remove_wins", "s", "remove", "never there"))
    node.commit(operation("register", "a", "delete"), operation("register", "b", "delete"))
    assert figures(node)[0] == 1


def test_a_transaction_that_adds_as_much_as_it_takes_away_passes() -> None:
    node = KernelNode()
    set_policy(node, quota_keys=1)
    node.commit(puts({"a": 1}))
    node.commit(
        transaction_of(operation("register", "a", "delete"), operation("register", "b", "set", 2))
    )
    assert counted(node) == (1, 1)


def test_joins_know_no_quota_and_beyond_it_nobody_adds() -> None:
    node, other = KernelNode(1), KernelNode(2)
    set_policy(node, quota_keys=2)
    settle(node, other)
    node.commit(puts({"a": 1, "b": 2}))
    other.commit(puts({"c": 1, "d": 2}))
    settle(node, other)
    assert node.digest == other.digest
    assert counted(node) == counted(other) == (4, 4)
    for place in (node, other):
        error = refused(place, puts({"e": 1}))
        assert error.details["held"] == 4
    node.commit(operation("register", "a", "delete"))
    refused(node, puts({"e": 1}))
    node.commit(operation("register", "b", "delete"), operation("register", "c", "delete"))
    node.commit(puts({"e": 1}))


def test_counts_and_quotas_survive_a_restart_and_end_with_the_policy() -> None:
    node = KernelNode()
    set_policy(node, quota_keys=2)
    node.commit(puts({"a": 1, "b": 2}))
    node = node.restarted()
    assert counted(node) == (2, 2)
    refused(node, puts({"c": 1}))
    set_policy(node)
    node.commit(puts({"c": 1}))


def test_a_transaction_of_the_replica_itself_is_never_refused() -> None:
    node = KernelNode()
    node.commit(operation("register", "a", "set", 1, expires_at_us=node.now_us + 5))
    set_policy(node, quota_keys=0, quota_entries=0)
    node.now_us += 10
    node.apply(node.replica.handle_timeout(node.now_us))
    node.run()
    assert counted(node) == (0, 0)


@pytest.mark.parametrize("quota", [-1, True, 1.5, "many", 1 << 63])
def test_a_quota_is_a_whole_number(quota: Any) -> None:
    with pytest.raises(InvalidValue, match="quota_keys"):
        Policy(quota_keys=quota)


def test_a_policy_without_quotas_is_stored_as_it_ever_was() -> None:
    assert Policy().as_value() == {
        "resolver": "latest",
        "resolver_version": 1,
        "trust_ordered": False,
    }
    quotas = Policy(quota_keys=5, quota_entries=7)
    assert Policy.from_value(quotas.as_value()) == quotas


# ------------------------------------------------------------------ whatever is written

_names = st.sampled_from(("a", "b", "c", "d"))
_operations = st.one_of(
    st.builds(lambda key: operation("register", key, "set", 1), _names),
    st.builds(lambda key: operation("register", key, "delete"), _names),
    st.builds(lambda key: operation("counter", key, "increment", 2), _names),
    st.builds(lambda key: operation("counter", key, "delete"), _names),
    st.builds(lambda key, item: operation("set", key, "add", item), _names, _names),
    st.builds(lambda key, item: operation("set_remove_wins", key, "add", item), _names, _names),
    st.builds(lambda key, item: operation("set_remove_wins", key, "remove", item), _names, _names),
    st.builds(lambda key, item: operation("map", key, "set", item, 1), _names, _names),
    st.builds(lambda key: operation("log", key, "append", 1), _names),
)


@settings(max_examples=150)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 1),
            st.lists(_operations, min_size=1, max_size=4),
            st.sampled_from(("run", "queue", "settle")),
        ),
        max_size=20,
    ),
    st.integers(0, 6),
    st.integers(0, 8),
)
def test_counts_are_exact_and_no_write_alone_goes_beyond_a_quota(
    script: list[tuple[int, list[Operation], str]], keys: int, entries: int
) -> None:
    nodes = KernelNode(1), KernelNode(2)
    set_policy(nodes[0], quota_keys=keys, quota_entries=entries)
    settle(*nodes)
    alone = True
    for number, steps, then in script:
        node = nodes[number]
        before = figures(node)
        node.submit(transaction_of(*steps))
        if then == "queue":
            continue
        node.run()
        if then == "settle":
            settle(*nodes)
            alone = False
        for each in nodes:
            assert counted(each) == figures(each)
        guards = any(
            step.name in ("delete", "remove") for _, listed, _ in script for step in listed
        )
        if alone and not guards:
            assert figures(node)[0] <= max(keys, before[0])
            assert figures(node)[1] <= max(entries, before[1])
