"""Recovery: from a store to an engine that may go on under its id, or takes a new one.

Problem: after a crash the state must be exactly what was acknowledged; after a
restore, a copy or a lost tail the old id must never be used again.

Idea: recovery is the newest whole checkpoint with the records that it carries, plus the
log after it, joined in arrival order by the same code that joined it first. The store's
boot report is the proof of continuity; where it fails, a new replica id is drawn, its
predecessor is declared, and both are made durable before anything else.

Invariants: no write precedes the durable claim of its id; replaying is
idempotent by dot, so chunks may be fuzzy (captured while writes went on); a
log that turns out damaged is set aside from the first damaged record on, never
skipped over; an id that was given up (see ``retirement``) is never taken up again,
wherever the process died in between.
"""

from __future__ import annotations

import gc
import secrets
from collections.abc import Callable, Mapping
from dataclasses import replace

from crdtmem.batch import REGION_BYTES, decode_batch
from crdtmem.carried import decode_carried
from crdtmem.codec import check_label, pack, unpack
from crdtmem.crdt import NESTED, SHAPES
from crdtmem.effects import Alarm
from crdtmem.engine import Engine, NodeInfo
from crdtmem.errors import MalformedFrame, StoreCorrupt
from crdtmem.install import Assembler
from crdtmem.kept_acknowledgements import ACKNOWLEDGED
from crdtmem.limits import DEFAULT_LIMITS, Limits
from crdtmem.replica import Identity
from crdtmem.retirement import LOST, RETIRED, Retirement, read_lost, set_aside
from crdtmem.snapshot import decode_header, load_chunk
from crdtmem.store import Checkpoint, Store
from crdtmem.store.base import KIND_MARKER
from crdtmem.sync_host import DEFAULT_SYNC, SyncConfig
from crdtmem.table import State

__all__ = ["draw_replica_id", "open_engine", "rederive"]


def draw_replica_id() -> int:
    """Return a new replica id of 63 random bits, never 0."""
    return secrets.randbits(63) | 1


def open_engine(
    store: Store,
    *,
    region: str,
    node: NodeInfo | None = None,
    limits: Limits = DEFAULT_LIMITS,
    sync: SyncConfig = DEFAULT_SYNC,
    draw_id: Callable[[], int] = draw_replica_id,
) -> Engine:
    """Recover an engine from a store, taking a new replica id where continuity is not proven.

    Raises ``InvalidValue`` for a region that no batch could name, and ``StoreError``s.
    """
    check_label(region, "region", REGION_BYTES)
    node = node or NodeInfo()
    is_whole = False
    # At most twice: damage found on the way costs the id, and all is joined again under the new.
    while not is_whole:
        engine = _identified(store, region, node, limits, sync, draw_id)
        # Millions of objects are about to be made and none dropped: the collector would only
        # look on.
        collecting = gc.isenabled()
        gc.disable()
        try:
            is_whole = _load(engine, store)
        finally:
            if collecting:
                gc.enable()
    metadata = store.metadata()
    engine.replica.recovered(metadata)
    engine.membership.lost = read_lost(metadata.get(LOST))
    try:
        engine.kept.recover(metadata.get(ACKNOWLEDGED))
    except (ValueError, MalformedFrame) as error:
        words = f"what members had acknowledged cannot be read, and is learned anew: {error}"
        engine.news.append(Alarm("acknowledgements", words, {}))
    return engine


def _identified(
    store: Store,
    region: str,
    node: NodeInfo,
    limits: Limits,
    sync: SyncConfig,
    draw_id: Callable[[], int],
) -> Engine:
    """Return an empty engine with the id that the store proves, or a new one, claimed durably."""
    metadata = store.metadata()
    former = _number(metadata, "replica")
    retired = metadata.get(RETIRED)
    alarms: list[Alarm] = []
    if former and store.boot.continuous and retired is None:
        replica = former
    else:
        replica = draw_id()
        retirement = None if retired is None else Retirement.decode(retired)
        written = store.heads().get(former, 0)
        reason = store.boot.reason
        if retirement is not None:
            written, reason = retirement.vector.get(former, 0), retirement.reason
            told = set_aside(store, retirement)
            if told is not None:
                alarms.append(Alarm("set aside", told, {"cuts": dict(retirement.cuts)}))
        _claim(store, metadata, replica, former, written)
        if former:
            words = f"replica {former:016x} goes on as {replica:016x}: {reason}"
            alarms.append(Alarm("new identity", words, {"replica": replica, "former": former}))
        metadata = store.metadata()
    known = replace(
        node,
        boot=store.boot.boot,
        predecessor=_number(metadata, "predecessor") or None,
        predecessor_last=_number(metadata, "predecessor_last"),
    )
    engine = Engine(Identity(replica, region), limits, known, sync)
    engine.news += alarms
    return engine


def _number(metadata: Mapping[str, bytes], name: str) -> int:
    """Return a number that the metadata holds, 0 where it is absent."""
    packed = metadata.get(name)
    return 0 if packed is None else int(unpack(packed) or 0)


def _claim(
    store: Store, metadata: Mapping[str, bytes], replica: int, former: int, written: int
) -> None:
    """Make a new id durable, and whom it follows, in one transaction.

    A former id that wrote nothing was never anybody: the one before it stays the
    predecessor, so that the chain to what was written does not break.
    """
    # What counts as acknowledged stands on what had been published under the former id.
    items: dict[str, bytes | None] = {"replica": pack(replica), RETIRED: None, ACKNOWLEDGED: None}
    if former and (written or not _number(metadata, "predecessor")):
        items |= {"predecessor": pack(former), "predecessor_last": pack(written)}
    store.put_metadata(items)
    store.claim_identity()
    store.sync()


def _load(engine: Engine, store: Store) -> bool:
    """Join what the store holds; ``False`` if the log had to be cut."""
    try:
        _join(engine, store)
    except StoreCorrupt as damage:
        if "ordinal" not in damage.details:
            raise
        # What was whole before the damage has been joined; the rest comes back from peers.
        store.quarantine_after(damage.details["ordinal"] - 1, str(damage))
        return False
    return True


def _join(engine: Engine, store: Store) -> None:
    """Join the newest whole checkpoint and the log after it; raises ``StoreCorrupt``."""
    checkpoint = store.checkpoint()
    after = 0
    if checkpoint is not None:
        _load_checkpoint(engine, checkpoint)
        after = checkpoint.after_ordinal
    replay = _Replay(engine)
    for record in store.replay(after_ordinal=after):
        engine.replayed_bytes += len(record.data)
        try:
            replay.join(record.kind, record.data)
        except MalformedFrame as error:
            raise StoreCorrupt(
                f"record {record.ordinal} of the log does not decode: {error}",
                hint="a newer version may have written it; otherwise restore a backup",
                ordinal=record.ordinal,
            ) from error


def _load_checkpoint(engine: Engine, checkpoint: Checkpoint) -> None:
    """Load its chunks, then join the records of the log that were written among them."""
    engine.load_header(decode_header(checkpoint.header))
    replay = _Replay(engine)
    for part in checkpoint.chunks():
        carried = decode_carried(part)
        if carried is None:
            load_chunk(engine.replica.state, part)
            continue
        for kind, data in carried:
            replay.join(kind, data)


class _Replay:
    """Joins records of the log again, in arrival order."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._assembler = Assembler(SHAPES, NESTED)

    def join(self, kind: int, data: bytes) -> None:
        """Join one record; raises ``MalformedFrame``."""
        engine, replica = self._engine, self._engine.replica
        if kind == KIND_MARKER:
            installation = self._assembler.feed(data)
            if installation is not None:
                replica.recover_installation(installation)
            return
        batch = decode_batch(data, known_fields=NESTED)
        engine.retries.note([batch], replica.state)
        replica.recover_batch(batch)
        engine.epoch.note_batch(batch.header)


def rederive(store: Store) -> State:
    """Return the state that the store's checkpoint and log lead to, made from scratch.

    Changes nothing; raises ``StoreCorrupt`` where the store no longer leads anywhere.
    """
    engine = Engine(Identity(1, ""))
    _join(engine, store)
    engine.replica.recovered({})
    return engine.replica.state
