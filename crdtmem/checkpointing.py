"""Checkpoints while writes go on, and the budget of the sync log.

Problem: a log grows for ever and replaying it takes for ever; writing the whole
state down takes seconds, during which nobody may wait.

Idea: a *fuzzy* checkpoint. At a moment when no flight is out, the store notes
its position; then the state is encoded chunk by chunk, with the event loop
running in between. Chunks may hold changes that are newer than the position:
replaying the log from there is exact all the same, because joining a delta
twice changes nothing and every superseding delta is replayed too.

Invariants: the position is taken while published state and log agree; a
checkpoint counts only once it is whole; the sync log is cut only below a whole
checkpoint, and only by its budget; history is cut only where it is older than
its retention (each checkpoint notes what was known when), and a batch leaves the
disk once neither needs it.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final

from crdtmem.causality import VersionVector
from crdtmem.codec import pack, unpack
from crdtmem.effects import Alarm
from crdtmem.errors import CrdtmemError
from crdtmem.snapshot import encode_chunks, encode_header
from crdtmem.store import Store
from crdtmem.wall import now_us

if TYPE_CHECKING:
    from crdtmem.runtime import Runtime

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
        runtime: Runtime,
        *,
        log_bytes: int = LOG_BYTES,
        sync_log_bytes: int = SYNC_LOG_BYTES,
        retention_us: int = RETENTION_US,
    ) -> None:
        self._runtime = runtime
        self._log_bytes = log_bytes
        self._sync_log_bytes = sync_log_bytes
        self._retention_us = retention_us
        self._grown = runtime.engine.replayed_bytes
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
            self._running = True
            self._runtime.spawn(self._background())

    async def _background(self) -> None:
        try:
            await self.checkpoint()
        except CrdtmemError as error:
            # The log still holds everything: the next attempt may do better.
            alarm = Alarm("checkpoint", f"a checkpoint was given up: {error}", {"code": error.code})
            self._runtime.alarm(alarm)

    async def checkpoint(self) -> None:
        """Write one checkpoint now; raises ``StoreError``s, and leaves the older one whole."""
        runtime = self._runtime
        self._running = True
        try:
            async with runtime.quiet():
                engine = runtime.engine
                header = encode_header(engine.snapshot_header())
                chunks = encode_chunks(engine.replica.state)
                writer = await runtime.in_store(lambda: runtime.store.begin_checkpoint(header))
            self._grown = 0
            try:
                for chunk in chunks:
                    # The chunk is encoded on the loop, between other work, and written beside it.
                    await runtime.in_store(partial(writer.write, chunk))
                    await asyncio.sleep(0)
                await runtime.in_store(writer.commit)
            except BaseException:
                await asyncio.shield(runtime.in_store(writer.abort))
                raise
            self.written += 1
            await self._trim()
            await self._forget(now_us())
        finally:
            self._running = False

    async def _trim(self) -> None:
        """Cut the sync log to its budget, once a whole checkpoint stands above it."""
        runtime = self._runtime
        store = runtime.store
        size = await runtime.in_store(store.size_bytes)
        if size <= self._sync_log_bytes:
            return
        vector = dict(runtime.engine.replica.state.vector)
        for replica, last in vector.items():
            await runtime.in_store(partial(store.cut_sync_log, replica, last + 1))

    async def _forget(self, at_us: int) -> None:
        """Cut the history that is older than the retention, as far as a checkpoint noted it."""
        runtime, store = self._runtime, self._runtime.store
        known = (await runtime.in_store(store.metadata)).get(_HISTORY)
        vector = runtime.engine.replica.state.vector
        points = [] if known is None else list(unpack(known))
        points.append((at_us, tuple(vector.flat())))
        old = [point for point in points if point[0] <= at_us - self._retention_us]
        if not self._retention_us:
            old = []
        for replica, last in VersionVector.from_flat(old[-1][1]).items() if old else ():
            await runtime.in_store(partial(store.cut_history, replica, last + 1))
        kept = points[len(old) :][-_HISTORY_POINTS:]
        await runtime.in_store(partial(_note_points, store, pack(kept)))


def _note_points(store: Store, points: bytes) -> None:
    store.put_metadata({_HISTORY: points})
    store.sync()
