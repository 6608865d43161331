"""Devices: how long a sync takes, what fails, and what is put back."""

from __future__ import annotations

from random import Random

import pytest

from crdtmem.errors import StoreError, StoreFailed, StoreFull
from crdtmem.store import BatchRecord
from crdtmem.store.memory import MemoryStore
from simulations.disk import Device

REPLICA = 7


def device(seed: int = 1) -> Device:
    return Device(Random(seed), 1, 1_000)


def opened(of: Device) -> MemoryStore:
    """Open it; a new store takes its identity, as a node's first start does."""
    store = MemoryStore("memory:test", of.disk, of.faults, read_only=False)
    if store.boot.fresh:
        store.claim_identity()
        store.sync()
    return store


def append(store: MemoryStore, sequence: int) -> None:
    record = BatchRecord.of(REPLICA, sequence, sequence, b"batch %d" % sequence)
    store.append([record], arrived_at_us=sequence)
    store.sync()


def sequences(of: Device) -> list[int]:
    return [record.first_sequence for record in of.disk.records]


def test_a_sync_takes_about_its_mean_time() -> None:
    disk = device()
    delays = [disk.delay_us(at_us) for at_us in range(0, 10_000_000, 10_000)]
    assert 500 <= min(delays) < 550
    assert 1_450 < max(delays) <= 1_500
    assert 950 < sum(delays) / len(delays) < 1_050


def test_work_queues_behind_work() -> None:
    disk = device()
    finished = [disk.delay_us(0) for _ in range(10)]
    steps = [after - before for before, after in zip([0, *finished], finished, strict=False)]
    assert all(500 <= step <= 1_500 for step in steps)


def test_a_slow_disk_takes_so_many_times_longer() -> None:
    disk = device()
    disk.slow = 100
    assert 50_000 <= disk.delay_us(0) <= 150_000


def test_a_full_disk_refuses_until_there_is_room() -> None:
    disk = device()
    store = opened(disk)
    append(store, 1)
    disk.faults.full = True
    with pytest.raises(StoreFull):
        append(store, 2)
    assert sequences(disk) == [1]
    disk.faults.full = False
    store.reopen()
    append(store, 2)
    assert sequences(disk) == [1, 2]


@pytest.mark.parametrize(("survives", "kept"), [(1.0, [1, 2]), (0.0, [1])])
def test_a_failed_fsync_may_have_written_all_the_same(survives: float, kept: list[int]) -> None:
    disk = device()
    store = opened(disk)
    append(store, 1)
    disk.faults.fails, disk.faults.survives = 1.0, survives
    with pytest.raises(StoreFailed):
        append(store, 2)
    with pytest.raises(StoreError):
        append(store, 3)
    disk.faults.fails = 0.0
    store.reopen()
    assert sequences(disk) == kept
    assert store.boot.continuous


def test_fsyncs_fail_as_often_as_was_asked_for() -> None:
    disk = device()
    disk.faults.fails = 0.25
    failed = sum(disk.faults.next_sync() is not None for _ in range(2_000))
    assert 400 < failed < 600


def test_a_fault_that_was_planned_strikes_before_those_that_last() -> None:
    disk = device()
    disk.faults.full = True
    disk.faults.fail_sync(StoreFailed("planned"), survives=True)
    planned = disk.faults.next_sync()
    assert planned is not None
    assert (type(planned[0]), planned[1]) == (StoreFailed, True)
    lasting = disk.faults.next_sync()
    assert lasting is not None
    assert type(lasting[0]) is StoreFull


def test_a_crash_loses_what_was_not_synced_and_nothing_else() -> None:
    disk = device()
    store = opened(disk)
    append(store, 1)
    store.append([BatchRecord.of(REPLICA, 2, 2, b"never synced")], arrived_at_us=2)
    store.crash()
    again = opened(disk)
    assert (sequences(disk), again.boot.continuous, again.boot.clean) == ([1], True, False)


def test_rot_is_found_at_the_next_start() -> None:
    disk = device()
    store = opened(disk)
    for sequence in (1, 2, 3):
        append(store, sequence)
    store.crash()
    disk.rot(1)
    again = opened(disk)
    assert not again.boot.continuous or again.verify().problems


def test_a_backup_that_is_put_back_is_not_the_same_store() -> None:
    disk = device()
    store = opened(disk)
    append(store, 1)
    disk.back_up()
    append(store, 2)
    store.close()
    disk.restore(disk.backups[0])
    again = opened(disk)
    assert sequences(disk) == [1]
    assert not again.boot.continuous
