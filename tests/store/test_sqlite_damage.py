"""Bytes that changed on the disk are found, reported and never served."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from crdtmem.errors import StoreCorrupt, StoreError, StoreVersion
from crdtmem.store import BatchRecord, Store, open_store
from tests.store.processes import write_and_die
from tests.store.writer import A, B

NOW_US = 1_750_000_000_000_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


def opened(path: Path) -> Store:
    return open_store(f"sqlite:///{path}")


def closed_store(path: Path, batches: int = 20) -> None:
    """A cleanly closed store with an identity, a log and two whole checkpoints."""
    store = opened(path)
    store.claim_identity()
    store.put_metadata({"replica": b"7"})
    for number in range(1, batches + 1):
        record = BatchRecord.of(7, number, number, b"content %d" % number + b"." * 200)
        store.append([record], arrived_at_us=NOW_US)
        store.sync()
        if number in (batches // 4, batches // 2):
            writer = store.begin_checkpoint(b"%d" % number)
            writer.write(b"first chunk")
            writer.write(b"second chunk")
            writer.commit()
    store.close()


def edit(path: Path, statement: str) -> None:
    """Change a row behind the store's back, leaving SQLite's structure intact."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        assert connection.execute(statement).rowcount


def wal_of(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


# -- the write-ahead log --------------------------------------------------------------


def check_prefix(store: Store, acknowledged: int) -> None:
    """Whole transactions up to some point; reported unless they are all there."""
    last = int(store.metadata().get("last", b"0"))
    assert store.heads() == ({A: last, B: last} if last else {})
    assert store.verify().sound
    assert store.boot.continuous == (last == acknowledged), store.boot.reason
    if last < acknowledged:
        assert store.boot.cut_records == 2 * (acknowledged - last)
        assert store.last_ordinal() == 2 * acknowledged, "lost ordinals are not given out again"


@pytest.mark.parametrize("keep", [0, 1, 31, 32, 5000, 0.3, 0.7])
def test_a_truncated_wal_is_a_lost_tail(path: Path, keep: float) -> None:
    write_and_die(f"sqlite:///{path}", 30)
    wal = wal_of(path)
    size = wal.stat().st_size
    with wal.open("r+b") as file:
        file.truncate(int(keep if isinstance(keep, int) else size * keep))
    kept = wal.read_bytes()
    with_wal = bool(kept)
    store = opened(path)
    assert not store.boot.continuous
    assert not store.boot.fresh or store.metadata() == {}
    if store.boot.cut_records and with_wal:
        (lost,) = path.parent.glob("*.lost-*")
        assert lost.read_bytes() == kept
    check_prefix(store, 30)
    store.close()


@pytest.mark.parametrize("seed", range(12))
def test_a_flipped_bit_in_the_wal_cuts_there(path: Path, seed: int) -> None:
    write_and_die(f"sqlite:///{path}", 20)
    draw = random.Random(seed)
    wal = wal_of(path)
    content = bytearray(wal.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    wal.write_bytes(content)
    store = opened(path)
    check_prefix(store, 20)
    store.close()


def test_a_wal_without_its_database_is_not_thrown_away(path: Path) -> None:
    write_and_die(f"sqlite:///{path}", 3)
    content = wal_of(path).read_bytes()
    path.rename(path.with_name("elsewhere.db"))
    with pytest.raises(StoreCorrupt):
        opened(path)
    assert wal_of(path).read_bytes() == content
    path.with_name("elsewhere.db").rename(path)
    store = opened(path)
    check_prefix(store, 3)
    store.close()


# -- records ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        "data = x'00'",
        "digest = x'00112233445566778899aabbccddeeff'",
        "first_sequence = first_sequence - 1",
        "last_sequence = last_sequence + 1",
        "replica = 9",
        "arrived_at_us = -5",
        "kind = 1",
        "seal = -1",
    ],
)
def test_an_unsound_tail_is_cut_and_kept_aside(path: Path, change: str) -> None:
    write_and_die(f"sqlite:///{path}", 10)
    edit(path, f"UPDATE log SET {change} WHERE ordinal = 17")
    reader = open_store(f"sqlite:///{path}", read_only=True)
    assert "record 17" in reader.boot.reason
    assert reader.boot.cut_records == 4
    reader.close()
    store = opened(path)
    assert not store.boot.continuous
    assert "record 17" in store.boot.reason
    assert store.boot.cut_records == 4
    assert store.heads() == {A: 8, B: 8}
    assert [r.ordinal for r in store.quarantined()] == [17, 18, 19, 20]
    assert store.last_ordinal() == 20
    assert store.verify().sound
    store.close()
    store = opened(path)
    assert "record 17" in store.boot.reason, "the identity is still owed"
    store.claim_identity()
    store.sync()
    store.close()
    store = opened(path)
    assert store.boot.continuous, store.boot.reason
    store.close()


def test_a_record_that_rots_later_is_never_served(path: Path) -> None:
    closed_store(path)
    edit(path, "UPDATE log SET data = CAST('c0ntent' AS BLOB) WHERE ordinal = 15")
    store = opened(path)
    assert store.boot.continuous, "what was settled is not walked again at open"
    assert len(store.read(7, 1, limit_bytes=1)) == 1
    reads: tuple[Callable[[], object], ...] = (
        lambda: store.read(7, 10, limit_bytes=10**9),
        lambda: store.read_history(7, 15, limit_bytes=1),
        lambda: list(store.replay(after_ordinal=12)),
    )
    for read in reads:
        with pytest.raises(StoreCorrupt) as caught:
            read()
        assert caught.value.details["ordinal"] == 15
        assert caught.value.details["replica"] == 7
    assert store.broken is None
    assert "record 15" in store.verify().problems[0]
    assert store.quarantine_after(14, "rotten") == 6
    assert [r.ordinal for r in store.replay(after_ordinal=12)] == [13, 14]
    store.close()


def test_rotten_metadata_is_refused_at_open(path: Path) -> None:
    closed_store(path)
    edit(path, "UPDATE metadata SET value = x'38' WHERE name = 'replica'")
    with pytest.raises(StoreCorrupt) as caught:
        opened(path)
    assert caught.value.hint


# -- checkpoints -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE chunk SET data = x'00' WHERE position = (SELECT max(position) FROM chunk)",
        "DELETE FROM chunk WHERE position = (SELECT max(position) FROM chunk)",
        "UPDATE checkpoint SET header = x'00' WHERE id = (SELECT max(id) FROM checkpoint)",
        "UPDATE checkpoint SET after_ordinal = 19 WHERE id = (SELECT max(id) FROM checkpoint)",
        "UPDATE checkpoint SET chunk_count = 1 WHERE id = (SELECT max(id) FROM checkpoint)",
    ],
)
def test_a_damaged_checkpoint_falls_back_to_the_one_before(path: Path, damage: str) -> None:
    closed_store(path)
    store = opened(path)
    store.cut_sync_log(7, 1000)
    store.cut_history(7, 1000)
    store.close()
    edit(path, damage)
    store = opened(path)
    assert store.boot.continuous
    assert len(store.boot.damage) == 1
    found = store.checkpoint()
    assert found is not None
    assert (found.header, found.after_ordinal) == (b"5", 5)
    assert list(found.chunks()) == [b"first chunk", b"second chunk"]
    assert [r.ordinal for r in store.replay(after_ordinal=5)] == list(range(6, 21))
    assert store.verify().sound, "what is damaged was dropped"
    store.close()


def test_with_every_checkpoint_damaged_there_is_none(path: Path) -> None:
    closed_store(path)
    edit(path, "UPDATE chunk SET digest = x'00'")
    store = opened(path)
    assert store.checkpoint() is None
    assert len(store.boot.damage) == 2
    store.close()


def test_a_chunk_that_rots_while_open_is_not_served(path: Path) -> None:
    closed_store(path)
    store = open_store(f"sqlite:///{path}", read_only=True)
    found = store.checkpoint()
    assert found is not None
    store.close()
    with pytest.raises(StoreError):
        list(found.chunks())


# -- the file --------------------------------------------------------------------------


def test_a_file_that_is_no_database(path: Path) -> None:
    path.write_text("remember the milk\n" * 1000)
    with pytest.raises(StoreCorrupt) as caught:
        opened(path)
    assert caught.value.hint
    assert path.read_text().startswith("remember the milk")


def test_somebody_elses_database_is_left_alone(path: Path) -> None:
    edit_script = "CREATE TABLE notes(text); INSERT INTO notes VALUES ('milk')"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(edit_script)
    with pytest.raises(StoreCorrupt) as caught:
        opened(path)
    assert "not a crdtmem store" in caught.value.message
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT text FROM notes").fetchall() == [("milk",)]


def test_a_newer_format_is_refused_untouched(path: Path) -> None:
    closed_store(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreVersion) as caught:
        opened(path)
    assert caught.value.details == {"found": 99, "supported": 1}
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 1")
    store = opened(path)
    assert store.boot.continuous
    store.close()


@pytest.mark.parametrize("seed", range(25))
def test_a_damaged_page_is_an_error_with_a_hint_or_a_finding(path: Path, seed: int) -> None:
    closed_store(path, batches=60)
    draw = random.Random(seed)
    content = bytearray(path.read_bytes())
    for _ in range(3):
        position = draw.randrange(len(content) - 64)
        content[position : position + 64] = draw.randbytes(64)
    path.write_bytes(content)
    failures: list[StoreError] = []
    served = 0
    try:
        store = opened(path)
    except StoreError as error:
        failures.append(error)
    else:
        problems = store.verify().problems
        try:
            for record in store.replay(after_ordinal=0):
                assert record.data.startswith(b"content %d" % record.first_sequence)
                served += 1
        except StoreCorrupt as error:
            failures.append(error)
        assert problems or served == 60 or store.boot.damage
        assert problems or not failures
        store.close()
    assert all(failure.hint for failure in failures)


def test_an_empty_file_is_a_fresh_store(path: Path) -> None:
    path.touch()
    store = opened(path)
    assert store.boot.fresh
    store.close()


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError) as caught:
        open_store(f"sqlite:///{tmp_path}/missing/store.db")
    assert "create the directory" in caught.value.hint
    with pytest.raises(StoreError):
        open_store(f"sqlite:///{tmp_path}/absent.db", read_only=True)
    assert list(tmp_path.iterdir()) == []


def test_a_link_is_the_store_that_it_points_to(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.mkdir()
    link.mkdir()
    (link / "store.db").symlink_to(real / "store.db")
    closed_store(link / "store.db")
    assert [file.name for file in link.iterdir()] == ["store.db"]
    store = opened(real / "store.db")
    assert store.boot.continuous, store.boot.reason
    store.close()
