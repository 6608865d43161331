"""Every store engine keeps the promises of ``crdtmem.store.base``: writing and reading.

One suite over the engine table; ``Place`` is all that it knows about an engine. What
keeps a store in shape is in ``test_stores_upkeep``.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from crdtmem.errors import (
    ConfigError,
    HistoryGap,
    InvalidValue,
    UnknownName,
)
from crdtmem.store import BatchRecord, open_store
from tests.conformance.store_places import NOW_US, A, B, Place, batch, fill, put, spans

# -- identity -----------------------------------------------------------------------


def test_a_fresh_store_owes_an_identity_until_it_is_claimed(place: Place) -> None:
    store = place.open()
    assert store.boot.fresh
    assert not store.boot.continuous
    store.put_metadata({"replica": b"1"})
    store.sync()
    assert not place.again().boot.continuous, "metadata alone claims nothing"

    store = place.store or store
    store.put_metadata({"replica": b"2"})
    store.claim_identity()
    store.sync()
    again = place.again()
    assert again.boot.continuous, again.boot.reason
    assert not again.boot.fresh
    assert again.boot.clean
    assert again.metadata() == {"replica": b"2"}


def test_a_claim_that_was_not_synced_does_not_count(place: Place) -> None:
    store = place.open()
    store.put_metadata({"replica": b"1"})
    store.claim_identity()
    again = place.again()
    assert not again.boot.continuous
    assert again.metadata() == {}


def test_boots_are_counted(place: Place) -> None:
    assert [place.open().boot.boot, place.again().boot.boot, place.again().boot.boot] == [1, 2, 3]


# -- append and sync -----------------------------------------------------------------


def test_nothing_is_readable_before_its_sync(place: Place) -> None:
    store = place.open()
    store.append([batch(A, 1, 5)], arrived_at_us=NOW_US)
    store.put_metadata({"name": b"value"})
    assert store.heads() == {}
    assert store.last_ordinal() == 0
    assert store.read(A, 1, limit_bytes=100) == []
    assert list(store.replay(after_ordinal=0)) == []
    assert store.metadata() == {}
    store.sync()
    assert store.heads() == {A: 5}
    assert spans(store.read(A, 1, limit_bytes=100)) == [(1, 5)]
    assert store.metadata() == {"name": b"value"}


def test_what_was_synced_survives_and_what_was_not_does_not(place: Place) -> None:
    store = place.open()
    put(store, batch(A, 1, 5), batch(B, 1, 1))
    store.append([batch(A, 6, 9)], arrived_at_us=NOW_US)
    store = place.again()
    assert store.heads() == {A: 5, B: 1}
    found = list(store.replay(after_ordinal=0))
    assert [(r.replica, r.ordinal, r.kind, r.arrived_at_us) for r in found] == [
        (A, 1, 0, NOW_US),
        (B, 2, 0, NOW_US),
    ]
    assert found[0].data == batch(A, 1, 5).data
    put(store, batch(A, 6, 6))
    assert store.heads()[A] == 6


def test_an_empty_sync_is_nothing(place: Place) -> None:
    store = place.open()
    store.sync()
    store.append([], arrived_at_us=NOW_US)
    store.sync()
    assert store.last_ordinal() == 0


def test_one_transaction_holds_records_markers_and_metadata(place: Place) -> None:
    store = place.open()
    store.append([batch(A, 1, 2)], arrived_at_us=1)
    store.append_marker(b"snapshot", arrived_at_us=2)
    store.append([batch(A, 10, 11), batch(B, 3, 3)], arrived_at_us=3)
    store.put_metadata({"one": b"1", "two": b"2"})
    store.put_metadata({"two": None, "three": b"3"})
    store.sync()
    store = place.again()
    assert [(r.ordinal, r.kind, r.data) for r in store.replay(after_ordinal=1)] == [
        (2, 1, b"snapshot"),
        (3, 0, batch(A, 10, 11).data),
        (4, 0, batch(B, 3, 3).data),
    ]
    assert store.metadata() == {"one": b"1", "three": b"3"}
    store.put_metadata({"one": None})
    store.sync()
    assert place.again().metadata() == {"three": b"3"}


@pytest.mark.parametrize(
    "bad",
    [
        batch(A, 5, 9),
        batch(A, 11, 12),
        BatchRecord.of(A, 30, 20, b"backwards"),
        BatchRecord.of(A, 0, 1, b"from zero"),
        BatchRecord.of(2**64, 1, 1, b"replica too large"),
        BatchRecord(A, 30, 30, b"short", b"digest of a wrong length"),
    ],
)
def test_a_record_that_does_not_fit_is_refused_with_its_whole_call(
    place: Place, bad: BatchRecord
) -> None:
    store = place.open()
    put(store, batch(A, 1, 10))
    with pytest.raises(InvalidValue):
        store.append([batch(A, 11, 15), bad], arrived_at_us=NOW_US)
    with pytest.raises(InvalidValue):
        store.append([batch(A, 11, 15)], arrived_at_us=-1)
    put(store, batch(A, 11, 12))
    assert [r.ordinal for r in store.replay(after_ordinal=0)] == [1, 2]


def test_metadata_names_and_values_are_checked(place: Place) -> None:
    store = place.open()
    with pytest.raises(InvalidValue):
        store.put_metadata({"store.boot": b""})
    with pytest.raises(InvalidValue):
        store.put_metadata({"name": "text"})  # type: ignore[dict-item]
    store.sync()
    assert store.metadata() == {}


# -- reading -------------------------------------------------------------------------


def test_a_read_starts_with_the_batch_that_holds_the_sequence(place: Place) -> None:
    store = place.open()
    fill(store)
    assert spans(store.read(A, 15, limit_bytes=10)) == [(11, 20)]
    assert spans(store.read(A, 21, limit_bytes=25)) == [(21, 30), (31, 40), (41, 50)]
    assert spans(store.read(A, 0, limit_bytes=0)) == [(1, 10)]
    assert spans(store.read(A, 71, limit_bytes=10**9)) == [(71, 80), (81, 90), (91, 100)]
    assert spans(store.read(A, 1, limit_bytes=10**9, through_sequence=11)) == [(1, 10), (11, 20)]
    assert store.read(A, 101, limit_bytes=10) == []
    assert store.read(A, 50, limit_bytes=10, through_sequence=40) == []
    assert store.read(B, 1, limit_bytes=10) == []


def test_a_read_never_runs_across_a_gap(place: Place) -> None:
    store = place.open()
    fill(store, batches=2)
    put(store, batch(A, 501, 510), batch(A, 511, 520))
    assert spans(store.read(A, 1, limit_bytes=10**9)) == [(1, 10), (11, 20)]
    with pytest.raises(HistoryGap) as caught:
        store.read(A, 21, limit_bytes=10**9)
    assert caught.value.details["resume"] == 501
    assert spans(store.read(A, 501, limit_bytes=10**9)) == [(501, 510), (511, 520)]
    put(store, batch(B, 40, 41))
    with pytest.raises(HistoryGap) as caught:
        store.read_history(B, 1, limit_bytes=1)
    assert caught.value.details["resume"] == 40


def test_replay_is_not_disturbed_by_writes_between_its_steps(place: Place) -> None:
    store = place.open()
    fill(store, batches=100)
    replay = store.replay(after_ordinal=10)
    assert next(replay).ordinal == 11
    put(store, batch(B, 1, 1))
    assert [r.ordinal for r in replay][:89] == list(range(12, 101))


# -- the table -----------------------------------------------------------------------


def test_urls_that_name_no_engine_or_no_file_are_refused() -> None:
    for url in ("postgresql://host/db", "store.db", "", "sqlite"):
        with pytest.raises(UnknownName) as caught:
            open_store(url)
        assert "sqlite:" in caught.value.hint
    for url in ("sqlite:", "sqlite:///", "sqlite://host/path", "sqlite:///directory/"):
        with pytest.raises(ConfigError):
            open_store(url)


def test_a_relative_path_is_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    open_store("sqlite:///store.db").close()
    assert (tmp_path / "store.db").exists()


def test_a_private_memory_store_is_private() -> None:
    first, second = open_store("memory:"), open_store("memory:")
    put(first, batch(A, 1, 1))
    assert second.heads() == {}
    first.close()
    second.close()
