"""A killed writer loses nothing that it acknowledged, and tears nothing apart."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest

from crdtmem.errors import StoreLocked
from crdtmem.store import Store, open_store
from tests.store.processes import kill, start_writer, write_and_die
from tests.store.writer import A, B, payload

SIZE = 300


def check(store: Store, acknowledged: int) -> int:
    """What a crash must leave: a prefix of whole transactions, acknowledged ones included."""
    assert store.boot.continuous, store.boot.reason
    assert not store.boot.clean
    assert store.boot.cut_records == 0
    last = int(store.metadata().get("last", b"0"))
    assert last >= acknowledged
    assert store.heads() == ({A: last, B: last} if last else {})
    for replica in (A, B):
        floor = store.history_floors().get(replica, 1)
        held = store.read_history(replica, floor, limit_bytes=10**9)
        assert [r.first_sequence for r in held] == list(range(floor, last + 1))
        assert all(r.data == payload(replica, r.first_sequence, SIZE) for r in held)
    found = store.checkpoint()
    if found is not None:
        assert list(found.chunks()) == [b"chunk" * 1000] * 5
        assert int(found.header) <= last
    report = store.verify()
    assert report.sound, report.problems
    assert report.quarantined == 0
    return last


def kill_in_rounds(path: Path, rounds: int, seed: int) -> None:
    url = f"sqlite:///{path}/store.db"
    draw = random.Random(seed)
    before = 0
    for turn in range(rounds):
        writer = start_writer(url, size=SIZE)
        assert writer.stdout is not None
        for _ in range(draw.randrange(120)):
            acknowledged = int(writer.stdout.readline())
            assert acknowledged > before
            before = acknowledged
        before = max(before, kill(writer))
        # Recover in turn as a reader, as a writer that closes, and by the next child alone.
        if turn % 3 != 2:
            store = open_store(url, read_only=turn % 3 == 0)
            check(store, before)
            store.close()


def test_kill_at_random_moments(tmp_path: Path) -> None:
    kill_in_rounds(tmp_path, rounds=20, seed=2)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_kill_at_random_moments_a_thousand_times(tmp_path: Path) -> None:
    kill_in_rounds(tmp_path, rounds=1000, seed=3)


def test_a_kill_before_the_first_write_leaves_a_store(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    kill(start_writer(url, count=1))
    store = open_store(url)
    check(store, 0)
    store.close()


def test_a_store_is_held_by_one_process(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    writer: subprocess.Popen[str] = start_writer(url, count=5)
    for read_only in (False, True):
        with pytest.raises(StoreLocked) as caught:
            open_store(url, read_only=read_only)
        assert str(writer.pid) in caught.value.hint
        assert caught.value.details["pid"] == writer.pid
    writer.communicate("")
    assert writer.returncode == 0
    store = open_store(url)
    assert store.boot.clean
    assert store.boot.continuous
    assert store.heads() == {A: 5, B: 5}
    store.close()


def test_the_lock_dies_with_its_holder(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    write_and_die(url, 3)
    store = open_store(url)
    assert check(store, 3) == 3
    store.close()
