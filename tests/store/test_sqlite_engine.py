"""What only the SQLite engine has: migrations, the WAL, backups beside writing."""

from __future__ import annotations

import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from crdtmem.errors import Closed, StoreFailed, StoreReadOnly
from crdtmem.store import BatchRecord, open_store, sqlite_database
from crdtmem.store.sqlite import SqliteStore
from crdtmem.store.sqlite_database import wal_path
from tests.store.processes import write_and_die
from tests.store.writer import A, B


def put(store: SqliteStore, number: int, size: int = 5000) -> None:
    store.append([BatchRecord.of(1, number, number, b"x" * size)], arrived_at_us=number)
    store.sync()


def test_a_store_is_a_strict_fsyncing_wal_database_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = SqliteStore("sqlite:", path)

    def pragma(name: str) -> object:
        return store._database.value(f"PRAGMA {name}")

    assert pragma("journal_mode") == "wal"
    assert pragma("locking_mode") == "exclusive"
    assert pragma("application_id") == sqlite_database.APPLICATION_ID
    assert pragma("user_version") == sqlite_database.FORMAT_VERSION
    store.begin_checkpoint(b"relaxed").write(b"chunk")
    put(store, 1)
    assert pragma("synchronous") == 2, "a checkpoint's relaxed commits do not leak into a sync"
    for file in tmp_path.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    store.close()
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "store.db",
        "store.db-lock",
        "store.db-mark",
    ]


def test_the_wal_is_moved_into_the_database_as_it_grows(tmp_path: Path) -> None:
    store = SqliteStore("sqlite:", tmp_path / "store.db")
    for number in range(1, 1500):
        put(store, number, 20_000)
    assert wal_path(store.path).stat().st_size < 24 << 20
    assert store.path.stat().st_size > 16 << 20
    store.close()


def test_tidying_moves_the_wal_before_it_has_to_be(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = SqliteStore("sqlite:", path)
    small = path.stat().st_size
    put(store, 1)
    store.tidy()
    assert path.stat().st_size == small, "so little is not worth an fsync"
    put(store, 2, 2 << 20)
    assert path.stat().st_size == small
    store.tidy()
    assert path.stat().st_size > small + (2 << 20)
    put(store, 3)
    assert [len(record.data) for record in store.replay(after_ordinal=0)] == [5000, 2 << 20, 5000]
    store.close()
    with pytest.raises(Closed):
        store.tidy()


def test_tidying_that_fails_breaks_the_store_for_what_comes_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SqliteStore("sqlite:", tmp_path / "store.db")
    put(store, 1, 2 << 20)

    def fail(_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(sqlite_database.Database, "settle", fail)
    store.tidy()
    assert isinstance(store.broken, StoreFailed)
    with pytest.raises(StoreFailed):
        put(store, 2)
    monkeypatch.undo()
    store.reopen()
    put(store, 2)
    assert store.heads() == {1: 2}
    store.close()


def test_migrations_run_forward_once_each_in_a_transaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "store.db"
    store = SqliteStore("sqlite:", path)
    store.claim_identity()
    put(store, 1)
    store.close()
    steps = (
        *sqlite_database.MIGRATIONS,
        ("ALTER TABLE log ADD COLUMN colour TEXT", "CREATE TABLE palette(colour TEXT) STRICT"),
        ("INSERT INTO palette VALUES ('blue')", "INSERT INTO nowhere VALUES (1)"),
    )
    monkeypatch.setattr(sqlite_database, "MIGRATIONS", steps)
    with pytest.raises(StoreReadOnly):
        SqliteStore("sqlite:", path, read_only=True)
    with pytest.raises(Exception, match="nowhere"):
        SqliteStore("sqlite:", path)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (2,)
        assert connection.execute("SELECT count(*) FROM palette").fetchone() == (0,)
    monkeypatch.setattr(sqlite_database, "MIGRATIONS", steps[:2])
    store = SqliteStore("sqlite:", path)
    assert store.boot.continuous, store.boot.reason
    put(store, 2)
    assert store.verify().sound
    store.close()


def test_a_backup_follows_what_is_written_meanwhile(tmp_path: Path) -> None:
    store = SqliteStore("sqlite:", tmp_path / "store.db")
    for number in range(1, 1001):
        put(store, number)
    written = [1000]

    def progress(done: int, total: int) -> None:
        assert 0 <= done <= total
        written[0] += 1
        put(store, written[0])

    store.backup(str(tmp_path / "copy.db"), progress=progress)
    assert written[0] > 1001, "the copy took several steps"
    copy = open_store(f"sqlite:///{tmp_path}/copy.db")
    assert 1000 <= copy.heads()[1] <= written[0]
    assert copy.verify().sound
    assert "backup" in copy.boot.reason
    copy.close()
    assert store.verify().sound
    store.close()
    assert not (tmp_path / "copy.db.partial").exists()


def test_a_killed_store_can_be_read_without_being_changed(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    write_and_die(f"sqlite:///{path}", 4)
    before = wal_path(path).read_bytes()
    first = open_store(f"sqlite:///{path}", read_only=True)
    second = open_store(f"sqlite:///{path}", read_only=True)
    for reader in (first, second):
        assert reader.boot.continuous, reader.boot.reason
        assert reader.heads() == {A: 4, B: 4}
        assert reader.verify().sound
    first.close()
    second.close()
    assert wal_path(path).read_bytes() == before
    store = open_store(f"sqlite:///{path}")
    assert store.boot.continuous, store.boot.reason
    assert not store.boot.clean
    store.close()
