"""A disk that is full, fails or refuses: acknowledgements stop, the reason is said, and
when the cause is gone the store goes on with all that it acknowledged.
"""

from __future__ import annotations

import os
import resource
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from crdtmem.errors import (
    Closed,
    StoreError,
    StoreFailed,
    StoreFull,
)
from crdtmem.store import BatchRecord, open_store
from crdtmem.store.sqlite import SqliteStore
from tests.capabilities import needs
from tests.store.processes import run_script

NOW_US = 1_750_000_000_000_000
R = 9


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    opened = SqliteStore(f"sqlite:///{tmp_path}/store.db", tmp_path / "store.db")
    opened.claim_identity()
    opened.sync()
    yield opened
    opened.close()


def put(store: SqliteStore, number: int, size: int = 5000) -> None:
    record = BatchRecord.of(R, number, number, b"%d" % number * size)
    store.append([record], arrived_at_us=NOW_US)
    store.sync()


@contextmanager
def full_database(store: SqliteStore) -> Iterator[None]:
    """SQLite may not allocate another page: a reliable SQLITE_FULL."""
    connection = store._database.connection
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages}")
    yield


@contextmanager
def full_file(store: SqliteStore) -> Iterator[None]:
    """No file of this process may grow beyond 64 KiB: the system refuses the write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 10, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("fault", [full_database, full_file])
def test_a_full_disk_stops_acknowledging_and_can_be_left(
    store: SqliteStore, fault: Callable[[SqliteStore], AbstractContextManager[None]]
) -> None:
    put(store, 1)
    acknowledged = 1
    with fault(store):
        caught: list[StoreError] = []
        while not caught:
            try:
                put(store, acknowledged + 1)
                acknowledged += 1
            except StoreError as error:
                caught.append(error)
        (failure,) = caught
        assert isinstance(failure, StoreFull | StoreFailed)
        assert failure.hint
        assert isinstance(store.broken, type(failure))
        for use in (store.sync, store.heads, store.metadata, store.verify, store.checkpoint):
            with pytest.raises(type(failure)):
                use()
        with pytest.raises(type(failure)):
            put(store, acknowledged + 1)
    store.reopen()
    assert store.broken is None
    assert store.boot.continuous, store.boot.reason
    survived = store.heads()[R]
    assert survived in (acknowledged, acknowledged + 1), "ambiguous at most"
    put(store, survived + 1)
    assert store.verify().sound


def test_a_full_disk_stops_a_checkpoint_but_not_the_store(store: SqliteStore) -> None:
    put(store, 1)
    writer = store.begin_checkpoint(b"header")
    with full_database(store):
        with pytest.raises(StoreFull):
            writer.write(b"x" * 100_000)
        writer.abort()
        assert store.broken is None
        assert store.heads() == {R: 1}
    store._database.connection.execute("PRAGMA max_page_count = 1000000")
    put(store, 2)
    writer = store.begin_checkpoint(b"again")
    writer.write(b"x" * 100_000)
    writer.commit()
    assert store.verify().sound


def test_a_reopen_that_fails_can_be_tried_again(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, 1)
    with full_database(store), pytest.raises(StoreFull):
        put(store, 2, size=100_000)

    def refuse(*_arguments: object, **_more: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("crdtmem.store.continuity.os.pwrite", refuse)
        with pytest.raises(StoreFull):
            store.reopen()
        with pytest.raises(StoreFull):
            store.heads()
    store.reopen()
    assert store.boot.continuous, store.boot.reason
    assert store.heads() == {R: 1}
    put(store, 2)


def test_a_mark_that_cannot_be_written_fails_the_next_sync_not_this_one(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object, **_more: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("crdtmem.store.continuity.os.pwrite", refuse)
        put(store, 1)
        assert isinstance(store.broken, StoreFailed)
        with pytest.raises(StoreFailed):
            put(store, 2)
    store.reopen()
    assert store.boot.continuous, store.boot.reason
    assert store.heads() == {R: 1}


def test_a_broken_store_closes_without_claiming_a_clean_end(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = SqliteStore("sqlite:", path)
    store.claim_identity()
    put(store, 1)
    with full_database(store), pytest.raises(StoreFull):
        put(store, 2, size=100_000)
    store.close()
    with pytest.raises(Closed):
        store.heads()
    again = SqliteStore("sqlite:", path)
    assert not again.boot.clean
    assert again.boot.continuous, again.boot.reason
    assert again.heads() == {R: 1}
    again.close()


def test_a_directory_is_no_store_and_nothing_is_left_in_its_place(tmp_path: Path) -> None:
    with pytest.raises(StoreFailed, match="is a directory") as refused:
        open_store(f"sqlite:///{tmp_path}")
    assert "file" in refused.value.hint
    assert not tmp_path.with_name(tmp_path.name + "-lock").exists()


READ_ONLY_DEVICE = """
from crdtmem.errors import StoreReadOnly
from crdtmem.store import open_store
try:
    open_store("sqlite:////mnt/store.db")
except StoreReadOnly as error:
    print(error.hint)
"""


def test_a_device_that_is_mounted_read_only_is_said_to_be() -> None:
    needs("mounts")
    output = run_script(READ_ONLY_DEVICE, before="mount -t tmpfs -o ro none /mnt")
    assert "mounted read-only" in output


FULL_DEVICE = """
import sys, pathlib
from crdtmem.errors import StoreFull
from crdtmem.store import BatchRecord, open_store
store = open_store("sqlite:////mnt/store.db")
store.claim_identity()
number = 0
ballast = pathlib.Path("/mnt/ballast")
ballast.write_bytes(b"x" * (1 << 20))
try:
    while True:
        store.append([BatchRecord.of(9, number + 1, number + 1, b"x" * 5000)], arrived_at_us=1)
        store.sync()
        number += 1
except StoreFull as error:
    assert error.hint
assert number > 10, number
try:
    store.reopen()
    sys.exit("reopened on a full device")
except StoreFull:
    pass
ballast.unlink()
store.reopen()
assert store.boot.continuous, store.boot.reason
assert store.heads()[9] in (number, number + 1), (store.heads(), number)
number = store.heads()[9]
store.append([BatchRecord.of(9, number + 1, number + 1, b"x" * 5000)], arrived_at_us=1)
store.sync()
assert store.verify().sound
store.close()
print("recovered")
"""


def test_a_full_device_is_survived() -> None:
    needs("mounts")
    output = run_script(FULL_DEVICE, before="mount -t tmpfs -o size=3m none /mnt")
    assert output == "recovered"


FAILING_FSYNC = """
import os, sys
from crdtmem.errors import StoreFailed
from crdtmem.store import BatchRecord, open_store
from tests.store.processes import break_fsync
store = open_store(sys.argv[1])
store.claim_identity()
def put(number):
    store.append([BatchRecord.of(9, number, number, b"x" * 5000)], arrived_at_us=1)
    store.sync()
for number in range(1, 6):
    put(number)
break_fsync()
try:
    put(6)
    sys.exit("acknowledged without an fsync")
except StoreFailed as error:
    assert error.hint, error
assert store.broken is not None
for again in (lambda: put(7), store.heads, store.reopen, store.reopen, store.heads):
    try:
        again()
        sys.exit("went on without an fsync")
    except StoreFailed:
        pass
print("stopped", flush=True)
os._exit(0)
"""


def test_a_failing_fsync_stops_the_store_for_good(tmp_path: Path) -> None:
    needs("seccomp")
    url = f"sqlite:///{tmp_path}/store.db"
    assert run_script(FAILING_FSYNC, url) == "stopped"
    store = open_store(url)
    assert store.boot.continuous, store.boot.reason
    assert store.heads()[R] in (5, 6), "the one in doubt may have survived"
    assert store.verify().sound
    store.close()


READ_ONLY = """
import sys
from crdtmem.errors import StoreError, StoreReadOnly
from crdtmem.store import open_store
for name in ("store.db", "new.db"):
    try:
        open_store(f"sqlite:///{sys.argv[1]}/{name}")
        sys.exit("opened for writing")
    except StoreReadOnly as error:
        assert error.hint
reader = open_store(f"sqlite:///{sys.argv[1]}/store.db", read_only=True)
assert reader.heads() == {9: 3}, reader.heads()
assert reader.verify().sound
reader.close()
print("refused")
"""


def test_a_read_only_directory_is_refused_and_can_be_read(tmp_path: Path) -> None:
    store = SqliteStore("sqlite:", tmp_path / "store.db")
    for number in (1, 2, 3):
        put(store, number)
    store.close()
    if os.geteuid() != 0:
        tmp_path.chmod(0o555)
        try:
            output = run_script(READ_ONLY, str(tmp_path))
        finally:
            tmp_path.chmod(0o755)
    else:
        needs("mounts")  # root ignores permissions
        mount = f"mount --bind {tmp_path} {tmp_path} && mount -o remount,ro,bind {tmp_path}"
        output = run_script(READ_ONLY, str(tmp_path), before=mount)
    assert output == "refused"


def test_no_other_sqlite_program_gets_in(store: SqliteStore) -> None:
    put(store, 1)
    stranger = sqlite3.connect(store.path, timeout=0)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        stranger.execute("SELECT count(*) FROM log").fetchall()
    stranger.close()


OPEN_LOCKED = """
import sys
from crdtmem.errors import StoreLocked
from crdtmem.store import open_store
try:
    open_store(sys.argv[1])
except StoreLocked as error:
    assert error.hint
    print("locked")
"""


def test_a_stranger_that_holds_the_file_is_a_lock(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    SqliteStore("sqlite:", path).close()
    stranger = sqlite3.connect(path, isolation_level=None)
    stranger.execute("BEGIN IMMEDIATE")
    try:
        assert run_script(OPEN_LOCKED, f"sqlite:///{path}") == "locked"
    finally:
        stranger.close()
