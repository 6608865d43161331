"""Batches as bytes: what is staged, what is decoded, and what is refused."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdtmem.batch import (
    BatchHeader,
    ReplicaTable,
    Segment,
    array_header,
    decode_batch,
    encode_batch,
    encode_dots_column,
    hash_of,
    superseded_dots,
)
from crdtmem.codec import freeze, pack, unpack
from crdtmem.columns import (
    as_column,
    distance_bytes,
    distances_of,
    pack_keys,
    pack_rows,
    unpack_keys,
    unpack_rows,
)
from crdtmem.crdt import DATATYPES, NESTED
from crdtmem.entries import pack_dot
from crdtmem.errors import MalformedFrame
from crdtmem.transaction import Transaction
from tests.fuzz_batch import FINDINGS, check, corpus, mutated, reshaped
from tests.kernel_node import SPACE, KernelNode, operation, puts, settle

REPLICA, OTHER, THIRD = 2**63 + 11, 5, 2**64 - 1


def deltas_of(segments: list[Segment]) -> list[Any]:
    """Everything that a join looks at, without the choice of tuples or lists."""
    return [
        (segment.space, segment.datatype, segment.stamp, *delta)
        for segment in segments
        for delta in segment.deltas()
    ]


# ---------------------------------------------------------------------- staged, then decoded

KEYS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=6)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
    | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=5,
)


@st.composite
def transactions(draw: st.DrawFn) -> tuple[list[Any], dict[str, Any]]:
    steps: list[Any] = []
    for _ in range(draw(st.integers(1, 4))):
        key = draw(st.sampled_from("abc"))
        match draw(st.integers(0, 8)):
            case 0:
                steps.append(draw(st.dictionaries(KEYS | st.just("a"), VALUES, min_size=1)))
            case 1:
                steps.append(dict.fromkeys([f"k{n}" for n in range(12)], draw(VALUES)))
            case 2:
                steps.append(operation("register", key, "delete"))
            case 3:
                steps.append(operation("counter", key, "increment", draw(st.integers(0, 99))))
            case 4:
                steps.append(operation("counter", key, "reset"))
            case 5:
                name = draw(st.sampled_from(["add", "remove"]))
                steps.append(operation("set", key, name, draw(VALUES)))
            case 6:
                steps.append(operation("log", key, "extend", draw(st.lists(VALUES, max_size=3))))
            case 7:
                steps.append(operation("map", key, "set", draw(KEYS), draw(VALUES)))
            case _:
                metadata = draw(st.dictionaries(st.sampled_from("csvo"), VALUES, max_size=2))
                steps.append(operation("register", key, "set", 1, metadata=metadata))
    shared: dict[str, Any] = {}
    if draw(st.booleans()):
        shared = {"author": draw(KEYS), "trust": draw(st.integers(-3, 3))}
    if draw(st.booleans()):
        shared["operation_id"] = draw(st.binary(min_size=1, max_size=9))
    return steps, shared


@given(st.lists(st.tuples(st.integers(0, 1), transactions()), min_size=1, max_size=6))
def test_decoding_gives_back_exactly_what_was_staged(script: list[Any]) -> None:
    nodes = KernelNode(REPLICA), KernelNode(OTHER)
    for who, (steps, shared) in script:
        node = nodes[who]
        transaction = puts({}, **shared)
        for step in steps:
            if isinstance(step, dict):
                for key, value in step.items():
                    transaction.put(SPACE, DATATYPES["register"].code, key, value)
            else:
                transaction.add(step)
        node.submit(transaction)
        if who:
            settle(*nodes)
    settle(*nodes)
    for node in nodes:
        for staged in node.written:
            decoded = decode_batch(staged.data, known_fields=NESTED)
            assert decoded.header == staged.header
            assert decoded.hash == staged.hash == hash_of(staged.data)
            assert decoded.transactions == staged.transactions
            assert deltas_of(decoded.segments) == deltas_of(staged.segments)
            assert unpack(staged.data)[11], "transactions are really in the bytes"
    assert nodes[0].digest == nodes[1].digest == nodes[0].restarted().digest


def test_a_batch_names_foreign_replicas_once_and_only_changed_dependencies() -> None:
    one, two = KernelNode(REPLICA), KernelNode(OTHER)
    two.commit(puts({f"k{n}": n for n in range(20)}))
    one.join(two)
    one.commit(puts({f"k{n}": -n for n in range(20)}))
    one.commit(puts({"alone": 1}))
    first, second = (unpack(batch.data) for batch in one.written)
    assert first[6] == (OTHER,)
    assert one.written[0].header.dependencies == {OTHER: 20}
    assert one.written[1].header.dependencies == {}
    assert second[6] == ()
    assert len(one.written[1].data) < 90


def test_the_wire_is_what_the_specification_says() -> None:
    """Golden bytes: a change here is a new version of the format."""
    node = KernelNode(7, "eu")
    node.now_us = 1_000
    node.commit(puts({"a": 1, "b": "two"}, author="ann"))
    node.commit(puts({"a": 2}))
    assert unpack(node.log[0].data) == (
        1, 7, 1, 2, bytes(16), "eu", (), (), (("notes",),), 1_000, 1_000,
        ((0, 0, {"a": "ann"}, ((0, 1, ("a", "b"), None, (1, "two"), None, None),)),),
    )  # fmt: skip
    assert unpack(node.log[1].data) == (
        1, 7, 3, 1, node.log[0].hash, "eu", (), (), (("notes",),), 1_001, 1_000,
        ((0, 0, None, ((0, 1, ("a",), None, (2,), (2,), None),)),),
    )  # fmt: skip
    assert node.log[0].data.hex().startswith("9c010701")


def test_long_columns_are_joined_text_and_little_endian_numbers() -> None:
    """Golden bytes too: how eight deltas or more are laid out."""
    node = KernelNode(7, "eu")
    node.now_us = 1_000
    keys = [f"key/{letter}" for letter in "abcdefgh"]
    node.commit(puts(dict.fromkeys(keys, 1)))
    node.commit(puts(dict.fromkeys(keys, 2)))
    node.commit(puts({f"other{n}": 0 for n in range(300)}))
    node.commit(puts(dict.fromkeys(reversed(keys), 3)))
    node.commit(puts({f"k\0{n}": 0 for n in range(8)}))
    first, second, _, fourth, fifth = (unpack(batch.data)[11][0][3][0] for batch in node.log)
    assert first[2] == ("key/", ("a\0b\0c\0d\0e\0f\0g\0h",))
    assert first[5] is None
    assert second[5] == bytes((8,) * 8)
    assert fourth[2] == ("key/", ("h\0g\0f\0e\0d\0c\0b\0a",))
    assert fourth[5][:4] == (301).to_bytes(2, "little") + (303).to_bytes(2, "little")
    assert len(fourth[5]) == 16
    assert fifth[2] == tuple(f"k\0{n}" for n in range(8))


@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1), min_size=1), st.text(max_size=5))
def test_keys_survive_their_column(keys: list[str], prefix: str) -> None:
    keys = [prefix.encode(errors="replace").decode() + key for key in keys]
    assert list(unpack_keys(unpack(pack_keys(keys)))) == keys


def test_keys_that_share_less_than_a_few_of_them_suggest() -> None:
    keys = [f"shared/{n}" for n in range(40)]
    keys[7] = "sh"
    packed = unpack(pack_keys(keys))
    assert packed[0] == "sh"
    assert list(unpack_keys(packed)) == keys


@pytest.mark.parametrize(
    "column",
    [
        "text",
        ("prefix", ()),
        ("prefix", ("a", "b")),
        ("prefix", (1,)),
        (1, ("a",)),
        ("nul\0", ("a",)),
        ("p" * 1_025, ("a",)),
        ("a", 1),
    ],
)
def test_what_is_no_column_of_keys_is_refused(column: Any) -> None:
    with pytest.raises(ValueError, match="malformed"):
        unpack_keys(column)


def test_a_run_of_totals_is_written_component_by_component() -> None:
    node = KernelNode(7, "eu")
    counting = Transaction()
    for letter in "abcdefgh":
        counting.count(SPACE, DATATYPES["counter"].code, letter, 3)
    node.commit(counting)
    part = unpack(node.log[0].data)[11][0][3][0]
    assert part[4] == {"c": ((0,) * 8, (3,) * 8)}
    (segment,) = decode_batch(node.log[0].data, known_fields=NESTED).segments
    assert segment.values == ((0, 3),) * 8
    again = unpack(pack_rows(([1, 2], [3, 4], [5, 6])))
    assert unpack_rows(again) == ((1, 3, 5), (2, 4, 6))


@given(st.integers(1, 8), st.binary(max_size=70))
def test_distances_are_read_only_if_all_are_of_one_width(count: int, data: bytes) -> None:
    if len(data) / count in (1, 2, 4, 8):
        assert distance_bytes(distances_of(data, count)) == data
    else:
        with pytest.raises(ValueError, match="malformed"):
            distances_of(data, count)


@given(st.lists(st.integers(0, (1 << 64) - 1), min_size=8, max_size=20))
def test_distances_survive_their_column(column: list[int]) -> None:
    kept = as_column(column)
    if not any(column):
        assert kept is None
    else:
        assert list(distances_of(distance_bytes(kept), len(column))) == column


# ---------------------------------------------------------------------- columns

DOTS = st.builds(pack_dot, st.sampled_from([REPLICA, OTHER, THIRD]), st.integers(1, 1 << 40))


@given(st.lists(st.just(0) | st.integers(1, 99) | st.lists(DOTS, min_size=1, max_size=3)))
def test_a_column_of_superseded_dots_survives_the_wire(raw: list[Any]) -> None:
    column = [tuple(item) if isinstance(item, list) else item for item in raw] or [0]
    first = pack_dot(REPLICA, 100)
    table = ReplicaTable(REPLICA)
    values = [None] * len(column)
    keys = ["k"] * len(column)
    part = pack((0, 1, keys, None, values, encode_dots_column(column, table), None))
    data = assembled([part], len(column), table=table)
    (segment,) = decode_batch(data, known_fields=NESTED).segments
    found = [superseded for *_, superseded in segment.deltas()]
    assert found == [superseded_dots(item, first + n) for n, item in enumerate(column)]


@pytest.mark.parametrize("length", [0, 1, 15, 16, 65_535, 65_536])
def test_array_headers_are_those_of_messagepack(length: int) -> None:
    assert pack([None] * length) == array_header(length) + b"\xc0" * length


# ---------------------------------------------------------------------- refusals


def assembled(
    parts: list[bytes],
    count: int,
    *,
    table: ReplicaTable | None = None,
    dependencies: dict[int, int] | None = None,
    spaces: Any = (SPACE,),
    bases: tuple[int, int] = (5, 5),
    header: dict[str, Any] | None = None,
    transactions: int = 1,
) -> bytes:
    """Return a batch whose transactions hold these encoded segments."""
    fields: dict[str, Any] = {
        "replica": REPLICA,
        "first": 100,
        "count": count,
        "previous_hash": bytes(16),
        "region": "eu",
        "dependencies": dependencies or {},
    }
    body = pack((0, 0, None, ()))[:-1] + array_header(len(parts)) + b"".join(parts)
    return encode_batch(
        BatchHeader(**{**fields, **(header or {})}),
        table or ReplicaTable(REPLICA),
        spaces,
        bases,
        [body] * transactions,
    )


PLAIN = pack((0, 1, ["k"], None, [1], None, None))
BAD_PARTS: list[Any] = [
    (1, 1, ["k"], None, [1], None, None),
    (-1, 1, ["k"], None, [1], None, None),
    (0, 999, ["k"], None, [1], None, None),
    (0, 1, [1], None, [1], None, None),
    (0, 1, [], None, [], None, None),
    (0, 1, "k", None, None, None, None),
    (0, 1, ["k"], None, [1, 2], None, None),
    (0, 1, ["k"], None, "1", None, None),
    (0, 1, ["k"], None, [1], [1, 2], None),
    (0, 1, ["k"], None, [1], [-1], None),
    (0, 1, ["k"], None, [1], [100], None),
    (0, 1, ["k"], None, [1], b"", None),
    (0, 1, ["k"], None, [1], b"\x64", None),
    (0, 1, ["k"], None, [1], b"\1\0\0", None),
    (0, 1, ["k"], None, [1], bytes(16), None),
    (0, 1, ["", ["k\0l"]], None, [1], None, None),
    (0, 6, ["k"], None, {}, None, None),
    (0, 6, ["k"], None, {"c": []}, None, None),
    (0, 6, ["k"], None, {"c": [1]}, None, None),
    (0, 6, ["k"], None, {"c": [[0], [1, 2]]}, None, None),
    (0, 6, ["k"], None, {"c": [[0, 0], [1, 2]]}, None, None),
    (0, 6, ["k"], None, {"c": [[0], [1]], "d": 1}, None, None),
    (0, 1, ["k"], None, [1], [[0]], None),
    (0, 1, ["k"], None, [1], [[9, 1]], None),
    (0, 1, ["k"], None, [1], ["x"], None),
    (0, 1, ["k"], None, [1], [{}], None),
    (0, 1, ["k"], None, [1], None, {"t": "high"}),
    (0, 1, ["k"], None, [1], None, {"a": 1}),
    (0, 1, ["k"], None, [1], None, {"e": 1.5}),
    (0, 1, ["k"], None, [1], None, {"i": [1]}),
    (0, 1, ["k"], None, [1], None, "metadata"),
    (0, 8, ["k"], [1.5], [True], None, None),
    (0, 8, ["k"], [101], [True], None, None),
    (0, 8, ["k"], [[1, 2, 3]], [True], None, None),
    (0, 8, ["k"], ["a", "b"], [True], None, None),
    (0, 1, ["k"], None, [1], None),
]


def test_the_helper_makes_batches_that_are_fine() -> None:
    assert decode_batch(assembled([PLAIN], 1), known_fields=NESTED).header.count == 1
    assert check(assembled([PLAIN], 1))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\xdd\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        pack(None),
        pack([1] * 12),
        pack(list(range(13))),
        b"\x91" * 2_000,
        assembled([PLAIN], 2),
        assembled([PLAIN, PLAIN], 1),
        assembled([], 0),
        assembled([], 1),
        assembled([PLAIN], 1, header={"replica": 0}),
        assembled([PLAIN], 1, header={"first": 0}),
        assembled([PLAIN], 1, header={"first": (1 << 64) - 1}),
        assembled([PLAIN], 1, header={"previous_hash": b"short"}),
        assembled([PLAIN], 1, header={"region": "r" * 65}),
        assembled([PLAIN], 1, header={"region": b"eu"}),
        assembled([PLAIN], 1, dependencies={REPLICA: 1}),
        assembled([PLAIN], 1, dependencies={OTHER: 0}),
        assembled([PLAIN], 1, bases=(1 << 63, 5)),
        assembled([PLAIN], 1, bases=(5, -1)),
        assembled([PLAIN], 1, spaces=["text"]),
        assembled([PLAIN], 1, spaces=[(1,)]),
        assembled([PLAIN], 1, spaces=[]),
        *(assembled([pack(part)], 1) for part in BAD_PARTS),
    ],
)
def test_what_is_no_batch_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedFrame):
        decode_batch(data, known_fields=NESTED)


def test_extension_types_and_trailing_bytes_are_refused() -> None:
    whole = assembled([PLAIN], 1)
    for data in (whole + b"\xc0", whole[:-1], whole.replace(b"\x01\xc0\xc0", b"\xd4\x05\x00\xc0")):
        with pytest.raises(MalformedFrame):
            decode_batch(data, known_fields=NESTED)


@given(st.integers(0, 2**64), st.sampled_from([mutated, reshaped]), st.data())
def test_mutated_batches_are_refused_or_join(seed: int, change: Any, data: st.DataObject) -> None:
    source = random.Random(seed)
    check(change(data.draw(st.sampled_from(corpus())), source))


@given(st.binary(max_size=200))
def test_random_bytes_are_refused(data: bytes) -> None:
    assert not check(data)


def test_the_corpus_is_of_batches_and_every_kept_finding_is_harmless() -> None:
    assert all(check(data) for data in corpus())
    for data in FINDINGS:
        check(data)


def test_equal_values_have_equal_bytes() -> None:
    one = {"b": [1, 2.0], "a": {"y": None, "x": "é"}}
    two = {"a": {"x": "é", "y": None}, "b": (1, 2.0)}
    assert pack(freeze(one)) == pack(freeze(two))
