"""Every store engine keeps its promises: checkpoints, cutting, verifying, copying, closing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from crdtmem.errors import (
    Closed,
    HistoryGap,
    InvalidValue,
    StoreLocked,
    StoreReadOnly,
)
from crdtmem.store import BatchRecord, Store, open_store
from tests.conformance.store_places import NOW_US, A, B, Place, batch, checkpoint, fill, put, spans

# -- checkpoints ---------------------------------------------------------------------


def test_a_checkpoint_is_whole_or_absent(place: Place) -> None:
    store = place.open()
    assert store.checkpoint() is None
    fill(store)
    writer = store.begin_checkpoint(b"at ten")
    writer.write(b"one")
    put(store, batch(B, 1, 1))
    writer.write(b"")
    writer.write(b"three" * 100_000)
    assert store.checkpoint() is None
    writer.commit()
    reaches: tuple[Callable[[], Store], ...] = (lambda: store, place.again)
    for opened in reaches:
        found = opened().checkpoint()
        assert found is not None
        assert (found.header, found.after_ordinal, found.chunk_count) == (b"at ten", 10, 3)
        assert list(found.chunks()) == [b"one", b"", b"three" * 100_000]
        assert place.store is not None
        assert [r.ordinal for r in place.store.replay(after_ordinal=10)] == [11]


def test_a_checkpoint_may_be_exact_at_a_later_position_than_it_began_at(place: Place) -> None:
    store = place.open()
    fill(store)
    writer = store.begin_checkpoint(b"at ten")
    assert writer.after_ordinal == 10
    put(store, batch(B, 1, 1), batch(B, 2, 2))
    writer.write(b"and what came meanwhile")
    for wrong in (9, 13):
        with pytest.raises(InvalidValue):
            writer.commit(wrong)
    writer.commit(12)
    put(store, batch(B, 3, 3))
    found = store.checkpoint()
    assert found is not None
    assert found.after_ordinal == 12
    # All that it covers may be cut: nobody needs it to recover.
    assert store.cut_sync_log(B, 9) == 3
    found = place.again().checkpoint()
    assert found is not None
    assert found.after_ordinal == 12
    assert place.store is not None
    assert [record.ordinal for record in place.store.replay(after_ordinal=12)] == [13]


def test_an_unfinished_checkpoint_leaves_the_one_before(place: Place) -> None:
    store = place.open()
    checkpoint(store, b"first", b"1")
    store.begin_checkpoint(b"second").write(b"2")
    store = place.again()
    found = store.checkpoint()
    assert found is not None
    assert found.header == b"first"
    writer = store.begin_checkpoint(b"third")
    writer.write(b"3")
    writer.abort()
    writer.abort()
    with pytest.raises(Closed):
        writer.write(b"4")
    assert list((store.checkpoint() or found).chunks()) == [b"1"]
    assert store.verify().sound


def test_one_checkpoint_is_written_at_a_time(place: Place) -> None:
    store = place.open()
    writer = store.begin_checkpoint(b"first")
    with pytest.raises(InvalidValue):
        store.begin_checkpoint(b"second")
    writer.commit()
    with pytest.raises(Closed):
        writer.commit()
    store.begin_checkpoint(b"second").abort()


def test_checkpoints_do_not_pile_up(place: Place) -> None:
    store = place.open()
    for number in range(8):
        checkpoint(store, b"%d" % number, *[b"chunk"] * 10)
    found = store.checkpoint()
    assert found is not None
    assert found.header == b"7"
    assert store.verify().chunks <= 20
    found = place.again().checkpoint()
    assert found is not None
    assert found.header == b"7"


# -- cutting -------------------------------------------------------------------------


def test_nothing_is_cut_that_no_checkpoint_covers(place: Place) -> None:
    store = place.open()
    fill(store)
    assert store.cut_sync_log(A, 50) == 1
    assert store.cut_history(A, 50) == 1
    checkpoint(store)
    put(store, batch(A, 101, 110))
    assert store.cut_sync_log(A, 10**9) == 101
    assert store.cut_history(A, 10**9) == 101
    assert [r.ordinal for r in store.replay(after_ordinal=0)] == [11]
    assert store.cut_sync_log(B, 10) == 0


def test_two_floors_are_kept_apart(place: Place) -> None:
    store = place.open()
    fill(store)
    fill(store, B, 2)
    checkpoint(store)
    assert store.cut_sync_log(A, 35) == 31
    reaches: tuple[Callable[[], Store], ...] = (lambda: store, place.again)
    for reach in reaches:
        opened = reach()
        assert opened.floors() == {A: 31, B: 1}
        assert opened.history_floors() == {A: 1, B: 1}
        with pytest.raises(HistoryGap) as caught:
            opened.read(A, 30, limit_bytes=1)
        assert caught.value.details["resume"] == 31
        assert spans(opened.read(A, 31, limit_bytes=1)) == [(31, 40)]
        assert spans(opened.read_history(A, 5, limit_bytes=1)) == [(1, 10)]
        assert opened.verify().records == 12
    store = place.store or store
    assert store.cut_history(A, 21) == 21
    assert store.verify().records == 10
    assert store.cut_history(A, 15) == 21, "a floor never falls"
    with pytest.raises(HistoryGap):
        store.read_history(A, 20, limit_bytes=1)
    assert spans(store.read_history(A, 25, limit_bytes=1)) == [(21, 30)]


def test_heads_and_ordinals_outlive_the_records(place: Place) -> None:
    store = place.open()
    fill(store)
    checkpoint(store)
    assert store.cut_sync_log(A, 101) == 101
    assert store.cut_history(A, 101) == 101
    for _ in range(2):
        assert store.heads() == {A: 100}
        assert store.floors() == {A: 101}
        assert store.last_ordinal() == 10
        assert store.read(A, 101, limit_bytes=1) == []
        with pytest.raises(HistoryGap):
            store.read(A, 100, limit_bytes=1)
        with pytest.raises(InvalidValue):
            store.append([batch(A, 100, 101)], arrived_at_us=NOW_US)
        store = place.again()
    put(store, batch(A, 101, 110))
    assert [r.ordinal for r in store.replay(after_ordinal=0)] == [11]
    assert spans(store.read(A, 101, limit_bytes=1)) == [(101, 110)]


def test_a_marker_goes_when_no_batch_before_it_is_left(place: Place) -> None:
    store = place.open()
    fill(store, batches=1)
    store.append_marker(b"snapshot", arrived_at_us=NOW_US)
    put(store, batch(A, 100, 110))
    checkpoint(store)
    put(store, batch(A, 111, 120))
    assert store.verify().sound
    assert store.cut_sync_log(A, 100) == 100
    assert store.cut_history(A, 100) == 100
    report = store.verify()
    assert (report.records, report.markers, report.problems) == (2, 0, ())


# -- looking after it ----------------------------------------------------------------


def test_verify_counts_and_reports_progress(place: Place) -> None:
    store = place.open()
    fill(store)
    store.append_marker(b"snapshot", arrived_at_us=NOW_US)
    store.sync()
    checkpoint(store, b"h", b"1", b"2")
    steps: list[tuple[int, int]] = []
    report = store.verify(progress=lambda done, total: steps.append((done, total)))
    assert report.sound
    assert (report.records, report.markers, report.chunks, report.quarantined) == (11, 1, 2, 0)
    assert report.record_bytes == 10 * 10 + len(b"snapshot")
    assert steps[-1] == (11, 11)


def test_verify_finds_a_gap_that_no_snapshot_explains(place: Place) -> None:
    store = place.open()
    put(store, batch(A, 1, 10), batch(B, 1, 1), batch(A, 20, 30))
    (problem,) = store.verify().problems
    assert "20..30" in problem
    assert "gap" in problem


def test_verify_follows_the_hash_chain(place: Place) -> None:
    store = place.open()
    first = BatchRecord.of(A, 1, 1, b"\0" * 16 + b"one")
    second = BatchRecord.of(A, 2, 2, first.digest + b"two")
    stranger = BatchRecord.of(A, 3, 3, first.digest + b"three")
    put(store, first, second)
    assert store.verify(previous_of=lambda data: data[:16]).sound
    put(store, stranger)
    (problem,) = store.verify(previous_of=lambda data: data[:16]).problems
    assert "3..3" in problem

    def undecodable(_data: bytes) -> bytes:
        raise ValueError("no such format")

    assert len(store.verify(previous_of=undecodable).problems) == 2


def test_a_backup_has_the_content_and_not_the_identity(place: Place) -> None:
    store = place.open()
    store.put_metadata({"replica": b"1"})
    store.claim_identity()
    fill(store, batches=3)
    checkpoint(store, b"h", b"chunk")
    steps: list[tuple[int, int]] = []
    store.backup(place.backup_path, progress=lambda done, total: steps.append((done, total)))
    assert steps[-1][0] == steps[-1][1]
    with pytest.raises(InvalidValue):
        store.backup(place.backup_path)
    copy = open_store(place.backup_url)
    assert not copy.boot.continuous
    assert "backup" in copy.boot.reason
    assert not copy.boot.fresh
    assert copy.metadata() == {"replica": b"1"}
    assert spans(copy.read(A, 1, limit_bytes=10**9)) == [(1, 10), (11, 20), (21, 30)]
    assert list((copy.checkpoint() or pytest.fail("no checkpoint")).chunks()) == [b"chunk"]
    assert copy.verify().sound
    copy.claim_identity()
    copy.sync()
    copy.close()
    copy = open_store(place.backup_url)
    assert copy.boot.continuous
    copy.close()
    assert place.again().boot.continuous, "the original is untouched"


def test_a_tail_that_is_set_aside_costs_the_identity(place: Place) -> None:
    store = place.open()
    store.claim_identity()
    fill(store)
    store = place.again()
    assert store.boot.continuous
    assert store.quarantine_after(8, "the replica could not decode it") == 2
    assert "could not decode" in store.boot.reason
    assert store.heads() == {A: 80}
    put(store, batch(A, 81, 85))
    store = place.again()
    assert "could not decode" in store.boot.reason
    assert [r.ordinal for r in store.replay(after_ordinal=7)] == [8, 11]
    assert spans(list(store.quarantined())) == [(81, 90), (91, 100)]
    assert store.verify().quarantined == 2
    checkpoint(store)
    with pytest.raises(InvalidValue):
        store.quarantine_after(5, "into the checkpoint")
    store.append([batch(A, 86, 90)], arrived_at_us=NOW_US)
    with pytest.raises(InvalidValue):
        store.quarantine_after(11, "with a transaction open")


def test_reopen_keeps_what_was_synced_and_the_lock(place: Place) -> None:
    store = place.open()
    store.claim_identity()
    fill(store, batches=2)
    store.append([batch(A, 21, 30)], arrived_at_us=NOW_US)
    writer = store.begin_checkpoint(b"h")
    store.reopen()
    assert store.boot.continuous, store.boot.reason
    assert store.heads() == {A: 20}
    with pytest.raises(StoreLocked):
        open_store(place.url)
    with pytest.raises(Closed):
        writer.write(b"to a store that was reopened")
    put(store, batch(A, 21, 25))
    assert place.again().heads() == {A: 25}


def test_a_store_is_held_by_one(place: Place) -> None:
    store = place.open()
    fill(store)
    with pytest.raises(StoreLocked) as caught:
        open_store(place.url)
    assert caught.value.hint
    put(store, batch(A, 101, 101))
    assert place.again().heads() == {A: 101}


def test_read_only_changes_nothing(place: Place) -> None:
    store = place.open()
    store.claim_identity()
    fill(store)
    checkpoint(store, b"h", b"chunk")
    store.close()
    before = place.open(read_only=True)
    assert before.boot.continuous, before.boot.reason
    assert before.heads() == {A: 100}
    assert list((before.checkpoint() or pytest.fail("no checkpoint")).chunks()) == [b"chunk"]
    assert before.verify().sound
    for write in (
        lambda: before.append([batch(A, 101, 101)], arrived_at_us=NOW_US),
        lambda: before.append_marker(b"", arrived_at_us=NOW_US),
        lambda: before.put_metadata({"a": b""}),
        before.claim_identity,
        before.sync,
        lambda: before.begin_checkpoint(b""),
        lambda: before.cut_sync_log(A, 1),
        lambda: before.cut_history(A, 1),
        lambda: before.quarantine_after(99, ""),
    ):
        with pytest.raises(StoreReadOnly):
            write()
    boot = before.boot.boot
    assert place.again().boot.boot == boot + 1


def test_a_closed_store_says_so(place: Place) -> None:
    store = place.open()
    fill(store)
    store.close()
    store.close()
    for use in (
        store.sync,
        store.reopen,
        store.metadata,
        store.heads,
        store.checkpoint,
        store.verify,
        store.last_ordinal,
        store.size_bytes,
        lambda: store.read(A, 1, limit_bytes=1),
        lambda: list(store.replay(after_ordinal=0)),
    ):
        with pytest.raises(Closed):
            use()


def test_size_grows_with_content(place: Place) -> None:
    store = place.open()
    assert store.size_bytes() < 1 << 20
    put(store, batch(A, 1, 1, size=1 << 20))
    assert store.size_bytes() >= 1 << 20


# -- setting one replica's batches aside ---------------------------------------------


def test_diverted_batches_make_room_for_others(place: Place) -> None:
    store = place.open()
    store.claim_identity()
    fill(store, A, 5)
    fill(store, B, 2)
    assert store.divert(A, 30) == 2
    assert store.divert(A, 30) == 0, "doing it again changes nothing"
    assert store.heads() == {A: 30, B: 20}
    assert spans(list(store.quarantined())) == [(31, 40), (41, 50)]
    other = BatchRecord.of(A, 31, 33, b"another history")
    put(store, other)
    store = place.again()
    assert store.boot.continuous, "nothing was lost: no identity is owed"
    assert [r.data for r in store.read(A, 31, limit_bytes=10**9)] == [b"another history"]
    assert [r.ordinal for r in store.replay(after_ordinal=0)] == [1, 2, 3, 6, 7, 8]
    assert len(list(store.quarantined())) == 2
    assert store.verify().sound
    with pytest.raises(InvalidValue):
        store.append([BatchRecord.of(A, 33, 40, b"overlapping")], arrived_at_us=NOW_US)


def test_a_batch_that_ends_beyond_the_cut_is_diverted_whole(place: Place) -> None:
    store = place.open()
    fill(store, A, 3)
    assert store.divert(A, 14) == 2
    assert store.heads() == {A: 10}
    put(store, BatchRecord.of(A, 11, 12, b"another"))
    assert spans(store.read(A, 1, limit_bytes=10**9)) == [(1, 10), (11, 12)]


def test_floors_fall_with_what_is_diverted(place: Place) -> None:
    store = place.open()
    fill(store, A, 10)
    checkpoint(store, b"header", b"chunk")
    store.cut_sync_log(A, 81)
    store.cut_history(A, 41)
    assert store.divert(A, 60) == 4
    assert (store.floors(), store.history_floors()) == ({A: 61}, {A: 41})
    store.cut_history(A, 61)
    assert store.heads() == {A: 60}, "known, although no batch is left"
    store = place.again()
    assert store.heads() == {A: 60}
    assert store.divert(A, 0) == 0
    assert store.heads().get(A, 0) == 0
    put(store, batch(A, 1, 10))
    assert spans(store.read(A, 1, limit_bytes=10**9)) == [(1, 10)]
    store = place.again()
    assert store.heads() == {A: 10}


def test_diverting_waits_for_transactions_and_checkpoints(place: Place) -> None:
    store = place.open()
    fill(store)
    store.append([batch(B, 1, 1)], arrived_at_us=NOW_US)
    with pytest.raises(InvalidValue, match="transaction"):
        store.divert(A, 10)
    store.sync()
    writer = store.begin_checkpoint(b"header")
    with pytest.raises(InvalidValue, match="checkpoint"):
        store.divert(A, 10)
    with pytest.raises(InvalidValue, match="checkpoint"):
        store.drop_checkpoints()
    writer.abort()
    assert store.divert(A, 10) == 9


def test_dropped_checkpoints_are_gone_and_the_log_begins_anew(place: Place) -> None:
    store = place.open()
    fill(store, A, 3)
    checkpoint(store, b"first", *[b"chunk"] * 300)
    checkpoint(store, b"second", b"chunk")
    store.drop_checkpoints()
    store.drop_checkpoints()
    for opened in (lambda: store, place.again):
        found = opened()
        assert found.checkpoint() is None
        assert found.verify().chunks == 0
        assert len(list(found.replay(after_ordinal=0))) == 3
    store = place.again()
    assert store.cut_sync_log(A, 31) == 1, "without a checkpoint nothing is covered"
    checkpoint(store, b"third", b"chunk")
    assert (store.checkpoint() or pytest.fail("none")).header == b"third"
