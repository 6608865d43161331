"""The log table: reading it densely, replaying it, cutting it, setting a bad tail aside.

Problem: three different wishes shorten a log: the sync log's budget, the history's
retention, and recovery. Each must leave what the others still need, and none may
delete what only the log can restore.

Idea: two floors per replica say what may be *served*; a row is *deleted* only when it
is below both, and no floor passes what every kept whole checkpoint covers. The floor
row is written in the transaction of the first deletion, so a crash in between leaves
floors true and at most some rows to delete again. A bad tail is moved, not deleted.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from crdtmem.store.base import KIND_BATCH, KIND_MARKER, MAX_SEQUENCE, LogRecord
from crdtmem.store.pending import corrupt_record, dense_run, is_sound
from crdtmem.store.sqlite_database import (
    RECORD_COLUMNS,
    Database,
    record_of,
    signed,
    typed,
    unsigned,
)

__all__ = ["ORDINAL_FLOOR", "SqliteLog"]

ORDINAL_FLOOR = "store.ordinal"
"""The highest ordinal of any row that was deleted or set aside; absent before the first."""

_PAGE_ROWS = 32  # rows per page of a walk: bounds what a walk over large batches holds at once
_DELETED_PER_SLICE = 256
_LOWEST_REPLICA = -(1 << 63) - 1


class SqliteLog:
    """The log of one open database. Methods raise ``sqlite3.Error`` untranslated."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._floors: dict[int, tuple[int, int]] = {}

    def load_floors(self) -> None:
        """Read the floors once; they change through this object alone."""
        self._floors = {
            unsigned(replica): (sync_floor, history_floor)
            for replica, sync_floor, history_floor in (
                typed(row, (int, int, int), "the floors")
                for row in self._database.rows(
                    "SELECT replica, sync_floor, history_floor FROM floor"
                )
            )
        }

    def last_ordinal(self) -> int:
        """The highest ordinal ever given out, cut rows included."""
        return max(
            int(self._database.value("SELECT max(ordinal) FROM log") or 0),
            int(self._database.get_metadata().get(ORDINAL_FLOOR, b"0")),
        )

    def heads(self) -> dict[int, int]:
        """Replica -> highest sequence held or cut."""
        found = {replica: max(floors) - 1 for replica, floors in self._floors.items()}
        for replica in self._replicas():
            last = self._database.value(
                "SELECT max(last_sequence) FROM log WHERE kind = 0 AND replica = ?",
                (signed(replica),),
            )
            found[replica] = max(last, found.get(replica, 0))
        return found

    def floors(self, which: int) -> dict[int, int]:
        """Replica -> lowest sequence still served: ``which`` is 0 for sync, 1 for history."""
        found = {replica: floors[which] for replica, floors in self._floors.items()}
        for replica in self._replicas():
            if replica not in found:
                found[replica] = self._lowest(replica)
        return found

    def read(
        self, replica: int, from_sequence: int, *, which: int, limit_bytes: int, through: int | None
    ) -> list[LogRecord]:
        """See ``Store.read``."""
        cursor = self._database.connection.execute(
            f"SELECT {RECORD_COLUMNS} FROM log "
            "WHERE kind = 0 AND replica = ? AND last_sequence >= ? AND first_sequence <= ? "
            "ORDER BY last_sequence",
            (signed(replica), from_sequence, MAX_SEQUENCE if through is None else through),
        )
        try:
            return dense_run(
                self._verified(cursor, f"replica {replica:x}"),
                replica,
                from_sequence,
                floor=self._floors.get(replica, (0, 0))[which],
                limit_bytes=limit_bytes,
            )
        finally:
            # An open cursor would hold a read transaction, and with it the WAL, back.
            cursor.close()

    def walk(self, after_ordinal: int) -> Iterator[tuple[LogRecord, bool]]:
        """Every record after an ordinal in arrival order, and whether it is sound."""
        for page in self._database.pages(
            RECORD_COLUMNS, "log", "ordinal", after_ordinal, _PAGE_ROWS
        ):
            for row in page:
                record, seal = record_of(row)
                yield record, is_sound(record, seal)

    def counts(self) -> tuple[int, int, int]:
        """Records in the log, and in quarantine, and the bytes of data in the log."""
        count = self._database.value
        return (
            int(count("SELECT count(*) FROM log")),
            int(count("SELECT count(*) FROM quarantine")),
            int(count("SELECT coalesce(sum(length(data)), 0) FROM log")),
        )

    def set_aside(self, after_ordinal: int, reason: str) -> int:
        """Move every record after an ordinal to the quarantine, in an open transaction."""
        execute = self._database.connection.execute
        execute(
            f"INSERT INTO quarantine(reason, {RECORD_COLUMNS}) "
            f"SELECT ?, {RECORD_COLUMNS} FROM log WHERE ordinal > ? ORDER BY ordinal",
            (reason, after_ordinal),
        )
        self.raise_ordinal_floor()
        return execute("DELETE FROM log WHERE ordinal > ?", (after_ordinal,)).rowcount

    def divert(self, replica: int, above: int) -> int:
        """Move one replica's batches that end above a sequence aside; see ``Store.divert``."""
        execute = self._database.connection.execute
        chosen = "kind = 0 AND replica = ? AND last_sequence > ?"
        bounds = (signed(replica), above)
        lowest = self._database.value(f"SELECT min(first_sequence) FROM log WHERE {chosen}", bounds)
        # Never inside a batch that goes: where it began is where the next one may begin.
        end = min(above + 1, above + 1 if lowest is None else int(lowest))
        floors = self._floors.get(replica, (0, 0))
        lowered = (min(floors[0], end), min(floors[1], end))
        if lowest is None and lowered == floors:
            return 0
        with self._database.transaction():
            execute(
                f"INSERT INTO quarantine(reason, {RECORD_COLUMNS}) "
                f"SELECT ?, {RECORD_COLUMNS} FROM log WHERE {chosen} ORDER BY ordinal",
                (f"diverted beyond sequence {above}", *bounds),
            )
            self.raise_ordinal_floor()
            moved = execute(f"DELETE FROM log WHERE {chosen}", bounds).rowcount
            if lowered != floors:
                execute(
                    "UPDATE floor SET sync_floor = ?, history_floor = ? WHERE replica = ?",
                    (*lowered, signed(replica)),
                )
        if lowered != floors:
            self._floors[replica] = lowered
        return moved

    def raise_ordinal_floor(self, at_least: int = 0) -> None:
        """Remember the highest ordinal before rows go, so that none is given out again."""
        stored = self._database.get_metadata().get(ORDINAL_FLOOR, b"0")
        last = max(self.last_ordinal(), at_least)
        if last > int(stored):
            self._database.put_metadata([(ORDINAL_FLOOR, b"%d" % last)])

    def quarantined(self) -> Iterator[LogRecord]:
        """Whatever was set aside, as it was, unverified."""
        for page in self._database.pages(
            f"id, {RECORD_COLUMNS}", "quarantine", "id", 0, _PAGE_ROWS
        ):
            for row in page:
                yield record_of(row[1:])[0]

    def cut(self, replica: int, below: int, *, which: int, covered: int) -> int:
        """Raise a floor as far as ``covered`` allows, delete below both; see ``Store``."""
        lowest = self._lowest(replica)
        floors = self._floors.get(replica, (lowest, lowest))
        if not lowest:
            # Nothing of this replica is held: every floor stays where it is.
            return floors[which]
        wanted = max(self._boundary(replica, below, covered), floors[which])
        raised = (wanted, floors[1]) if which == 0 else (floors[0], wanted)
        if raised != floors:
            with self._database.transaction(durable=False):
                self._database.connection.execute(
                    "INSERT OR REPLACE INTO floor(replica, sync_floor, history_floor) "
                    "VALUES (?, ?, ?)",
                    (signed(replica), *raised),
                )
            self._floors[replica] = raised
        while self._delete_slice(replica, min(raised), covered):
            continue
        return wanted

    def _boundary(self, replica: int, below: int, covered: int) -> int:
        """The highest batch boundary at or below ``below`` among covered batches."""
        kept = self._database.value(
            "SELECT first_sequence FROM log WHERE kind = 0 AND replica = ? "
            "AND (last_sequence >= ? OR ordinal > ?) ORDER BY last_sequence LIMIT 1",
            (signed(replica), min(below, MAX_SEQUENCE), covered),
        )
        return self.heads()[replica] + 1 if kept is None else int(kept)

    def _delete_slice(self, replica: int, below: int, covered: int) -> bool:
        """Delete some batches below a sequence; False once there are none."""
        with self._database.transaction(durable=False):
            self.raise_ordinal_floor()
            gone = self._database.connection.execute(
                "DELETE FROM log WHERE ordinal IN (SELECT ordinal FROM log "
                "WHERE kind = 0 AND replica = ? AND last_sequence < ? "
                "ORDER BY last_sequence LIMIT ?)",
                (signed(replica), below, _DELETED_PER_SLICE),
            ).rowcount
            if gone:
                self._delete_leading_markers(covered)
        return gone == _DELETED_PER_SLICE

    def _delete_leading_markers(self, covered: int) -> None:
        """Delete covered markers that explain no gap any more: no batch comes before them."""
        first = self._database.value(
            "SELECT ordinal FROM log WHERE kind = ? ORDER BY ordinal LIMIT 1", (KIND_BATCH,)
        )
        below = covered + 1 if first is None else min(first, covered + 1)
        self._database.connection.execute(
            "DELETE FROM log WHERE kind = ? AND ordinal < ?", (KIND_MARKER, below)
        )

    def _lowest(self, replica: int) -> int:
        return int(
            self._database.value(
                "SELECT first_sequence FROM log WHERE kind = 0 AND replica = ? "
                "ORDER BY last_sequence LIMIT 1",
                (signed(replica),),
            )
            or 0
        )

    def _replicas(self) -> Iterator[int]:
        """The replicas with a batch in the log, one index probe each."""
        found: Any = _LOWEST_REPLICA + 1
        operator = ">="
        while True:
            found = self._database.value(
                f"SELECT replica FROM log WHERE kind = 0 AND replica {operator} ? "
                "ORDER BY replica LIMIT 1",
                (found,),
            )
            if found is None:
                return
            yield unsigned(found)
            operator = ">"

    def _verified(self, rows: Any, where: str) -> Iterator[LogRecord]:
        for row in rows:
            record, seal = record_of(row)
            if not is_sound(record, seal):
                raise corrupt_record(record, where)
            yield record
