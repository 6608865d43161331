"""Checkpoints inside the SQLite store: written in chunks, whole or absent.

Problem: a checkpoint of a large state takes seconds; commits must not wait for
it, a crash in its middle must leave the one before it intact, and a rotten one must
not be believed.

Idea: each chunk is its own small transaction without an fsync; ``commit`` seals the
header, position and chunk count in one durable transaction, which by the order of
the WAL makes every chunk before it durable too. The whole checkpoint before the
newest is kept until the next one begins: it costs no peak space, since two exist
while one is being written anyway, and it is there when the newest is damaged. For
that fallback to work, the log is never cut past the oldest whole one. Retired chunks
are deleted a few per written chunk, and in slices at open, never in one long
transaction.

States of a checkpoint: writing -> whole -> retired (being deleted). A chunk lives at
position (checkpoint id << 32 | number), and its digest covers that position.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from hashlib import blake2b

from crdtmem.errors import Closed, InvalidValue, StoreCorrupt, StoreError
from crdtmem.store.base import DIGEST_BYTES, Checkpoint
from crdtmem.store.failures import translated
from crdtmem.store.pending import exact_position
from crdtmem.store.sqlite_database import Database, typed

__all__ = ["Guard", "SqliteCheckpointWriter", "SqliteCheckpoints"]

Guard = Callable[[str], AbstractContextManager[None]]
"""Wraps a named piece of work: refuses it on a broken store, translates what it raises."""

_WRITING, _WHOLE, _RETIRED = 0, 1, 2
_NUMBER_BITS = 32
_MAX_CHUNKS = (1 << _NUMBER_BITS) - 1
_DROPPED_PER_CHUNK = 2  # so that retired chunks vanish twice as fast as new ones appear
_DROPPED_PER_SLICE = 64
_POSITION = struct.Struct("<Q")
_SEALED = struct.Struct("<QQQ")


def _chunk_digest(position: int, data: bytes) -> bytes:
    return blake2b(_POSITION.pack(position) + data, digest_size=DIGEST_BYTES).digest()


def _chunk_is_sound(position: int, digest: object, data: object) -> bool:
    return isinstance(data, bytes) and _chunk_digest(position, data) == digest


def _seal(identity: int, after_ordinal: int, chunk_count: int, header: bytes) -> bytes:
    sealed = _SEALED.pack(identity, after_ordinal, chunk_count) + header
    return blake2b(sealed, digest_size=DIGEST_BYTES).digest()


def _position(identity: int, number: int) -> int:
    return identity << _NUMBER_BITS | number


class SqliteCheckpoints:
    """The checkpoint tables of one open database."""

    def __init__(self, database: Database, guard: Guard) -> None:
        self._database = database
        self._sound: set[int] = set()
        self.guard = guard
        self.current: Checkpoint | None = None
        self.covered_ordinal = 0
        """Up to this ordinal every kept whole checkpoint covers the log; 0 without one."""

    def load(self) -> tuple[str, ...]:
        """Choose the newest whole checkpoint that verifies; return what was wrong with others.

        Raises ``sqlite3.Error``.
        """
        sound, problems = self._examine()
        self._sound = set(sound)
        newest_first = [sound[identity] for identity in sorted(sound, reverse=True)]
        self.current = newest_first[0] if newest_first else None
        self.covered_ordinal = newest_first[-1].after_ordinal if newest_first else 0
        return problems

    def inspect(self) -> tuple[str, ...]:
        """What is wrong with the whole checkpoints now, changing no choice."""
        return self._examine()[1]

    def _examine(self) -> tuple[dict[int, Checkpoint], tuple[str, ...]]:
        """The whole checkpoints that verify, by id, and what is wrong with the others."""
        sound: dict[int, Checkpoint] = {}
        problems: list[str] = []
        for row in self._database.rows(
            "SELECT id, after_ordinal, chunk_count, header, seal FROM checkpoint WHERE state = ?",
            (_WHOLE,),
        ):
            try:
                identity, after_ordinal, chunk_count, header, seal = typed(
                    row, (int, int, int, bytes, bytes), "the checkpoints"
                )
                candidate = self._candidate(identity, after_ordinal, chunk_count, header)
                if _seal(identity, after_ordinal, chunk_count, header) != seal:
                    raise StoreCorrupt(f"the seal of checkpoint {identity} does not match")
                for _ in candidate.chunks():
                    continue
            except StoreCorrupt as error:
                problems.append(error.message)
            else:
                sound[identity] = candidate
        return sound, tuple(problems)

    def discard_leftovers(self) -> None:
        """Delete incomplete, damaged and retired checkpoints, a slice at a time."""
        with self._database.transaction(durable=False):
            for (identity,) in self._database.rows("SELECT id FROM checkpoint"):
                if identity not in self._sound:
                    self._retire(identity)
        dropped = True
        while dropped:
            with self._database.transaction(durable=False):
                dropped = self._drop_retired(_DROPPED_PER_SLICE)

    def begin(self, header: bytes, after_ordinal: int) -> SqliteCheckpointWriter:
        """Start a checkpoint; of the whole ones only the newest is kept from here on."""
        with self._database.transaction(durable=False, payload_bytes=len(header)):
            newest = self._database.value(
                "SELECT max(id) FROM checkpoint WHERE state = ?", (_WHOLE,)
            )
            self._database.connection.execute(
                "UPDATE checkpoint SET state = ? WHERE state = ? AND id < ?",
                (_RETIRED, _WHOLE, newest or 0),
            )
            identity = 1 + (self._database.value("SELECT max(id) FROM checkpoint") or 0)
            self._database.connection.execute(
                "INSERT INTO checkpoint(id, state, after_ordinal, chunk_count, header, seal) "
                "VALUES (?, ?, ?, 0, ?, x'')",
                (identity, _WRITING, after_ordinal, header),
            )
        if self.current is not None:
            self.covered_ordinal = self.current.after_ordinal
        return SqliteCheckpointWriter(self, identity, header, after_ordinal)

    def write_chunk(self, identity: int, number: int, data: bytes) -> None:
        """Insert one chunk and delete a few retired ones."""
        if number > _MAX_CHUNKS:
            raise InvalidValue(f"a checkpoint holds at most {_MAX_CHUNKS} chunks")
        position = _position(identity, number)
        with self._database.transaction(durable=False, payload_bytes=len(data)):
            self._database.connection.execute(
                "INSERT INTO chunk(position, digest, data) VALUES (?, ?, ?)",
                (position, _chunk_digest(position, data), data),
            )
            self._drop_retired(_DROPPED_PER_CHUNK)

    def finish(self, identity: int, header: bytes, after_ordinal: int, chunk_count: int) -> None:
        """Seal a checkpoint, durably: it is the newest whole one."""
        with self._database.transaction():
            self._database.connection.execute(
                "UPDATE checkpoint SET state = ?, after_ordinal = ?, chunk_count = ?, seal = ? "
                "WHERE id = ?",
                (
                    _WHOLE,
                    after_ordinal,
                    chunk_count,
                    _seal(identity, after_ordinal, chunk_count, header),
                    identity,
                ),
            )
        if self.current is None:
            self.covered_ordinal = after_ordinal
        self.current = self._candidate(identity, after_ordinal, chunk_count, header)

    def retire(self, identity: int) -> None:
        """Give a checkpoint up; its chunks go a few at a time."""
        with self._database.transaction(durable=False):
            self._retire(identity)

    def drop_all(self) -> None:
        """Give all of them up, durably; what they took goes a slice at a time."""
        with self._database.transaction():
            self._database.connection.execute("UPDATE checkpoint SET state = ?", (_RETIRED,))
        self._sound = set()
        self.current = None
        self.covered_ordinal = 0
        self.discard_leftovers()

    def last_ordinal(self) -> int:
        """The highest ordinal in the log now."""
        return int(self._database.value("SELECT max(ordinal) FROM log") or 0)

    def chunk_count(self) -> int:
        """How many chunks the tables hold, in any state."""
        return int(self._database.value("SELECT count(*) FROM chunk"))

    def _retire(self, identity: int) -> None:
        self._database.connection.execute(
            "UPDATE checkpoint SET state = ? WHERE id = ?", (_RETIRED, identity)
        )

    def _drop_retired(self, limit: int) -> bool:
        """Delete up to ``limit`` retired chunks, in an open transaction; False if none is left."""
        identity = self._database.value(
            "SELECT min(id) FROM checkpoint WHERE state = ?", (_RETIRED,)
        )
        if identity is None:
            return False
        gone = self._database.connection.execute(
            "DELETE FROM chunk WHERE position IN (SELECT position FROM chunk "
            "WHERE position >= ? AND position <= ? LIMIT ?)",
            (_position(identity, 0), _position(identity, _MAX_CHUNKS), limit),
        ).rowcount
        if gone < limit:
            self._database.connection.execute("DELETE FROM checkpoint WHERE id = ?", (identity,))
        return True

    def _candidate(
        self, identity: int, after_ordinal: int, chunk_count: int, header: bytes
    ) -> Checkpoint:
        read = self._reader(identity, chunk_count)
        return Checkpoint(header, after_ordinal, chunk_count, read)

    def _reader(self, identity: int, chunk_count: int) -> Callable[[], Iterator[bytes]]:
        def read() -> Iterator[bytes]:
            for number in range(chunk_count):
                position = _position(identity, number)
                with translated("reading a checkpoint", str(self._database.path)):
                    rows = self._database.rows(
                        "SELECT digest, data FROM chunk WHERE position = ?", (position,)
                    )
                if not rows or not _chunk_is_sound(position, *rows[0]):
                    raise StoreCorrupt(
                        f"chunk {number} of checkpoint {identity} is missing or damaged",
                        hint="reopen the store: it falls back to the checkpoint before",
                    )
                yield rows[0][1]

        return read


class SqliteCheckpointWriter:
    """One checkpoint in the making. See ``CheckpointWriter``."""

    def __init__(
        self, checkpoints: SqliteCheckpoints, identity: int, header: bytes, after_ordinal: int
    ) -> None:
        self._checkpoints = checkpoints
        self._identity = identity
        self._header = header
        self.after_ordinal = after_ordinal
        self._count = 0
        self.open = True

    def write(self, chunk: bytes) -> None:
        """Add one chunk."""
        self._require_open()
        with self._checkpoints.guard("writing a checkpoint"):
            self._checkpoints.write_chunk(self._identity, self._count, chunk)
        self._count += 1

    def commit(self, after_ordinal: int | None = None) -> None:
        """Seal it durably."""
        self._require_open()
        with self._checkpoints.guard("committing a checkpoint"):
            last = self._checkpoints.last_ordinal()
            exact = exact_position(self.after_ordinal, after_ordinal, last)
            self._checkpoints.finish(self._identity, self._header, exact, self._count)
        self.open = False

    def abort(self) -> None:
        """Give it up, unless it was committed or aborted before."""
        if not self.open:
            return
        self.open = False
        # On a broken store this is refused, and needless: an open discards what is not whole.
        with suppress(StoreError), self._checkpoints.guard("dropping a checkpoint"):
            self._checkpoints.retire(self._identity)

    def _require_open(self) -> None:
        if not self.open:
            raise Closed("this checkpoint was committed or aborted")
