"""Chunks: whole states to bytes and back, while writes go on, and nothing malformed gets in."""

from __future__ import annotations

from contextlib import suppress
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdtmem import merging
from crdtmem.causality import VersionVector
from crdtmem.codec import pack, unpack
from crdtmem.crdt import NESTED, SHAPES
from crdtmem.entries import Stamp, pack_dot
from crdtmem.errors import MalformedFrame
from crdtmem.install import Assembler, Installation, Kind, dots_from_flat, flat_dots
from crdtmem.merging import join_states
from crdtmem.snapshot import (
    SnapshotHeader,
    decode_header,
    encode_chunks,
    encode_header,
    load_chunk,
)
from crdtmem.table import State
from tests.sync.host import Cluster, SyncNode, dump


def grown(seed: int = 0) -> tuple[Cluster, list[SyncNode]]:
    """Return three nodes that hold every datatype, with siblings, and have diverged."""
    cluster = Cluster(seed)
    nodes = [cluster.node(replica) for replica in (1, 2, 3)]
    for node in nodes:
        scatter(node, Random(seed + node.replica_id), 40)
    cluster.mesh()
    cluster.settle()
    cluster.cut_all()
    for node in nodes:
        scatter(node, Random(seed * 7 + node.replica_id), 40)
    cluster.pass_s(1)
    return cluster, nodes


def scatter(node: SyncNode, draw: Random, times: int) -> None:
    for _ in range(times):
        key = f"key{draw.randrange(12)}"
        name = draw.choice(["put", "delete", "set", "remove", "counter", "log", "map", "flag"])
        if name == "put":
            node.put(**{key: draw.choice([1, "text", b"bytes", [1, {"a": None}], 2.5])})
        elif name == "delete":
            node.operate("register", key, "delete")
        elif name in ("set", "remove"):
            node.operate("set", key, "add" if name == "set" else "remove", draw.randrange(4))
        elif name == "counter":
            node.operate("counter", key, "increment", draw.randrange(1, 5))
        elif name == "log":
            node.operate("log", key, "append", draw.randrange(100))
        elif name == "flag":
            node.operate("flag", key, draw.choice(["enable", "disable"]))
        else:
            node.operate("map", key, "set", "field", "register", draw.randrange(9))


def loaded(chunks: list[bytes]) -> State:
    state = State(SHAPES)
    for chunk in chunks:
        load_chunk(state, chunk)
    state.rebuild_derived()
    return state


@pytest.mark.parametrize("size", [1, 7, 2_000])
def test_a_state_survives_its_chunks(size: int) -> None:
    _, nodes = grown()
    for node in nodes:
        copy = loaded(list(encode_chunks(node.state, entries_per_chunk=size)))
        assert dump(copy) == dump(node.state)
        assert copy.digest() == node.state.digest()


@pytest.mark.parametrize("seed", range(5))
def test_chunks_taken_during_writes_and_the_log_since_are_exact(seed: int) -> None:
    cluster = Cluster(seed)
    node = cluster.node(1)
    scatter(node, Random(seed), 80)
    cluster.pass_s(1)
    after = node.store.last_ordinal()
    draw = Random(seed)
    chunks = []
    for chunk in encode_chunks(node.state, entries_per_chunk=3):
        chunks.append(chunk)
        if draw.random() < 0.5:
            scatter(node, draw, 2)
            cluster.pass_s(0.01)
    fresh = SyncNode(cluster, 1)
    for chunk in chunks:
        load_chunk(fresh.state, chunk)
    for record in node.store.replay(after_ordinal=after):
        fresh.replica.recover_batch(node.decode(record.data))
    fresh.state.rebuild_derived()
    assert dump(fresh.state) == dump(node.state)
    assert fresh.state.digest() == node.state.digest()


@pytest.mark.parametrize("slice_places", [1, 3, merging.SLICE_PLACES])
@pytest.mark.parametrize("seed", range(5))
def test_the_join_of_states_is_the_join_of_their_deltas(
    seed: int, slice_places: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Wherever it is cut into slices, and whether tables are rebuilt aside or changed in place.
    monkeypatch.setattr(merging, "SLICE_PLACES", slice_places)
    monkeypatch.setattr(merging, "_MANY", slice_places - 1)
    cluster, (a, b, c) = grown(seed)
    copy = loaded(list(encode_chunks(b.state)))
    copy.vector = b.state.vector.copy()
    join_states(a.state, copy).publish()
    a.state.vector.join(copy.vector)
    cluster.connect(b, c)
    cluster.run(lambda: b.state.vector == c.state.vector)
    everything = loaded(list(encode_chunks(c.state)))
    everything.vector = c.state.vector.copy()
    join_states(a.state, everything).publish()
    a.state.vector.join(everything.vector)
    reference = SyncNode(cluster, 8)
    for node in (a, b, c):
        for record in node.store.replay(after_ordinal=0):
            reference.run(reference.offer(node.decode(record.data))[1])
    cluster.run(lambda: reference.state.vector == a.state.vector)
    assert dump(a.state) == dump(reference.state)
    assert a.state.digest() == reference.state.digest()
    conflicts = {
        (t.space, t.datatype, place)
        for t in a.state.tables.values()
        for place in t.contested_keys()
    }
    expected = {
        (t.space, t.datatype, place)
        for t in reference.state.tables.values()
        for place in t.contested_keys()
    }
    assert conflicts == expected


def test_joining_is_idempotent() -> None:
    _, (a, b, _) = grown(3)
    join_states(a.state, b.state).publish()
    a.state.vector.join(b.state.vector)
    before = dump(a.state), a.state.digest()
    again = join_states(a.state, b.state)
    assert not again.changes
    again.publish()
    assert (dump(a.state), a.state.digest()) == before


def test_large_values_make_small_chunks() -> None:
    cluster = Cluster()
    node = cluster.node(1)
    for number in range(64):
        node.put(**{f"key{number}": "x" * 60_000})
    cluster.pass_s(1)
    chunks = list(encode_chunks(node.state))
    assert max(map(len, chunks)) < 1.2 * (1 << 20)
    assert dump(loaded(chunks)) == dump(node.state)


def header() -> SnapshotHeader:
    return SnapshotHeader(
        VersionVector({1: 5, 2: 6}),
        {1: (5, b"a" * 16), 2: (6, b"b" * 16)},
        (10, 20),
        {1: VersionVector({2: 3})},
        {9: 4},
        {8: "two batches"},
        [(b"operation", pack_dot(1, 3), 2)],
        (1, 2),
        {"members": [1, {"a": b"b"}]},
    )


def test_a_header_survives_the_round_trip() -> None:
    again = decode_header(encode_header(header()))
    assert encode_header(again) == encode_header(header())
    assert again.vector == header().vector
    assert again.operations == header().operations
    assert again.extra == {"members": (1, {"a": b"b"})}


@given(st.data())
def test_a_malformed_chunk_or_header_changes_nothing(data: st.DataObject) -> None:
    cluster = Cluster()
    node = cluster.node(1)
    scatter(node, Random(2), 30)
    cluster.pass_s(1)
    parts: list[bytes] = [*encode_chunks(node.state, entries_per_chunk=4), encode_header(header())]
    part = bytearray(data.draw(st.sampled_from(parts)))
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(part) - 1))
        part[position] = data.draw(st.integers(0, 255))
    state = State(SHAPES)
    try:
        load_chunk(state, bytes(part))
    except MalformedFrame:
        assert not state.tables
    with suppress(MalformedFrame):
        assert encode_header(decode_header(bytes(part)))


def changed(chunk: bytes, position: int, value: Any) -> bytes:
    body = list(unpack(chunk))
    body[position] = value
    return pack(body)


@pytest.mark.parametrize(
    ("position", "value"),
    [(0, 99), (1, ["a", 5]), (2, 999), (3, [[0, "r", "a", 0]]), (4, [[9, 1, 1]]), (4, [[-1, 1, 1]]),
     (5, ["", "b"]), (5, ["a"]), (6, ["f", "g"]), (7, [1, 0]), (7, [2]), (8, [0, 1]), (8, [1]),
     (9, [1]), (10, [0, -1]), (10, 5), (10, [0])],
)  # fmt: skip
def test_each_column_is_checked(position: int, value: Any) -> None:
    state = State(SHAPES)
    stamp = Stamp(1, 10, 10, "ann", "eu")
    for sequence, key in enumerate(("a", "b"), 1):
        state.table(("s",), 1).slots[key] = (pack_dot(1, sequence), key, stamp)
    (chunk,) = encode_chunks(state)
    fresh = State(SHAPES)
    with pytest.raises(MalformedFrame):
        load_chunk(fresh, changed(chunk, position, value))
    assert not fresh.tables
    assert load_chunk(fresh, chunk) == 2


@given(st.sets(st.integers(1, 1 << 20).map(lambda n: pack_dot(1 + n % 3, n))))
def test_dots_survive_their_flat_form(dots: set[int]) -> None:
    assert set(dots_from_flat(unpack(pack(flat_dots(sorted(dots)))))) == dots


@pytest.mark.parametrize("flat", [[[0, 1]], [[1, 0]], [["x", 1]], [[1, 1 << 63, 1 << 63]], [5]])
def test_no_list_of_dots_is_taken_that_is_none(flat: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        dots_from_flat(flat)


def test_an_installation_survives_its_markers() -> None:
    _, (a, b, _) = grown(5)
    batches = [b.decode(record.data) for record in b.store.replay(after_ordinal=0)][:3]
    full = Installation(
        Kind.DIFFERENCE,
        SnapshotHeader(b.state.vector.copy()),
        b.state,
        a.state.vector.copy(),
        b.state.vector.copy(),
        {entry[0] for *_, entry in b.state.entries()},
        {pack_dot(1, 4), pack_dot(2, 9)},
        batches,
    )
    assembler = Assembler(SHAPES, NESTED)
    found = [part for marker in full.markers() if (part := assembler.feed(marker)) is not None]
    (again,) = found
    assert dump(again.state) == dump(b.state)
    assert (again.wanted, again.dropped) == (full.wanted, full.dropped)
    assert [batch.data for batch in again.batches] == [batch.data for batch in batches]
    assert (again.base, again.compared, again.kind) == (full.base, full.compared, full.kind)
    with pytest.raises(MalformedFrame):
        Assembler(SHAPES, NESTED).feed(list(full.markers())[1])
