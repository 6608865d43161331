"""Opening a SQLite store: what is there, is it ours, is its tail whole?

The order is the contract:

1. What can be read of the WAL is written over itself and fsynced, so that nothing that
   a failed fsync left only in the page cache is ever believed durable.
2. SQLite recovers: whole transactions up to the first torn one.
3. The records since the last settled ordinal are verified; the first unsound one
   and all after it are a torn tail.
4. The newest whole checkpoint is verified.
5. The witnesses are judged (see ``continuity``). Nothing was changed so far, and a
   read-only open ends here.
6. If acknowledged writes are missing, the WAL is kept aside, for people.
7. The boot is announced in the mark, committed in the database together with the cut
   of the tail and the debt of an identity, and confirmed in the mark. The WAL is then
   moved into the database, so that a boot never lives in the WAL alone.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from crdtmem.errors import StoreCorrupt
from crdtmem.store.base import BootReport
from crdtmem.store.continuity import (
    FRESH,
    TOKEN_BYTES,
    BootState,
    Fingerprint,
    Mark,
    MarkFile,
    Position,
    judge,
    take_fingerprint,
)
from crdtmem.store.files import copy_durably, create_private, rewrite_durably
from crdtmem.store.sqlite_checkpoint import SqliteCheckpoints
from crdtmem.store.sqlite_database import Database, wal_path
from crdtmem.store.sqlite_log import SqliteLog

__all__ = ["BOOT", "REVISION", "Booted", "boot_writer", "inspect_reader", "prepare_files"]

BOOT = "store.boot"
REVISION = "store.revision"


@dataclass(frozen=True, slots=True)
class Booted:
    """The outcome of an open. ``mark`` is absent for a read-only store."""

    report: BootReport
    state: BootState
    position: Position
    mark: Mark | None


def prepare_files(path: Path, mark: MarkFile | None, *, read_only: bool) -> Fingerprint:
    """Step 1, and the fingerprint, before SQLite opens anything.

    Raises ``OSError``, and ``StoreCorrupt`` for a WAL whose database is gone: creating
    an empty database would make SQLite delete it.
    """
    wal = wal_path(path)
    in_flight = wal.exists() and wal.stat().st_size > 0
    if not path.exists() or path.stat().st_size == 0:
        if in_flight:
            raise StoreCorrupt(
                f"{path} is missing or empty, but its write-ahead log {wal.name} is there",
                hint="put the database back beside it, or move the log away to start afresh",
            )
        if not path.exists():
            create_private(path)
    if in_flight and not read_only:
        rewrite_durably(wal)
    return take_fingerprint(path, mark)


def inspect_reader(
    database: Database,
    log: SqliteLog,
    checkpoints: SqliteCheckpoints,
    mark: Mark | None,
    here: Fingerprint,
) -> Booted:
    """Steps 3 to 5, changing nothing. Raises ``StoreError`` or ``sqlite3.Error``."""
    metadata = database.get_metadata()
    state = BootState.decode(metadata[BOOT]) if BOOT in metadata else BootState()
    position = Position(log.last_ordinal(), int(metadata.get(REVISION, b"0")))
    damage = checkpoints.load()
    log.load_floors()
    sound_through = _sound_through(log, checkpoints, mark, position)
    verdict = judge(state, mark, here, position)
    torn = position.ordinal - sound_through
    if torn:
        kept = verdict.reason + "; " if verdict.reason else ""
        reason = f"{kept}the tail of the log fails its checksums from record {sound_through + 1}"
        verdict = replace(verdict, reason=reason, lost_records=verdict.lost_records + torn)
    report = BootReport(
        fresh=verdict.reason == FRESH and not position.ordinal,
        continuous=verdict.continuous,
        reason=verdict.reason,
        boot=state.boot,
        clean=mark is not None and mark.clean,
        cut_records=verdict.lost_records,
        damage=damage,
    )
    if verdict.lost_tail and not database.read_only:
        _keep_wal(database.path, state.boot)
    return Booted(report, state, Position(sound_through, position.revision), mark)


def boot_writer(
    database: Database,
    log: SqliteLog,
    checkpoints: SqliteCheckpoints,
    mark_file: MarkFile,
    here: Fingerprint,
) -> Booted:
    """All of steps 3 to 7. Raises ``StoreError``, ``sqlite3.Error`` or ``OSError``."""
    found = inspect_reader(database, log, checkpoints, mark_file.read(), here)
    boot = max(found.state.boot, found.mark.boot if found.mark else 0) + 1
    token = os.urandom(TOKEN_BYTES)
    state = BootState(boot=boot, token=token, fingerprint=here, owed=found.report.reason)
    mark = found.mark or Mark(0, 0, b"", b"", found.position, 0, clean=False)
    # The token found is confirmed only if all witnesses agreed. A crash right after this
    # write must not make a rolled-back database look like the one the mark knew.
    known = found.state.token if found.report.continuous else mark.token
    announced = mark_file.advance(mark, durable=True, token=known, next_token=token, clean=False)
    cut = 0
    with database.transaction():
        if log.last_ordinal() > found.position.ordinal:
            cut = log.set_aside(found.position.ordinal, found.report.reason)
        # Ordinals that the mark saw and the log lost are not given out again.
        log.raise_ordinal_floor(mark.position.ordinal)
        database.put_metadata([(BOOT, state.encode())])
    position = Position(log.last_ordinal(), found.position.revision)
    confirmed = mark_file.advance(
        announced,
        durable=True,
        boot=boot,
        token=token,
        position=position,
        settled=position.ordinal,
    )
    checkpoints.discard_leftovers()
    database.settle()
    report = replace(found.report, boot=boot, cut_records=max(cut, found.report.cut_records))
    return Booted(report, state, position, confirmed)


def _sound_through(
    log: SqliteLog, checkpoints: SqliteCheckpoints, mark: Mark | None, position: Position
) -> int:
    """The ordinal before the first unsound record of the tail, or the last ordinal.

    The tail is what is not known to be settled, as far as a replay needs it: up to its
    position the checkpoint stands for the log.
    """
    newest = checkpoints.current
    settled = max(mark.settled if mark else 0, newest.after_ordinal if newest else 0)
    for record, sound in log.walk(min(settled, position.ordinal)):
        if not sound:
            return record.ordinal - 1
    return position.ordinal


def _keep_wal(path: Path, boot: int) -> None:
    wal = wal_path(path)
    if wal.exists() and wal.stat().st_size:
        copy_durably(wal, wal.with_name(f"{wal.name}.lost-{boot}"))
