"""Transactions: what sealing refuses, copies and measures, before anything is staged."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdtmem.codec import unpack
from crdtmem.crdt import DATATYPES
from crdtmem.errors import InvalidValue, LimitExceeded, LocalError, UnknownName
from crdtmem.limits import DEFAULT_LIMITS
from crdtmem.transaction import Operation, Transaction, check_space
from tests.kernel_node import NOW_US, SPACE, KernelNode, operation, puts

REGISTER = DATATYPES["register"].code
TINY = replace(DEFAULT_LIMITS, key_bytes=16, value_bytes=64, batch_bytes=400, batch_deltas=5)


def of(*steps: Operation, **shared: Any) -> Transaction:
    transaction = Transaction(**shared)
    for step in steps:
        transaction.add(step)
    return transaction


def test_consecutive_writes_of_one_space_are_one_run_and_others_part_them() -> None:
    transaction = Transaction()
    other = ("other",)
    for key in "ab":
        transaction.put(SPACE, REGISTER, key, 1)
    transaction.put(other, REGISTER, "c", 1)
    transaction.add(operation("counter", "n", "increment"))
    transaction.put(other, REGISTER, "d", 1)
    transaction.put(tuple(other), REGISTER, "e", 1)
    transaction.seal(DEFAULT_LIMITS)
    shapes = [
        getattr(step, "keys", None) or getattr(step, "key", None) for step in transaction.steps
    ]
    assert shapes == [["a", "b"], ["c"], "n", ["d", "e"]]
    assert transaction.weight == 6


def test_a_run_is_packed_as_it_will_lie_in_the_batch() -> None:
    transaction = puts({"a": 1, "b": [1, {"z": None, "y": 2.5}]}).seal(DEFAULT_LIMITS)
    run: Any = transaction.steps[0]
    assert unpack(run.packed_keys) == ("a", "b")
    assert unpack(run.packed_values) == (1, (1, {"y": 2.5, "z": None}))
    assert run.values == [1, (1, {"y": 2.5, "z": None})]


def test_an_empty_run_is_dropped() -> None:
    transaction = Transaction()
    transaction.run(SPACE, REGISTER)
    assert transaction.seal(DEFAULT_LIMITS).steps == []


@pytest.mark.parametrize(
    "items",
    [{"": 1}, {"k" * 1_025: 1}, {"\ud800": 1}, {"é" * 600: 1}, {3: 1}, {None: 1}],
    ids=["empty", "long", "surrogate", "long in UTF-8", "integer", "none"],
)
def test_a_bad_key_is_refused(items: Any) -> None:
    with pytest.raises((InvalidValue, LimitExceeded)):
        puts(items).seal(DEFAULT_LIMITS)
    with pytest.raises((InvalidValue, LimitExceeded)):
        of(operation("register", next(iter(items)), "set", 1)).seal(DEFAULT_LIMITS)


@pytest.mark.parametrize(
    "value",
    [1 << 64, -(1 << 63) - 1, "\ud800", {1: 2}, object(), {1, 2}, bytearray(b"x"), [[object()]]],
    ids=lambda value: type(value).__name__,
)
def test_a_value_that_cannot_be_stored_is_refused_and_nothing_staged(value: Any) -> None:
    with pytest.raises(InvalidValue):
        puts({"a": 1, "b": value}).seal(DEFAULT_LIMITS)
    node = KernelNode()
    with pytest.raises(InvalidValue):
        node.commit(operation("register", "a", "set", 1), operation("register", "b", "set", value))
    assert node.digest == (0, 0)


@pytest.mark.parametrize("space", ["notes", ["notes"], (), ("",), ("a",) * 9, (1,), None])
def test_a_bad_space_is_refused_before_it_is_written_anywhere(space: Any) -> None:
    with pytest.raises(InvalidValue):
        puts({"a": 1}, space=space).seal(DEFAULT_LIMITS)
    with pytest.raises(InvalidValue):
        of(operation("register", "a", "set", 1, space=space)).seal(DEFAULT_LIMITS)


def test_a_space_may_be_given_as_any_labels_where_it_is_made() -> None:
    assert check_space("notes", DEFAULT_LIMITS) == ("notes",)
    assert check_space(["a", "b"], DEFAULT_LIMITS) == ("a", "b")


@pytest.mark.parametrize(
    "shared",
    [
        {"author": 3},
        {"author": "\ud800"},
        {"author": "a" * 1_025},
        {"trust": "high"},
        {"trust": 1 << 64},
        {"trust": True},
        {"operation_id": "text"},
        {"operation_id": b""},
        {"operation_id": b"x" * 65},
        {"metadata": {"a": "somebody else"}},
        {"metadata": {"t": 9}},
        {"metadata": {"e": "never"}},
        {"metadata": {"i": [1]}},
        {"metadata": {"s": object()}},
        {"metadata": {1: 2}},
        {"metadata": {"v": "x" * (1 << 20)}},
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_stamped_on_entries_is_checked(shared: dict[str, Any]) -> None:
    """Else it would be durable here, and refused by everyone who decodes it, this node included."""
    with pytest.raises((InvalidValue, LimitExceeded)):
        puts({"a": 1}, **shared).seal(DEFAULT_LIMITS)
    if "metadata" in shared:
        with pytest.raises((InvalidValue, LimitExceeded)):
            of(operation("register", "a", "set", 1, **shared)).seal(DEFAULT_LIMITS)


@pytest.mark.parametrize("expires_at_us", [1.5, "soon", -1, 1 << 63, True], ids=repr)
def test_an_expiry_is_a_whole_number(expires_at_us: Any) -> None:
    with pytest.raises(InvalidValue):
        of(operation("register", "a", "set", 1, expires_at_us=expires_at_us)).seal(DEFAULT_LIMITS)


def test_unknown_datatypes_and_private_operations_are_refused() -> None:
    for step in (
        Operation(SPACE, 99, "k", "set", (1,)),
        operation("register", "k", "_remove", None, frozenset({1})),
        operation("register", "k", "_collect", (1,)),
    ):
        with pytest.raises(UnknownName):
            of(step).seal(DEFAULT_LIMITS)
    run = Transaction()
    run.put(SPACE, DATATYPES["counter"].code, "k", 1)
    with pytest.raises(InvalidValue):
        run.seal(DEFAULT_LIMITS)


def test_what_the_caller_changes_after_sealing_changes_nothing() -> None:
    value: dict[str, Any] = {"list": [1, 2]}
    metadata = {"s": ["subject"]}
    transaction = puts({"put": value})
    transaction.add(operation("register", "set", "set", value, metadata=metadata))
    transaction.add(operation("map", "map", "update", value))
    transaction.add(operation("log", "log", "extend", [value]))
    node = KernelNode()
    ticket = node.submit(transaction)
    value["list"].append(3)
    value["more"] = 4
    metadata["s"].append("another")
    node.run()
    assert node.answer(ticket).count == 4
    kept = {"list": [1, 2]}
    assert node.value("put") == node.value("set") == node.value("map", "map") == kept
    assert node.value("log", "log") == [kept]
    assert node.read("set").siblings[0].metadata == {"s": ["subject"]}


def test_what_a_reader_changes_changes_nothing() -> None:
    node = KernelNode()
    node.commit(
        puts({"k": {"list": [1]}}),
    )
    node.commit(operation("log", "l", "append", {"list": [1]}, metadata={"s": ["x"]}))
    for _ in range(2):
        seen = [node.value("k"), node.replica.peek(SPACE, "k", NOW_US), node.value("l", "log")[0]]
        seen.append(node.read("k").siblings[0].value)
        assert seen == [{"list": [1]}] * 4
        for copy in seen:
            copy["list"].append(2)
        tags = node.read("l", "log").siblings[0].metadata["s"]
        assert tags == ["x"]
        tags.append("y")


def test_limits_bind_runs() -> None:
    assert puts({f"k{n}": n for n in range(5)}).seal(TINY).weight == 5
    for items in (
        {f"k{n}": n for n in range(6)},
        {"k": "v" * 100},
        {"k" * 17: 1},
        {f"k{n}": "v" * 60 for n in range(5)},
    ):
        with pytest.raises(LimitExceeded):
            puts(items).seal(replace(TINY, batch_bytes=300))


@pytest.mark.parametrize(
    "step",
    [
        operation("register", "k", "set", "v" * 100),
        operation("map", "k", "set", "field", "v" * 100),
        operation("map", "k", "update", {"a": 1, "b": "v" * 100}),
        operation("log", "k", "append", "v" * 100),
        operation("log", "k", "extend", ["v", "v" * 100]),
        operation("set", "k", "add", "v" * 100),
        operation("set", "k", "add", ["v" * 100]),
        operation("map", "k", "set", "p" * 100, 1),
    ],
    ids=lambda step: f"{step.datatype} {step.name}",
)
def test_limits_on_values_and_fields_bind_every_operation(step: Operation) -> None:
    node = KernelNode(limits=TINY)
    with pytest.raises(LimitExceeded):
        node.commit(operation("counter", "c", "increment"), step)
    assert node.digest == (0, 0)


# ---------------------------------------------------------------------- whatever callers send

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 70), 1 << 70)
    | st.floats()
    | st.text(max_size=4)
    | st.binary(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=2), inner, max_size=3)
    ),
    max_leaves=6,
)
NAMES = sorted({name for kind in DATATYPES.values() for name in kind.operations})
PATHS = st.sampled_from(["f", "counter", "set"]) | st.lists(st.text(max_size=2), max_size=3)


@st.composite
def operations(draw: st.DrawFn) -> Operation:
    datatype = draw(st.sampled_from(sorted(DATATYPES)))
    own = sorted(DATATYPES[datatype].operations)
    name = draw(st.sampled_from(own) | st.sampled_from(NAMES))
    arguments = draw(st.lists(VALUES | PATHS | st.integers(0, 5), max_size=4))
    options: dict[str, Any] = {}
    if draw(st.booleans()):
        options["observed"] = frozenset(draw(st.lists(st.integers(0, 1 << 66), max_size=2)))
        options["conditional"] = draw(st.booleans())
    return operation(datatype, draw(st.sampled_from("kq")), name, *arguments, **options)


@given(st.lists(st.lists(operations(), min_size=1, max_size=4), min_size=1, max_size=5))
def test_whatever_an_operation_is_given_only_local_errors_come_of_it(
    batches: list[list[Operation]],
) -> None:
    """And what was accepted decodes, at this node after a crash and at any other."""
    node = KernelNode()
    for steps in batches:
        before = node.digest
        try:
            node.commit(*steps)
        except LocalError:
            assert node.digest == before
    other = KernelNode(2)
    other.join(node)
    assert node.digest == other.digest == node.restarted().digest
    for name in DATATYPES:
        for key in "kq":
            assert repr(node.value(key, name)) == repr(other.value(key, name))
