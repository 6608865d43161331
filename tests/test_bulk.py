"""Runs staged in bulk leave what their operations, staged one by one, would have left."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdtmem.batch import Batch, decode_batch
from crdtmem.crdt import DATATYPES, NESTED
from crdtmem.crdt.totals import TOTAL_LIMIT
from crdtmem.errors import InvalidValue, LimitExceeded
from crdtmem.transaction import CountRun, Operation, PutRun, Transaction
from tests.kernel_node import SPACE, KernelNode, settle

COUNTER = DATATYPES["counter"].code
REGISTER = DATATYPES["register"].code
KEYS = st.sampled_from([f"agents/{name}" for name in "abcdefghijkl"])


def one_by_one(steps: list[Operation]) -> Transaction:
    """A transaction whose operations are not gathered into runs."""
    transaction = Transaction()
    transaction.steps += steps
    return transaction


def entries(node: KernelNode) -> dict[Any, Any]:
    return {
        (table.space, table.datatype, key, field, entry[0]): entry[1]
        for table, key, field, entry in node.replica.state.entries()
    }


def decoded(batch: Batch) -> list[Any]:
    again = decode_batch(batch.data, known_fields=NESTED)
    return [delta for segment in again.segments for delta in segment.deltas()]


@given(
    st.lists(st.lists(st.tuples(KEYS, st.integers(0, 5)), min_size=1, max_size=20), max_size=4),
    st.lists(st.tuples(KEYS, st.integers(1, 3)), max_size=5),
)
def test_increments(
    transactions: list[list[tuple[str, int]]], elsewhere: list[tuple[str, int]]
) -> None:
    bulk, single, other = KernelNode(1), KernelNode(1), KernelNode(2)
    if elsewhere:
        foreign = Transaction()
        for key, amount in elsewhere:
            foreign.count(SPACE, COUNTER, key, amount)
        foreign.add(Operation(SPACE, COUNTER, elsewhere[0][0], "reset"))
        other.commit(foreign)
        bulk.join(other)
        single.join(other)
    for items in transactions:
        run = Transaction()
        for key, amount in items:
            run.add(Operation(SPACE, COUNTER, key, "increment", (amount,)))
        assert [type(step) for step in run.steps] == [CountRun]
        bulk.commit(run)
        single.commit(
            one_by_one([Operation(SPACE, COUNTER, k, "increment", (n,)) for k, n in items])
        )
    assert entries(bulk) == entries(single)
    assert bulk.digest == single.digest
    for ours, theirs in zip(bulk.written, single.written, strict=True):
        assert decoded(ours) == decoded(theirs)
    settle(bulk, other)
    assert bulk.digest == other.digest


@given(st.lists(st.lists(st.tuples(KEYS, st.integers()), min_size=1, max_size=20), max_size=4))
def test_plain_writes(transactions: list[list[tuple[str, int]]]) -> None:
    bulk, single = KernelNode(1), KernelNode(1)
    for items in transactions:
        run = Transaction()
        for key, value in items:
            run.put(SPACE, REGISTER, key, value % 1000)
        assert [type(step) for step in run.steps] == [PutRun]
        bulk.commit(run)
        single.commit(
            one_by_one([Operation(SPACE, REGISTER, k, "set", (v % 1000,)) for k, v in items])
        )
    assert entries(bulk) == entries(single)
    assert bulk.digest == single.digest
    for ours, theirs in zip(bulk.written, single.written, strict=True):
        assert decoded(ours) == decoded(theirs)


def test_a_total_that_grows_too_large_takes_the_whole_transaction_back() -> None:
    node = KernelNode(1)
    node.commit(Operation(SPACE, COUNTER, "a", "increment", (TOTAL_LIMIT,)))
    run = Transaction()
    run.count(SPACE, COUNTER, "b", 1)
    run.count(SPACE, COUNTER, "a", 1)
    with pytest.raises(LimitExceeded):
        node.commit(run)
    assert node.value("b", "counter") == 0
    assert node.value("a", "counter") == TOTAL_LIMIT
    node.commit(Operation(SPACE, COUNTER, "b", "increment", (2,)))
    assert node.value("b", "counter") == 2


@pytest.mark.parametrize("amount", [-1, 1.5, True, "1", None])
def test_an_amount_that_cannot_be_counted_is_refused(amount: Any) -> None:
    node = KernelNode(1)
    with pytest.raises(InvalidValue):
        node.commit(Operation(SPACE, COUNTER, "a", "increment", (amount,)))
    assert node.value("a", "counter") == 0


def test_keys_share_what_they_begin_with_on_the_wire() -> None:
    node = KernelNode(1)
    run = Transaction()
    for number in range(50):
        run.put(SPACE, REGISTER, f"conversation/0001/turn/{number:02d}", number)
    node.commit(run)
    assert len(node.written[0].data) < 50 * 8
    other = KernelNode(2)
    other.join(node)
    assert other.digest == node.digest
    assert other.value("conversation/0001/turn/49") == 49
