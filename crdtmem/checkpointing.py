"""Checkpoints while writes go on, and the budget of the sync log.

Problem: a log grows for ever and replaying it takes for ever; writing the whole
state down takes seconds, during which nobody may wait.

Idea: a *fuzzy* capture. At a moment when no flight is out, the store notes
its position; then the state is encoded chunk by chunk, with the event loop
running in between. Chunks may hold changes that are newer than the position:
replaying the log from there is exact all the same, because joining a delta
twice changes nothing and every superseding delta is replayed too. The records
that were written meanwhile follow the chunks (``carried``): so the checkpoint
is exact by itself, at the position of the last of them.

Invariants: the first position is taken while published state and log agree; a
checkpoint counts only once it is whole, and stands on no record of the log at or
below its position; the sync log is cut only below a whole
checkpoint, and only by its budget; history is cut only where it is older than
its retention (each checkpoint notes what was known when), and a batch leaves the
disk once neither needs it.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from crdtmem.carried import encode_carried
from crdtmem.causality import VersionVector
from crdtmem.codec import pack, unpack
from crdtmem.effects import Alarm
from crdtmem.errors import CrdtmemError
from crdtmem.executor import Executor
from crdtmem.procedures import InStore, Procedure, Quiet
from crdtmem.snapshot import CHUNK_BYTES, encode_chunks, encode_header
from crdtmem.store import Store
from crdtmem.store.base import CheckpointWriter

__all__ = ["LOG_BYTES", "RETENTION_US", "SYNC_LOG_BYTES", "Checkpointer"]

LOG_BYTES: Final = 64 << 20
SYNC_LOG_BYTES: Final = 1 << 30
RETENTION_US: Final = 30 * 24 * 3_600 * 1_000_000
_HISTORY: Final = "history"
_HISTORY_POINTS: Final = 1_000
"""How many moments are remembered: with more, the oldest history is kept a little longer."""


class Checkpointer:
    """Writes a checkpoint whenever the log has grown by ``log_bytes`` since the last.

    What recovery had to replay counts too: a node that dies again and again before a
    checkpoint is due would otherwise replay ever more, and never write one.
    """

    def __init__(
        self,
        executor: Executor,
        *,
        log_bytes: int = LOG_BYTES,
        sync_log_bytes: int = SYNC_LOG_BYTES,
        retention_us: int = RETENTION_US,
    ) -> None:
        self._executor = executor
        self._log_bytes = log_bytes
        self._sync_log_bytes = sync_log_bytes
        self._retention_us = retention_us
        self._grown = executor.engine.replayed_bytes
        self._running = False
        self.written = 0

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._running

    def note_written(self, size: int) -> None:
        """Note that the log grew; starts a checkpoint in the background when it is due."""
        self._grown += size
        if self._grown >= self._log_bytes and not self._running:
            self._executor.start(self.checkpoint(), self._ended)

    def _ended(self, _: Any, error: BaseException | None) -> None:
        if isinstance(error, CrdtmemError):
            # The log still holds everything: the next attempt may do better.
            words = f"a checkpoint was given up: {error}"
            self._executor.alarm(Alarm("checkpoint", words, {"code": error.code}))
        elif error is not None:
            self._executor.stop_for(error)

    def checkpoint(self) -> Procedure[None]:
        """Write one checkpoint now; raises ``StoreError``s, and leaves the older one whole."""
        executor = self._executor
        store = executor.store
        self._running = True
        # Also where it fails: the next is tried when as much has been written again.
        self._grown = 0
        try:
            hold = yield Quiet()
            try:
                engine = executor.engine
                header = encode_header(engine.snapshot_header())
                chunks = encode_chunks(engine.replica.state)
                writer = yield InStore(partial(store.begin_checkpoint, header))
                after = writer.after_ordinal
            finally:
                executor.release(hold)
            try:
                for chunk in chunks:
                    # Each chunk is encoded between other work, and written beside it.
                    yield InStore(partial(writer.write, chunk))
                # Whatever the chunks show was published, and so is in the log by now.
                through = yield InStore(store.last_ordinal)
                while after < through:
                    after = yield InStore(partial(_carry, store, writer, after, through))
                yield InStore(partial(writer.commit, after))
            except BaseException:
                executor.run_in_store(writer.abort, _ignore)
                raise
            self.written += 1
            yield from self._trim()
            yield from self._forget()
        finally:
            self._running = False

    def _trim(self) -> Procedure[None]:
        """Cut the sync log to its budget, once a whole checkpoint stands above it."""
        store = self._executor.store
        size = yield InStore(store.size_bytes)
        if size <= self._sync_log_bytes:
            return
        vector = dict(self._executor.engine.replica.state.vector)
        for replica, last in vector.items():
            yield InStore(partial(store.cut_sync_log, replica, last + 1))

    def _forget(self) -> Procedure[None]:
        """Cut the history that is older than the retention, as far as a checkpoint noted it."""
        store, at_us = self._executor.store, self._executor.now_us()
        known = (yield InStore(store.metadata)).get(_HISTORY)
        vector = self._executor.engine.replica.state.vector
        points = [] if known is None else list(unpack(known))
        points.append((at_us, tuple(vector.flat())))
        old = [point for point in points if point[0] <= at_us - self._retention_us]
        if not self._retention_us:
            old = []
        for replica, last in VersionVector.from_flat(old[-1][1]).items() if old else ():
            yield InStore(partial(store.cut_history, replica, last + 1))
        kept = points[len(old) :][-_HISTORY_POINTS:]
        yield InStore(partial(_note_points, store, pack(kept)))


def _ignore(_: Any, __: BaseException | None) -> None:
    """Nobody waits: an abandoned checkpoint never existed, and a broken store says so itself."""


def _carry(store: Store, writer: CheckpointWriter, after: int, through: int) -> int:
    """Let a checkpoint carry the next records of the log; return the position that it reached."""
    records: list[tuple[int, bytes]] = []
    size = 0
    for record in store.replay(after_ordinal=after):
        if record.ordinal > through:
            after = through
            break
        records.append((record.kind, record.data))
        after, size = record.ordinal, size + len(record.data)
        if size >= CHUNK_BYTES:
            break
    else:
        # Ordinals may have been given out that nothing was written under.
        after = through
    if records:
        writer.write(encode_carried(records))
    return after


def _note_points(store: Store, points: bytes) -> None:
    store.put_metadata({_HISTORY: points})
    store.sync()
