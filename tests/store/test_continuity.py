"""What a store proves about itself when it is opened, and what it cannot."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from crdtmem.errors import StoreCorrupt, StoreFailed
from crdtmem.store import BatchRecord, Store, continuity, open_store
from crdtmem.store.continuity import (
    FRESH,
    BootState,
    Fingerprint,
    Mark,
    MarkFile,
    Position,
    judge,
    take_fingerprint,
)
from tests.store.processes import write_and_die
from tests.store.writer import A, B

NOW_US = 1_750_000_000_000_000
TOKEN = b"t" * 16
HERE = Fingerprint("machine", "/path", 1, 2, 3, 4, 5)


# -- the judgement ---------------------------------------------------------------------


def state(**changes: object) -> BootState:
    return replace(BootState(5, TOKEN, HERE, "", False), **changes)  # type: ignore[arg-type]


def mark(**changes: object) -> Mark:
    return replace(Mark(9, 5, TOKEN, TOKEN, Position(10, 3), 8, False), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("found", "beside", "here", "position"),
    [
        (state(), mark(), HERE, Position(10, 3)),
        (state(), mark(), HERE, Position(11, 4)),  # killed between commit and mark
        (state(), mark(clean=True), HERE, Position(10, 3)),
        (state(), mark(token=b"o" * 16, next_token=TOKEN), HERE, Position(10, 3)),
        (state(), mark(next_token=b"n" * 16), HERE, Position(10, 3)),
        (state(), mark(), replace(HERE, path="/renamed"), Position(10, 3)),
        (state(), mark(), replace(HERE, device=77), Position(10, 3)),  # after a reboot
        (state(), mark(), replace(HERE, machine=""), Position(10, 3)),
    ],
)
def test_legitimate_lives_are_continuous(
    found: BootState, beside: Mark, here: Fingerprint, position: Position
) -> None:
    assert judge(found, beside, here, position).reason == ""


@pytest.mark.parametrize(
    ("found", "beside", "here", "position", "word"),
    [
        (BootState(), None, HERE, Position(), FRESH),
        (BootState(), mark(boot=0), HERE, Position(), FRESH),
        (BootState(), mark(), HERE, Position(), "gone"),
        (state(is_backup=True), mark(), HERE, Position(10, 3), "backup"),
        (state(), None, HERE, Position(10, 3), "mark"),
        (state(), mark(), replace(HERE, machine="other"), Position(10, 3), "machine"),
        (state(), mark(), replace(HERE, inode=99), Position(10, 3), "database"),
        (state(), mark(), replace(HERE, generation=99), Position(10, 3), "database"),
        (state(), mark(), replace(HERE, mark_inode=99), Position(10, 3), "mark"),
        (state(), mark(token=b"x" * 16, next_token=b"y" * 16), HERE, Position(10, 3), "replaced"),
        (state(), mark(), HERE, Position(9, 3), "end of the log"),
        (state(), mark(), HERE, Position(10, 2), "end of the log"),
        (state(), mark(clean=True), HERE, Position(11, 3), "closed cleanly"),
        (state(owed="moved once"), mark(), HERE, Position(10, 3), "moved once"),
    ],
)
def test_each_witness_can_object(
    found: BootState, beside: Mark | None, here: Fingerprint, position: Position, word: str
) -> None:
    verdict = judge(found, beside, here, position)
    assert word in verdict.reason
    assert not verdict.continuous


def test_a_device_counts_where_inodes_have_no_generation() -> None:
    here = replace(HERE, generation=None)
    found = state(fingerprint=here)
    assert judge(found, mark(), here, Position(10, 3)).continuous
    assert "device" in judge(found, mark(), replace(here, device=9), Position(10, 3)).reason


def test_a_lost_tail_is_counted() -> None:
    verdict = judge(state(), mark(), HERE, Position(4, 3))
    assert verdict.lost_tail
    assert verdict.lost_records == 6


def test_boot_state_round_trips_and_refuses_nonsense() -> None:
    assert BootState.decode(state(owed="why").encode()) == state(owed="why")
    for nonsense in (b"", b"[]", b"{}", b"\xff", state().encode().replace(b"74", b"zz", 1)):
        with pytest.raises(StoreCorrupt):
            BootState.decode(nonsense)


# -- the mark file ---------------------------------------------------------------------


@pytest.fixture
def mark_file(tmp_path: Path) -> Iterator[MarkFile]:
    file = MarkFile(tmp_path / "mark", read_only=False)
    yield file
    file.close()
    file.close()


def test_the_newest_sound_slot_counts(mark_file: MarkFile) -> None:
    assert mark_file.read() is None
    first = mark_file.advance(mark(), durable=True)
    second = mark_file.advance(first, durable=False, position=Position(11, 3))
    assert mark_file.read() == second
    assert second.generation == first.generation + 1
    content = bytearray(mark_file.path.read_bytes())
    content[(second.generation & 1) * MarkFile.SLOT_BYTES + 50] ^= 1
    mark_file.path.write_bytes(content)
    assert mark_file.read() == first, "a torn write leaves the one before"
    mark_file.path.write_bytes(b"\0" * len(content))
    assert mark_file.read() is None


def test_a_fingerprint_knows_a_copy_from_its_original(tmp_path: Path) -> None:
    original, copy = tmp_path / "original", tmp_path / "copy"
    original.write_bytes(b"content")
    before = take_fingerprint(original, None)
    assert before.difference(take_fingerprint(original, None)) == ""
    shutil.copy2(original, copy)
    assert before.difference(take_fingerprint(copy, None))
    copy.replace(original)
    assert before.difference(take_fingerprint(original, None))


# -- whole stores ----------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    with_store(home, 3, claim=True)
    return home


def opened(home: Path) -> Store:
    return open_store(f"sqlite:///{home}/store.db")


def with_store(home: Path, batches: int, *, claim: bool = False) -> None:
    """Open, write, close."""
    store = opened(home)
    if claim:
        store.claim_identity()
    head = store.heads().get(7, 0)
    for number in range(head + 1, head + batches + 1):
        store.append([BatchRecord.of(7, number, number, b"content")], arrived_at_us=NOW_US)
        store.sync()
    store.close()


def reason(home: Path) -> str:
    """Why a reader finds the store not continuous; the same as a writer, twice."""
    reader = open_store(f"sqlite:///{home}/store.db", read_only=True)
    found = reader.boot.reason
    assert reader.boot.continuous == (not found)
    reader.close()
    for _ in range(2):
        store = opened(home)
        assert store.boot.reason == found, "what is owed stays owed"
        store.close()
    return found


def test_closing_opening_and_renaming_are_continuous(home: Path) -> None:
    assert reason(home) == ""
    moved = home.rename(home.with_name("moved"))
    assert reason(moved) == ""


def test_a_copied_directory_is_another_store(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home, tmp_path / "copy")
    assert "copied" in reason(tmp_path / "copy")
    assert reason(home) == "", "the original goes on"


def test_a_copy_of_a_killed_store_is_another_store(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    write_and_die(f"sqlite:///{home}/store.db", 5)
    shutil.copytree(home, tmp_path / "copy")
    store = opened(tmp_path / "copy")
    assert "copied" in store.boot.reason
    assert store.heads() == {A: 5, B: 5}
    store.close()


def test_an_older_database_beside_its_mark_is_known(home: Path, tmp_path: Path) -> None:
    saved = tmp_path / "saved.db"
    shutil.copy2(home / "store.db", saved)
    with_store(home, 3)
    # In place, so that the inode stays the same.
    (home / "store.db").write_bytes(saved.read_bytes())
    assert "replaced" in reason(home)


def test_an_older_database_of_the_same_boot_is_a_lost_tail(home: Path, tmp_path: Path) -> None:
    store = opened(home)
    store.append([BatchRecord.of(7, 4, 4, b"content")], arrived_at_us=NOW_US)
    store.sync()
    settled = (home / "store.db").read_bytes()
    store.close()
    (home / "store.db").write_bytes(settled)
    store = opened(home)
    assert "end of the log" in store.boot.reason
    assert store.boot.cut_records == 1
    assert store.last_ordinal() == 4, "the lost ordinal is not given out again"
    store.close()


def test_a_replaced_file_is_known_by_its_inode(home: Path, tmp_path: Path) -> None:
    shutil.copy2(home / "store.db", tmp_path / "saved.db")
    (tmp_path / "saved.db").replace(home / "store.db")
    assert "database" in reason(home)


def test_a_missing_or_blank_mark_is_no_proof(home: Path) -> None:
    (home / "store.db-mark").write_bytes(b"")
    assert "mark" in reason(home)


def test_a_removed_mark_is_no_proof(home: Path) -> None:
    (home / "store.db-mark").unlink()
    store = opened(home)
    assert "mark" in store.boot.reason
    store.claim_identity()
    store.sync()
    store.close()
    assert reason(home) == ""


def test_a_removed_database_is_not_a_fresh_one(home: Path) -> None:
    (home / "store.db").unlink()
    store = opened(home)
    assert not store.boot.fresh
    assert "gone" in store.boot.reason
    assert store.boot.cut_records == 3
    assert store.last_ordinal() == 3
    store.close()


def test_another_machine_is_known(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(continuity, "_machine", lambda: "another")
        store = opened(home)
        assert "machine" in store.boot.reason
        store.close()


def test_a_directory_restored_over_itself_cannot_be_known(home: Path) -> None:
    """The stated limit: everything rolled back in place looks as it looked.

    A peer that knows a higher sequence, or the forked batch, exposes it at first contact.
    """
    saved = {file: file.read_bytes() for file in home.iterdir()}
    with_store(home, 3)
    for file, content in saved.items():
        file.write_bytes(content)
    store = opened(home)
    assert store.boot.continuous
    assert store.heads() == {7: 3}
    store.close()


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_a_crash_within_an_open_stays_continuous(
    home: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    """The two writes of the mark and the commit between them may fail at any point."""
    real = MarkFile.advance
    left = [steps]

    def advance(self: MarkFile, before: Mark, *, durable: bool, **changes: object) -> Mark:
        if not left[0]:
            raise OSError(5, "Input/output error")
        left[0] -= 1
        return real(self, before, durable=durable, **changes)

    for _ in range(3):
        left[0] = steps
        with monkeypatch.context() as patch:
            patch.setattr(MarkFile, "advance", advance)
            if steps < 2:
                with pytest.raises(StoreFailed, match="Input/output"):
                    opened(home)
            else:
                opened(home).close()
    assert reason(home) == ""


def test_a_crash_within_an_open_does_not_excuse_a_rollback(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = (home / "store.db").read_bytes()
    with_store(home, 0)
    (home / "store.db").write_bytes(saved)

    def fail(*_arguments: object, **_more: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("crdtmem.store.sqlite_recovery.BootState.encode", fail)
        with pytest.raises(Exception, match="Input/output"):
            opened(home)
    assert "replaced" in reason(home)
