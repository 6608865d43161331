"""The compiled loops leave what the Python loops leave, to the byte, and refuse to be misused.

The loops are compiled from this checkout's source for these tests, whatever is installed.
"""

from __future__ import annotations

import gc
import importlib.util
import shlex
import subprocess
import sys
import sysconfig
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdtmem import bulk, columns, joining, loops
from crdtmem import transaction as transactions
from crdtmem.batch import unpack_keys
from crdtmem.codec import unpack
from crdtmem.crdt import DATATYPES
from crdtmem.crdt.totals import TOTAL_LIMIT
from crdtmem.entries import Siblings, Stamp, pack_dot
from crdtmem.errors import InvalidValue, LimitExceeded
from crdtmem.transaction import Operation, Transaction
from tests.capabilities import ROOT, needs
from tests.kernel_node import SPACE, KernelNode, settle

COUNTER = DATATYPES["counter"].code
REGISTER = DATATYPES["register"].code
STAMP = Stamp(7, 1, 1)
FIRST = pack_dot(7, 1_000)
NAMES = [f"n{number}" for number in range(10)]
ONES = [1] * 10
USERS = {
    bulk: ("count_run", "put_run"),
    columns: ("furthest", "join_keys", "pair_up", "split_keys"),
    joining: ("join_run",),
    transactions: ("are_amounts",),
}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The loops of this checkout, compiled as strictly as the compiler can."""
    needs("compiler")
    target = tmp_path_factory.mktemp("loops") / "_crdtmem_loops.so"
    linker = shlex.split(sysconfig.get_config_var("LDSHARED"))
    options = ["-O1", "-fPIC", "-Wall", "-Wextra", "-Wno-missing-field-initializers", "-Werror"]
    source = ROOT / "crdtmem" / "loops.c"
    include = f"-I{sysconfig.get_path('include')}"
    subprocess.run([*linker, *options, include, str(source), "-o", str(target)], check=True)
    spec = importlib.util.spec_from_file_location("_crdtmem_loops", target)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def using(module: ModuleType | None) -> Iterator[None]:
    """Let everything in here use these loops, or plain Python."""
    with pytest.MonkeyPatch.context() as patch:
        for user, names in USERS.items():
            for name in names:
                patch.setattr(user, name, getattr(module, name, None))
        yield


def test_every_user_of_a_loop_is_known_here() -> None:
    offered = {name for name in loops.__all__ if name != "COMPILED"}
    assert offered == {name for names in USERS.values() for name in names}
    assert all(hasattr(user, name) for user, names in USERS.items() for name in names)


def test_an_extension_is_taken_only_as_this_version_knows_it(compiled: ModuleType) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "_crdtmem_loops", compiled)
        assert loops._extension() is compiled
        patch.setattr(compiled, "INTERFACE", -1)
        assert loops._extension() is None
        patch.setitem(sys.modules, "_crdtmem_loops", None)
        assert loops._extension() is None


# ------------------------------------------------------------------ side by side

KEYS = st.sampled_from([f"agents/{name}" for name in "abcdefghijklmnopqrstuvwxyz"])
STEP: st.SearchStrategy[tuple[str, list[tuple[str, int]]]] = st.one_of(
    st.tuples(st.just("put"), st.lists(st.tuples(KEYS, st.integers(0, 9)), max_size=30)),
    st.tuples(st.just("count"), st.lists(st.tuples(KEYS, st.integers(0, 9)), max_size=30)),
    st.tuples(st.just("reset"), st.lists(st.tuples(KEYS, st.just(0)), max_size=2)),
    st.tuples(st.just("exchange"), st.just([])),
    st.tuples(st.just("refused"), st.lists(st.tuples(KEYS, st.integers(0, 9)), max_size=30)),
)


def transaction(kind: str, items: list[tuple[str, int]]) -> Transaction:
    made = Transaction()
    for key, number in items:
        if kind == "count":
            made.count(SPACE, COUNTER, key, number)
        elif kind == "reset":
            made.add(Operation(SPACE, COUNTER, key, "reset"))
        else:
            made.put(SPACE, REGISTER, key, number)
    if kind == "refused":
        made.count(SPACE, COUNTER, "full", 1)
    return made


def played(steps: list[tuple[int, tuple[str, list[tuple[str, int]]]]]) -> list[Any]:
    """Play steps at two replicas, which meet at the end; returns all that came of it."""
    nodes = KernelNode(1), KernelNode(2)
    full = Transaction()
    full.count(SPACE, COUNTER, "full", TOTAL_LIMIT)
    nodes[0].commit(full)
    settle(*nodes)
    for at, (kind, items) in steps:
        if kind == "exchange":
            nodes[at].join(nodes[1 - at])
        elif kind == "refused" and at == 0:
            with pytest.raises(LimitExceeded):
                nodes[at].commit(transaction(kind, items))
        elif items:
            nodes[at].commit(transaction(kind, items))
    settle(*nodes)
    return [
        [
            [batch.data for batch in node.written],
            node.digest,
            {
                (table.space, table.datatype, key, field, entry[0]): (entry[1], entry[2])
                for table, key, field, entry in node.replica.state.entries()
            },
        ]
        for node in nodes
    ]


@given(steps=st.lists(st.tuples(st.sampled_from([0, 1]), STEP), max_size=12))
def test_states_digests_and_bytes_are_the_same(compiled: ModuleType, steps: list[Any]) -> None:
    with using(compiled):
        ours = played(steps)
    with using(None):
        theirs = played(steps)
    assert ours == theirs
    assert ours[0][1:] == ours[1][1:]


def test_transactions_of_one_flight_see_each_other(compiled: ModuleType) -> None:
    def staged() -> list[bytes]:
        node = KernelNode(1)
        for step in range(3):
            node.submit(transaction("put", [(name, step) for name in NAMES]))
            node.submit(transaction("count", [(name, step) for name in NAMES]))
            # What is new and what is not, in one run; and a name that comes twice.
            node.submit(transaction("put", [(f"n{number}", 9) for number in range(step, 20, 2)]))
            node.submit(transaction("count", [(name, 1) for name in [*NAMES, *NAMES]]))
        node.run()
        first, second = node.digest
        node.replica.state.rebuild_derived()
        assert node.digest == (first, second)
        return [batch.data for batch in node.written]

    with using(compiled):
        ours = staged()
    with using(None):
        assert ours == staged()


@given(
    st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=8), max_size=20),
    st.sampled_from(["", "a", "conversation/0001/turn/", "k" * 1_020, "k" * 1_500, "ä", "x\0y"]),
)
def test_columns_of_keys_are_the_same(compiled: ModuleType, rests: list[str], prefix: str) -> None:
    keys = [prefix + rest for rest in rests]
    expected = columns.pack_keys(keys)
    with using(compiled):
        plain = columns.pack_plain_keys(keys)
        assert list(unpack_keys(unpack(expected))) == keys
    with using(None):
        assert columns.pack_plain_keys(keys) is None
        assert list(unpack_keys(unpack(expected))) == keys
    if plain is not None:
        assert plain == (expected, max(map(len, keys)))
    ascii_only = all(key.isascii() and "\0" not in key for key in keys)
    assert (plain is not None) == (ascii_only and len(keys) >= columns.COLUMN_FROM)


@pytest.mark.parametrize("bad", ["", 7, None, b"bytes", "k" * 2_000, "ä" * 1_000, "\ud800"])
def test_a_bad_key_among_good_ones_is_refused_alike(compiled: ModuleType, bad: Any) -> None:
    for module in (compiled, None):
        with using(module):
            made = Transaction()
            for name in [*NAMES, bad, *NAMES]:
                made.put(SPACE, REGISTER, name, 1)
            with pytest.raises((InvalidValue, LimitExceeded)):
                KernelNode(1).commit(made)


@pytest.mark.parametrize("bad", [-1, 1.5, True, "1", None, 1 << 64])
def test_a_bad_amount_among_good_ones_is_refused_alike(compiled: ModuleType, bad: Any) -> None:
    for amounts, fine in ([1, bad], False), ([1, 0, (1 << 63) - 1], True), ([1 << 63], False):
        assert compiled.are_amounts(amounts) is fine
    for module in (compiled, None):
        with using(module):
            made = Transaction()
            for name, amount in zip(NAMES, [*ONES[1:], bad], strict=True):
                made.count(SPACE, COUNTER, name, amount)
            with pytest.raises(InvalidValue, match="amount"):
                KernelNode(1).commit(made)


# ------------------------------------------------------------------ one function at a time


def held(*dots: int, value: Any = "old") -> dict[Any, Any]:
    return {f"n{at}": (pack_dot(7, dot), value, STAMP) for at, dot in enumerate(dots)}


def test_a_run_that_is_not_plain_changes_nothing(compiled: ModuleType) -> None:
    siblings = Siblings(((1, "a", STAMP), (2, "b", STAMP)))
    foreign = (pack_dot(8, 5), "old", STAMP)
    ahead = (FIRST + 50, "old", STAMP)
    far = (0, TOTAL_LIMIT)
    for last in (siblings, foreign, ahead, Siblings()):
        base = {**held(*range(1, 10)), "n9": last}
        before, over = dict(base), dict[Any, Any]()
        assert compiled.put_run(over, base, NAMES, NAMES, FIRST, STAMP, True) is False
        assert compiled.count_run(over, base, NAMES, [1] * 10, FIRST, STAMP, True) is False
        assert over == {}
        column = array("H", [1_000 + at - 1 - at for at in range(10)])
        for both in (over, base):
            assert compiled.join_run(both, base, NAMES, NAMES, FIRST, STAMP, column) is False
        assert (over, base) == ({}, before)
    for value in (far, (0, 1, 1), (7, 1, 1, 1), (-1, 1), ("0", 1), "text"):
        base = {**held(*range(1, 10), value=(0, 1)), "n9": (pack_dot(7, 10), value, STAMP)}
        over = {}
        assert compiled.count_run(over, base, NAMES, [1] * 10, FIRST, STAMP, True) is False
        assert over == {}


def test_what_is_staged_already_comes_back_when_a_run_is_taken_back(compiled: ModuleType) -> None:
    over = held(*range(500, 509))
    base = {"n9": (pack_dot(8, 1), "foreign", STAMP)}
    before = dict(over)
    assert compiled.put_run(over, base, NAMES, NAMES, FIRST, STAMP, True) is False
    assert over == before
    base = {}
    assert compiled.put_run(over, base, NAMES, NAMES, FIRST, STAMP, False) is False
    assert over == before
    distances, removed = compiled.put_run(over, base, NAMES, NAMES, FIRST, STAMP, True)
    assert array("H", distances).tolist() == [500] * 9 + [0]
    assert removed == [pack_dot(7, dot) for dot in range(500, 509)]
    assert over["n9"] == (FIRST + 9, "n9", STAMP)


@pytest.mark.parametrize(
    ("back", "code"), [(200, "B"), (60_000, "H"), (1 << 20, "I"), (1 << 40, "Q")]
)
def test_distances_are_as_narrow_as_they_can_be(compiled: ModuleType, back: int, code: str) -> None:
    first = pack_dot(7, 1 << 41)
    base = {name: (first + at - back, "old", STAMP) for at, name in enumerate(NAMES)}
    over = dict[Any, Any]()
    distances, removed = compiled.put_run(over, base, NAMES, NAMES, first, STAMP, True)
    assert removed is None
    assert distances == array(code, [back] * 10).tobytes()
    column = array(code, [back] * 10)
    assert compiled.join_run(base, base, NAMES, NAMES, first, STAMP, column) is None
    assert base == over


def test_a_column_of_zeros_is_left_to_python(compiled: ModuleType) -> None:
    base = dict[Any, Any]()
    zeros = array("B", [0] * 10)
    assert compiled.join_run(base, base, NAMES, NAMES, FIRST, STAMP, zeros) is False
    assert base == {}


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (({}, {}, NAMES, ONES, FIRST, STAMP), TypeError),
        (([], {}, NAMES, ONES, FIRST, STAMP, None), TypeError),
        (({}, {}, set(NAMES), ONES, FIRST, STAMP, None), TypeError),
        (({}, {}, NAMES, iter(ONES), FIRST, STAMP, None), TypeError),
        (({}, {}, NAMES, ONES[1:], FIRST, STAMP, None), ValueError),
        (({}, {}, NAMES, ONES, "dot", STAMP, None), TypeError),
        (({}, {}, NAMES, ONES, -1, STAMP, None), OverflowError),
        (({}, {}, NAMES, ONES, 1 << 128, STAMP, None), OverflowError),
        (({}, {}, NAMES, ONES, pack_dot(7, (1 << 64) - 5), STAMP, None), OverflowError),
        (({}, {}, [*NAMES[:9], []], ONES, FIRST, STAMP, None), TypeError),
        (({}, {"n9": ("dot", 1, STAMP)}, NAMES, ONES, FIRST, STAMP, None), TypeError),
    ],
)
def test_misuse_raises_and_changes_nothing(
    compiled: ModuleType, arguments: tuple[Any, ...], error: type[Exception]
) -> None:
    for name in ("join_run", "put_run", "count_run"):
        with pytest.raises(error):
            getattr(compiled, name)(*arguments)
        assert not arguments[0]


@pytest.mark.parametrize("column", [array("B", [1]), array("H", [1] * 3), b"", "text", 7])
def test_a_column_of_distances_that_does_not_fit_raises(compiled: ModuleType, column: Any) -> None:
    base = dict[Any, Any]()
    with pytest.raises((ValueError, TypeError)):
        compiled.join_run(base, base, NAMES, NAMES, FIRST, STAMP, column)
    assert base == {}


@given(
    st.lists(st.integers(0, (1 << 40) - 1), min_size=1, max_size=20),
    st.integers(1, 1 << 40),
    st.sampled_from("BHIQ"),
)
def test_distances_that_lead_too_far_are_found(
    compiled: ModuleType, distances: list[int], sequence: int, code: str
) -> None:
    column = array(code, [number % (1 << 8 * array(code).itemsize) for number in distances])
    ahead = [distance - at for at, distance in enumerate(column)]
    assert compiled.furthest(column) == max(0, *ahead)
    for module in (compiled, None):
        with using(module):
            assert columns.lead_before(column, sequence) == (max(ahead) >= sequence)


def test_columns_are_paired_up_as_zip_does(compiled: ModuleType) -> None:
    firsts, seconds = tuple(range(300)), tuple(range(1_000_000_000_000, 1_000_000_000_300))
    assert compiled.pair_up(firsts, seconds) == tuple(zip(firsts, seconds, strict=True))
    assert compiled.pair_up((), ()) == ()
    assert compiled.pair_up((1, [2]), (3, 4)) is None
    for module in (compiled, None):
        with using(module):
            assert columns.unpack_rows({"c": ((1, "x"), (3, 4))}) == ((1, 3), ("x", 4))
            assert columns.unpack_rows({"c": ((1, 2), (3, 4))}) == ((1, 3), (2, 4))
            with pytest.raises(ValueError, match=r"longer|shorter"):
                columns.unpack_rows({"c": ((1, 2), (3,))})
    with pytest.raises(ValueError, match="longer"):
        compiled.pair_up((1, 2), (3,))
    with pytest.raises(TypeError):
        compiled.pair_up([1], (3,))


def test_nothing_leaks_and_nothing_is_freed_too_early(compiled: ModuleType) -> None:
    stamp, value = Stamp(7, 1, 1), ["a value that only we hold"]
    held_before = sys.getrefcount(stamp), sys.getrefcount(value)
    bad = {"n9": (pack_dot(8, 1), "foreign", stamp)}
    for _ in range(100):
        base, over = dict[Any, Any](), dict[Any, Any]()
        values = [value] * 10
        assert compiled.join_run(base, base, NAMES, values, FIRST, stamp, None) is None
        again = FIRST + 10
        column = array("B", [10] * 10)
        assert compiled.put_run(over, base, NAMES, values, again, stamp, True)[1] is None
        assert compiled.join_run(base, base, NAMES, values, again, stamp, column) is None
        assert compiled.join_run({}, bad, NAMES, values, FIRST, stamp, None) is False
        assert compiled.put_run({}, bad, NAMES, values, FIRST, stamp, True) is False
        counts = dict[Any, Any]()
        for start in (0, 10):
            compiled.count_run(counts, {}, NAMES, [1] * 10, FIRST + start, stamp, True)
        assert counts["n3"][1] == (10, 2)
        with pytest.raises(TypeError):
            compiled.put_run({}, {}, [*NAMES[:9], []], values, FIRST, stamp, True)
        prefix, rests, longest = compiled.join_keys(NAMES, 100)
        assert (prefix, rests, longest) == ("n", "\0".join("0123456789"), 2)
        assert compiled.split_keys(prefix, rests) == NAMES
        assert compiled.pair_up((1 << 70,), (2,)) == ((1 << 70, 2),)
    del base, over, values, counts, bad
    gc.collect()
    assert (sys.getrefcount(stamp), sys.getrefcount(value)) == held_before
