"""Large states are compared and checked a step at a time, and encoded where they are written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from crdtmem import install, merging, reconcile, sync_intake
from crdtmem.digest import hash_dots
from crdtmem.effects import Persist
from crdtmem.install import Installation, Kind
from crdtmem.reconcile import DotSet, PinnedDots
from crdtmem.snapshot import SnapshotHeader, encode_chunks, load_chunk
from crdtmem.table import State
from tests.sync.host import Cluster, SyncNode, dump
from tests.sync.test_transfer import DIFFERENCE, fill

SLICE = 100


@pytest.fixture(autouse=True)
def _small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync_intake, "SLICE_ENTRIES", SLICE)
    monkeypatch.setattr(reconcile, "STEP_DOTS", SLICE)
    monkeypatch.setattr(merging, "SLICE_PLACES", SLICE)
    monkeypatch.setattr(merging, "_MANY", SLICE)


def pair(size: int = 2_000, **settings: Any) -> tuple[Cluster, SyncNode, SyncNode]:
    """Return a node whose log is cut, and a new one that must take its state."""
    cluster = Cluster(1)
    old, new = cluster.node(1, **settings), cluster.node(2, **settings)
    fill(old, "key", size)
    cluster.pass_s(1)
    old.cut_log()
    return cluster, old, new


def checks(cluster: Cluster, new: SyncNode) -> Callable[[], bool]:
    """Return a condition: the transfer has come, and is being checked."""

    def checking() -> bool:
        intake = new.sync.inbound._intake
        return intake is not None and intake.checking is not None

    return checking


def test_others_are_served_between_any_two_slices() -> None:
    cluster, old, new = pair()
    cluster.connect(new, old)
    cluster.run(checks(cluster, new))
    slices = 0
    while checks(cluster, new)():
        assert not new.installed
        slices += 1
        new.put(**{f"mine{slices}": slices})
        assert new.sync.next_deadline_us() is not None
        cluster.step()
    assert slices >= 2_000 // SLICE // 2
    cluster.settle()
    assert [part.kind for part in new.installed] == [Kind.WHOLE]
    assert (new.value("key1999"), new.value("mine1")) == (1999, 1)
    assert dump(new.recovered()) == dump(new.state)
    assert new.state.digest() == old.state.digest()


def test_a_stream_that_ends_meanwhile_takes_nothing_away() -> None:
    cluster, old, new = pair()
    cluster.connect(new, old)
    cluster.run(checks(cluster, new))
    cluster.cut_all()
    cluster.run(lambda: bool(new.installed))
    assert new.value("key1999") is None or new.value("key1999") == 1999
    cluster.run(lambda: new.value("key1999") == 1999)


def test_a_difference_is_checked_in_slices_too() -> None:
    cluster, old, new = pair(config=DIFFERENCE)
    fill(new, "mine", 500)
    cluster.connect(new, old)
    cluster.settle()
    assert [part.kind for part in new.installed] == [Kind.DIFFERENCE]
    assert dump(new.recovered()) == dump(new.state)
    assert new.state.digest() == old.state.digest()


def test_what_is_wrong_in_a_late_slice_is_refused_and_asked_for_again() -> None:
    cluster, old, new = pair()
    cluster.connect(new, old)
    cluster.run(checks(cluster, new))
    intake = new.sync.inbound._intake
    assert intake is not None
    (table,) = [t for t in intake.staged.tables.values() if len(t.slots) > 1_000]
    last = list(table.slots)[-1]
    dot, value, stamp = table.slots[last]
    table.slots[last] = (dot + 1_000_000, value, stamp)
    cluster.run(lambda: not checks(cluster, new)())
    assert [alarm.name for alarm in new.alarms] == ["snapshot refused"]
    assert not new.installed
    cluster.settle()
    assert new.value("key1999") == 1999
    assert new.state.digest() == old.state.digest()


@pytest.mark.parametrize(("asker", "teller"), [(100, 4_000), (4_000, 100)])
def test_both_sides_of_a_comparison_sort_their_dots_in_steps(asker: int, teller: int) -> None:
    """Whoever is ready first waits for the other; what is written meanwhile is kept."""
    cluster, old, new = pair(teller, config=DIFFERENCE)
    fill(new, "mine", asker)
    cluster.pass_s(1)
    cluster.connect(new, old)

    def comparing() -> bool:
        intake = new.sync.inbound._intake
        return intake is not None and intake.comparison is not None

    steps = 0
    while not comparing():
        steps += 1
        assert steps < 1_000
        new.put(**{f"key{steps}": "newer here"})
        old.put(**{f"late{steps}": steps})
        cluster.step()
    assert steps >= max(asker, teller) // SLICE // 2
    cluster.settle()
    assert {part.kind for part in new.installed} == {Kind.DIFFERENCE}
    assert new.state.digest() == old.state.digest()
    assert dump(new.recovered()) == dump(new.state)
    assert (new.value("late1"), old.value("key1")) == (1, "newer here")


def test_steps_lead_to_the_same_set_of_dots_as_they_were() -> None:
    cluster, old, new = pair(500)
    fill(new, "mine", 350)
    cluster.connect(new, old)
    cluster.settle()
    state = new.state
    live = {entry[0] for *_, entry in state.entries()}
    pinned = PinnedDots(state)
    steps = 0
    while (found := pinned.step()) is None:
        steps += 1
        new.put(**{f"key{steps}": "changes nothing of what was pinned"})
        cluster.pass_s(0.1)
    assert steps >= len(live) // SLICE
    assert len(found) == len(live)
    for replica in {dot >> 64 for dot in live}:
        through = (replica, 1, 1 << 40)
        assert {replica << 64 | int(n) for n in found.sequences(through)} == {
            dot for dot in live if dot >> 64 == replica
        }
        held = [dot for dot in live if dot >> 64 == replica]
        assert found.fingerprint(through) == hash_dots(held)[0]
    assert len(DotSet.of(State(state.shapes))) == 0


@pytest.mark.parametrize("size", [1, 7, 100, 1 << 30])
def test_slices_of_any_size_derive_the_same(size: int) -> None:
    cluster = Cluster(2)
    nodes = [cluster.node(1), cluster.node(2)]
    for node in nodes:
        fill(node, "key", 100)
    cluster.mesh()
    cluster.settle()
    state = nodes[0].state
    state.rebuild_derived()
    whole = (state.digest(), state.digests.keys(), [t.contested for t in state.tables.values()])
    slices = sum(1 for _ in state.derive_in_slices(size))
    assert slices >= 100 // size - 2
    assert (
        state.digest(),
        state.digests.keys(),
        [t.contested for t in state.tables.values()],
    ) == whole


def _staging(kind: Kind, size: int = 1_000) -> tuple[SyncNode, Installation]:
    """Return a node that holds something, and a larger state that it is to install."""
    cluster = Cluster(1)
    source, node = cluster.node(1), cluster.node(2)
    fill(source, "theirs", size)
    fill(node, "mine", 300)
    cluster.pass_s(1)
    theirs = State(source.state.shapes)
    for chunk in encode_chunks(source.state):
        load_chunk(theirs, chunk)
    theirs.vector = source.state.vector.copy()
    base = node.state.vector.copy()
    wanted = {entry[0] for *_, entry in theirs.entries()}
    header = SnapshotHeader(theirs.vector.copy())
    return node, Installation(kind, header, theirs, base, theirs.vector, wanted)


@pytest.mark.parametrize("kind", [Kind.WHOLE, Kind.DIFFERENCE])
def test_a_large_state_is_joined_slice_by_slice_and_seen_all_at_once(kind: Kind) -> None:
    node, installation = _staging(kind)
    replica, before = node.replica, (dump(node.state), node.state.digest())
    table = node.state.table(*next(iter(installation.state.tables)))
    replica.install(installation)
    turns = 0
    while not isinstance((effect := replica.stage(1_000))[-1], Persist):
        assert (dump(node.state), node.state.digest()) == before, "nothing of it is seen"
        turns += 1
    assert turns >= 1_000 // SLICE
    persist = effect[-1]
    assert isinstance(persist, Persist)
    list(persist.flight.markers)
    assert (dump(node.state), node.state.digest()) == before
    replica.persisted(persist.flight, 1_000)
    assert node.state.table(table.space, table.datatype) is table, "readers hold on to it"
    assert len(table.slots) == 1_300
    digest = node.state.digest()
    node.state.rebuild_derived()
    assert node.state.digest() == digest


def test_a_state_that_is_replaced_meanwhile_is_joined_anew() -> None:
    node, installation = _staging(Kind.WHOLE)
    replica = node.replica
    replica.install(installation)
    for _ in range(5):
        replica.stage(1_000)
    # As a repair does that re-derives the state: the content of a table, and all digests.
    lost = next(key for table in node.state.tables.values() for key in table.slots)
    for table in node.state.tables.values():
        table.slots.pop(lost, None)
    node.state.rebuild_derived()
    while not isinstance((effects := replica.stage(1_000))[-1], Persist):
        pass
    persist = effects[-1]
    assert isinstance(persist, Persist)
    replica.persisted(persist.flight, 1_000)
    held = {key for table in node.state.tables.values() for key in table.slots}
    assert lost not in held
    assert len(held) >= 1_299


def test_nothing_is_encoded_before_the_flight_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, old, new = pair()
    encoded: list[int] = []

    def counted(state: Any) -> Iterator[bytes]:
        for chunk in encode_chunks(state):
            encoded.append(len(chunk))
            yield chunk

    monkeypatch.setattr(install, "encode_chunks", counted)
    header = SnapshotHeader(old.state.vector.copy())
    new.replica.install(Installation(Kind.WHOLE, header, old.state))
    while not isinstance((persist := new.replica.stage(cluster.now_us)[-1]), Persist):
        pass
    assert encoded == []
    markers = list(persist.flight.markers)
    assert len(markers) == 1 + len(encoded) > 2
