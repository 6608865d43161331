"""The simulated disk fails in the ways that it says, and the store above notices."""

from __future__ import annotations

import pytest

from crdtmem.errors import Closed, StoreCorrupt, StoreFailed, StoreFull, StoreLocked
from crdtmem.store import BatchRecord, FaultPlan, MemoryDisk, MemoryStore, open_memory_store

R = 3


def put(store: MemoryStore, number: int) -> None:
    store.append([BatchRecord.of(R, number, number, b"content")], arrived_at_us=number)
    store.put_metadata({"last": b"%d" % number})
    store.sync()


def filled(disk: MemoryDisk, numbers: int = 5) -> MemoryStore:
    store = open_memory_store(disk)
    store.claim_identity()
    for number in range(1, numbers + 1):
        put(store, number)
    return store


def test_a_crash_loses_what_was_not_synced() -> None:
    disk = MemoryDisk()
    store = filled(disk)
    store.append([BatchRecord.of(R, 6, 6, b"content")], arrived_at_us=6)
    with pytest.raises(StoreLocked):
        open_memory_store(disk)
    store.crash()
    with pytest.raises(Closed):
        store.sync()
    again = open_memory_store(disk)
    assert again.boot.continuous, again.boot.reason
    assert not again.boot.clean
    assert again.heads() == {R: 5}


@pytest.mark.parametrize("survives", [False, True])
def test_a_sync_fails_when_planned_and_may_survive(survives: bool) -> None:
    faults = FaultPlan()
    store = open_memory_store(MemoryDisk(), faults=faults)
    faults.fail_sync(StoreFull("no space", hint="free some"), after=2, survives=survives)
    faults.fail_reopen(StoreFailed("still failing"))
    put(store, 1)
    put(store, 2)
    with pytest.raises(StoreFull) as caught:
        put(store, 3)
    assert caught.value.hint == "free some"
    for use in (store.heads, store.sync, store.metadata):
        with pytest.raises(StoreFull):
            use()
    with pytest.raises(StoreFailed):
        store.reopen()
    with pytest.raises(StoreFailed):
        store.heads()
    store.reopen()
    last = 3 if survives else 2
    assert store.heads() == {R: last}
    assert store.metadata() == {"last": b"%d" % last}
    put(store, last + 1)


def test_a_torn_tail_is_cut() -> None:
    disk = MemoryDisk()
    filled(disk).crash()
    disk.tear(2)
    store = open_memory_store(disk)
    assert not store.boot.continuous
    assert store.boot.cut_records == 2
    assert store.heads() == {R: 3}
    assert len(list(store.quarantined())) == 2
    assert store.last_ordinal() == 5
    store.crash()
    assert "fails its checksums" in open_memory_store(disk).boot.reason


def test_a_record_that_rots_after_it_was_settled_is_not_served() -> None:
    disk = MemoryDisk()
    filled(disk).close()
    disk.tear(1)
    store = open_memory_store(disk)
    assert store.boot.continuous
    with pytest.raises(StoreCorrupt):
        list(store.replay(after_ordinal=0))
    assert not store.verify().sound


def test_a_disk_that_lied_is_caught() -> None:
    disk = MemoryDisk()
    filled(disk).crash()
    disk.lose_tail(2)
    store = open_memory_store(disk)
    assert store.boot.cut_records == 2
    assert store.heads() == {R: 3}
    store.append([BatchRecord.of(R, 4, 4, b"again")], arrived_at_us=1)
    store.sync()
    assert store.last_ordinal() == 6


def test_copies_and_rollbacks_are_caught_and_whole_snapshots_are_not() -> None:
    disk = MemoryDisk()
    filled(disk).close()
    older = disk.copy()
    assert "copied" in open_memory_store(older.copy()).boot.reason
    store = open_memory_store(disk)
    assert store.boot.continuous
    put(store, 6)
    store.close()
    disk.restore(older)
    store = open_memory_store(disk)
    assert "replaced" in store.boot.reason
    store.claim_identity()
    put(store, 6)
    store.close()
    disk.restore(older, with_mark=True)
    store = open_memory_store(disk)
    assert store.boot.continuous, "the stated limit: caught at first contact with a peer"
    assert store.heads() == {R: 5}


def test_a_damaged_checkpoint_falls_back() -> None:
    disk = MemoryDisk()
    store = filled(disk)
    for header in (b"first", b"second"):
        writer = store.begin_checkpoint(header)
        writer.write(b"chunk")
        writer.commit()
    store.close()
    disk.damage_checkpoint()
    store = open_memory_store(disk)
    assert store.boot.damage
    found = store.checkpoint()
    assert found is not None
    assert found.header == b"first"


def test_a_disk_is_shared_by_name_within_the_process() -> None:
    store = open_memory_store("faults-by-name")
    put(store, 1)
    store.crash()
    again = open_memory_store("faults-by-name")
    assert again.heads() == {R: 1}
    again.close()
