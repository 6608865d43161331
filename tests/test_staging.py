"""Staging in bulk and one by one: the same slots, the same deltas, the same refusals."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdtmem.batch import decode_batch
from crdtmem.columns import COLUMN_FROM
from crdtmem.crdt import DATATYPES, NESTED
from crdtmem.crdt.totals import TOTAL_LIMIT
from crdtmem.entries import as_siblings
from crdtmem.errors import InvalidValue, LimitExceeded
from crdtmem.policy import SYSTEM_SPACE, Policy, policy_key
from crdtmem.transaction import CountRun, PutRun, Transaction
from tests.kernel_node import SPACE, KernelNode, operation, puts

REGISTER, COUNTER = DATATYPES["register"].code, DATATYPES["counter"].code
KEYS = [f"k{n}" for n in range(COLUMN_FROM + 4)]


def deltas(node: KernelNode) -> list[Any]:
    """Every delta that the node wrote, without the borders of its segments."""
    found = []
    for batch in node.written:
        for segment in decode_batch(batch.data, known_fields=NESTED).segments:
            found += [(segment.datatype, segment.stamp.order, *delta) for delta in segment.deltas()]
    return found


def slots(node: KernelNode) -> dict[Any, Any]:
    return {
        (space, code, key): [(dot, value) for dot, value, _ in as_siblings(slot)]
        for (space, code), table in node.replica.state.tables.items()
        for key, _, slot in table.places()
    }


class Pair:
    """The same replica twice: one is given runs, the other the same operations singly."""

    def __init__(self, *, trust_ordered: bool) -> None:
        self.bulk, self.single = KernelNode(1), KernelNode(1)
        self.elsewhere = KernelNode(2)
        if trust_ordered:
            policy = Policy(trust_ordered=True).as_value()
            for node in (self.bulk, self.single):
                key = policy_key(SPACE)
                node.commit(operation("register", key, "set", policy, space=SYSTEM_SPACE))

    def stage(self, kind: str, items: list[tuple[str, int]], *, alone: bool, trust: int) -> None:
        run, steps = Transaction(trust=trust), Transaction(trust=trust)
        datatype, name = ("register", "set") if kind == "put" else ("counter", "increment")
        for key, value in items:
            if kind == "put":
                run.put(SPACE, REGISTER, key, value)
            else:
                run.count(SPACE, COUNTER, key, value)
            steps.add(operation(datatype, key, name, value, conditional=False))
        if not alone:
            run.add(operation("flag", "f", "enable"))
            steps.add(operation("flag", "f", "enable"))
        assert type(run.steps[0]) is (PutRun if kind == "put" else CountRun)
        self.bulk.submit(run)
        self.single.submit(steps)

    def run(self) -> None:
        for node in (self.bulk, self.single):
            node.run()
        self.check()

    def hear(self, kind: str, key: str, value: int) -> None:
        """Let another replica write concurrently, and both join it."""
        if kind == "put":
            self.elsewhere.put(key, value)
        elif kind == "count":
            self.elsewhere.commit(operation("counter", key, "increment", value))
        else:
            for node in (self.bulk, self.single):
                node.commit(operation("counter", key, "reset"))
        for node in (self.bulk, self.single):
            node.join(self.elsewhere)
        self.check()

    def check(self) -> None:
        assert deltas(self.bulk) == deltas(self.single)
        assert slots(self.bulk) == slots(self.single)
        assert self.bulk.digest == self.single.digest


ITEMS = st.lists(
    st.tuples(st.sampled_from(KEYS), st.integers(0, 9)), min_size=1, max_size=COLUMN_FROM + 6
)
DISTINCT = ITEMS.map(lambda items: list(dict(items).items()))
WHOLE = st.permutations(KEYS).map(lambda keys: [(key, n) for n, key in enumerate(keys)])
KINDS = st.sampled_from(["put", "count"])
STEPS = st.lists(
    st.tuples(st.just("stage"), KINDS, ITEMS | DISTINCT | WHOLE, st.booleans(), st.integers(0, 2))
    | st.tuples(st.just("run"))
    | st.tuples(
        st.just("hear"), st.sampled_from(["put", "count", "reset"]), st.sampled_from(KEYS[:4])
    ),
    max_size=8,
)


@given(STEPS, st.booleans())
def test_runs_leave_what_their_operations_would_have_left(
    steps: list[Any], trust_ordered: bool
) -> None:
    pair = Pair(trust_ordered=trust_ordered)
    for number, (what, *rest) in enumerate(steps):
        if what == "stage":
            kind, items, alone, trust = rest
            pair.stage(kind, items, alone=alone, trust=trust)
        elif what == "run":
            pair.run()
        else:
            pair.hear(rest[0], rest[1], number)
    pair.run()
    restarted = pair.bulk.restarted()
    assert restarted.digest == pair.bulk.digest
    assert slots(restarted) == slots(pair.bulk)


def test_increments_through_add_become_one_run_and_anything_else_parts_it() -> None:
    transaction = Transaction()
    for n in range(3):
        transaction.add(operation("counter", f"c{n}", "increment", n))
    transaction.add(operation("counter", "c0", "decrement", 1))
    transaction.add(operation("counter", "c0", "increment", 1))
    transaction.add(operation("g_counter", "g", "increment", 1))
    kinds = [(type(step).__name__, getattr(step, "keys", None)) for step in transaction.steps]
    assert kinds == [
        ("CountRun", ["c0", "c1", "c2"]),
        ("Operation", None),
        ("CountRun", ["c0"]),
        ("CountRun", ["g"]),
    ]
    node = KernelNode()
    node.commit(transaction)
    assert [node.value(f"c{n}", "counter") for n in range(3)] == [0, 1, 2]
    assert node.value("g", "g_counter") == 1


@pytest.mark.parametrize("amount", [-1, 1.5, "1", None, True, 1 << 63, 1 << 70], ids=repr)
def test_a_bad_amount_is_refused_and_nothing_counted(amount: Any) -> None:
    node = KernelNode()
    node.commit(operation("counter", "a", "increment", 1))
    before = node.digest
    with pytest.raises((InvalidValue, LimitExceeded)):
        node.commit(
            operation("counter", "a", "increment", 1),
            operation("counter", "b", "increment", amount),
        )
    assert node.digest == before
    assert node.value("a", "counter") == 1


def test_a_total_that_would_overflow_takes_back_the_whole_run() -> None:
    node = KernelNode()
    node.commit(operation("counter", "full", "increment", TOTAL_LIMIT - 1))
    fine = node.submit(counted({"a": 1}))
    over = node.submit(counted({"a": 1, "b": 1, "full": 2, "c": 1}))
    after = node.submit(counted({"a": 1, "full": 1}))
    node.run()
    assert node.answer(fine).count == 1
    with pytest.raises(LimitExceeded):
        node.answer(over)
    assert node.answer(after).count == 2
    assert node.value("a", "counter") == 2
    assert node.value("b", "counter") == 0
    assert node.value("full", "counter") == TOTAL_LIMIT
    assert node.digest == node.restarted().digest


def test_a_run_of_many_keys_is_taken_back_with_the_step_that_is_refused_after_it() -> None:
    node = KernelNode()
    node.commit(puts(dict.fromkeys(KEYS, "old")))
    before, held = node.digest, slots(node)
    mixed = puts(dict.fromkeys(KEYS, "new"))
    mixed.add(operation("counter", "c", "decrement", "no number"))
    ahead = node.submit(puts({KEYS[0]: "ahead"}))
    refused = node.submit(mixed)
    node.run()
    with pytest.raises(InvalidValue):
        node.answer(refused)
    assert node.answer(ahead).count == 1
    assert node.value(KEYS[0]) == "ahead"
    assert node.value(KEYS[1]) == "old"
    assert (node.digest, slots(node)) != (before, held)
    other = KernelNode(2)
    other.join(node)
    assert other.digest == node.digest == node.restarted().digest


@pytest.mark.parametrize("reset", [False, True])
def test_what_joins_beside_a_transaction_that_is_taken_back_stays(reset: bool) -> None:
    """A join waits until somebody looks at its table: then it must not be undone with him."""
    node, other = KernelNode(1), KernelNode(2)
    other.commit(puts(dict.fromkeys(KEYS, "old")))
    node.join(other)
    other.commit(puts(dict.fromkeys(KEYS, "new")))
    if reset:
        other.commit(operation("register", KEYS[0], "delete"))
    for batch in other.written[1:]:
        node.offer(batch)
    mixed = puts(dict.fromkeys(KEYS, "refused"))
    mixed.add(operation("counter", "c", "decrement", "no number"))
    refused = node.submit(mixed)
    node.run()
    with pytest.raises(InvalidValue):
        node.answer(refused)
    assert node.value(KEYS[1]) == "new"
    assert node.value(KEYS[0]) == (None if reset else "new")
    assert node.digest == other.digest == node.restarted().digest


def test_joins_that_nobody_looks_at_are_published_in_order() -> None:
    """Plain segments before and after one that is not: a removal, siblings, and the rest."""
    node, other, third = KernelNode(1), KernelNode(2), KernelNode(3)
    third.commit(puts({KEYS[2]: "beside"}))
    other.commit(puts(dict.fromkeys(KEYS, 1)))
    other.commit(puts(dict.fromkeys(reversed(KEYS), 2)))
    other.commit(operation("register", KEYS[0], "delete"), operation("counter", "c", "increment"))
    other.commit(puts(dict.fromkeys(KEYS[1:], 3)))
    for source in (other, third):
        for batch in source.written:
            node.offer(batch)
    assert node.stage() is not None
    assert node.value(KEYS[1]) is None
    assert (node.digest, slots(node)) == ((0, 0), {})
    node.land()
    assert [node.value(key) for key in (KEYS[0], KEYS[1], KEYS[3])] == [None, 3, 3]
    assert len(node.read(KEYS[2]).siblings) == 2
    assert node.value("c", "counter") == 1
    assert node.digest == node.restarted().digest
    other.join(third)
    assert slots(other) == slots(node)
    assert other.digest == node.digest


def counted(items: dict[str, int]) -> Transaction:
    transaction = Transaction()
    for key, amount in items.items():
        transaction.count(SPACE, COUNTER, key, amount)
    return transaction
