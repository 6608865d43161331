"""Giving an id up: whenever the process dies on the way, the next open comes to the same end."""

from __future__ import annotations

import asyncio
from itertools import count
from typing import Any

import pytest

from crdtmem.causality import VersionVector
from crdtmem.checkpointing import Checkpointer
from crdtmem.effects import FindEvidence, Rederive
from crdtmem.engine import Engine
from crdtmem.errors import StoreCorrupt
from crdtmem.memory import Memory
from crdtmem.recovery import open_engine
from crdtmem.retirement import RETIRED, Retirement
from crdtmem.runtime import Runtime
from crdtmem.store import MemoryDisk, MemoryStore, Store, open_memory_store
from crdtmem.wall import now_us
from tests.waiting import eventually

WRITES = 12
DURABLE = ("drop_checkpoints", "divert", "quarantine_after", "sync")


class Died(Exception):
    """The process ends here."""


def written(disk: MemoryDisk, *, checkpointed: bool = False) -> Engine:
    """Write some transactions into a store on ``disk``; return the engine as it was at the end."""

    async def story() -> Engine:
        store = open_memory_store(disk)
        engine = open_engine(store, region="here")
        memory = Memory(Runtime(engine, store, tune_gc=False))
        memory.runtime.apply(engine.start(now_us()))
        for number in range(WRITES):
            await memory.space("notes").put(f"key-{number}", number)
            await memory.space("notes").put("last", number)
            if checkpointed and number == WRITES // 2:
                brief = Checkpointer(memory.runtime, log_bytes=1, sync_log_bytes=1)
                await memory.runtime.perform(brief.checkpoint())
        await memory.close()
        return engine

    return asyncio.run(story())


def retired(disk: MemoryDisk, engine: Engine, last: int) -> None:
    """Put the verdict into the store, as the last thing that a process did."""
    store = open_memory_store(disk)
    verdict = Retirement("a test", {engine.replica_id: last}, engine.state.vector)
    store.put_metadata({RETIRED: verdict.encode()})
    store.sync()
    store.crash()


def numbers(engine: Engine) -> set[Any]:
    """Return all values that an engine's state holds in the space of notes."""
    return {entry[1] for table, *_, entry in engine.state.entries() if table.space == ("notes",)}


@pytest.mark.parametrize("checkpointed", [False, True])
def test_what_lies_beyond_the_cut_is_gone_from_the_state_and_kept_apart(checkpointed: bool) -> None:
    disk = MemoryDisk()
    before = written(disk, checkpointed=checkpointed)
    own = before.replica_id
    # One founding write, then two per number.
    retired(disk, before, 1 + 2 * 4)
    store = open_memory_store(disk)
    engine = open_engine(store, region="here")
    assert engine.replica_id != own
    assert (engine.node.predecessor, engine.node.predecessor_last) == (own, 1 + 2 * WRITES)
    assert engine.state.vector == VersionVector({own: 9})
    assert numbers(engine) == {0, 1, 2, 3}
    assert RETIRED not in store.metadata()
    kept = [(r.first_sequence, r.last_sequence) for r in store.quarantined()]
    assert kept[0][0] == 10
    assert kept[-1][1] == 1 + 2 * WRITES
    assert [alarm.name for alarm in engine.news] == ["set aside", "new identity"]


def test_nothing_beyond_the_cut_keeps_checkpoint_and_log() -> None:
    disk = MemoryDisk()
    before = written(disk, checkpointed=True)
    retired(disk, before, 1 + 2 * WRITES)
    store = open_memory_store(disk)
    engine = open_engine(store, region="here")
    assert engine.replica_id != before.replica_id
    assert engine.state.digest() == before.state.digest()
    assert store.checkpoint() is not None
    assert list(store.quarantined()) == []


def test_a_crash_anywhere_on_the_way_leads_to_the_same_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = MemoryDisk()
    before = written(first, checkpointed=True)
    retired(first, before, 9)
    ends = set()
    for steps in count():
        # In place: a copy of the disk would be another store, which has reasons of its own.
        saved = first.copy()
        store = open_memory_store(first)
        died = _open_and_die(store, steps, monkeypatch)
        store.crash()
        store = open_memory_store(first)
        engine = open_engine(store, region="here")
        assert engine.replica_id != before.replica_id
        assert engine.node.predecessor == before.replica_id
        kept = sorted((r.first_sequence, r.digest) for r in store.quarantined())
        ends.add((engine.state.digest(), tuple(sorted(engine.state.vector.items())), tuple(kept)))
        store.crash()
        if not died:
            break
        first.restore(saved, with_mark=True)
    assert steps >= 3
    assert len(ends) == 1


def _open_and_die(store: MemoryStore, steps: int, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Open an engine, and die instead of durable step number ``steps``; tell whether it came."""
    done = count()
    with monkeypatch.context() as patch:
        for name in DURABLE:
            original = getattr(store, name)

            def counted(*arguments: Any, _original: Any = original, **named: Any) -> Any:
                if next(done) == steps:
                    raise Died
                return _original(*arguments, **named)

            patch.setattr(store, name, counted)
        try:
            open_engine(store, region="here")
        except Died:
            return True
    return False


def test_a_log_that_lacks_its_beginning_leaves_nothing() -> None:
    disk = MemoryDisk()
    before = written(disk, checkpointed=True)
    store: Store = open_memory_store(disk)
    store.cut_sync_log(before.replica_id, 9)
    store.cut_history(before.replica_id, 9)
    store.close()
    retired(disk, before, 20)
    store = open_memory_store(disk)
    engine = open_engine(store, region="here")
    assert not engine.state.vector
    assert store.heads().get(before.replica_id, 0) == 0
    assert "fetched again" in engine.news[0].message


def test_a_verdict_that_cannot_be_read_is_no_reason_to_go_on() -> None:
    disk = MemoryDisk()
    written(disk)
    store = open_memory_store(disk)
    store.put_metadata({RETIRED: b"\xc1"})
    store.sync()
    with pytest.raises(StoreCorrupt):
        open_engine(store, region="here")


# ---------------------------------------------------------------------------- repair


def test_a_state_that_went_wrong_in_memory_is_taken_from_the_store_again() -> None:
    async def story() -> None:
        memory = await Memory.open("memory:", tune_gc=False)
        for number in range(5):
            await memory.space("notes").put(f"key-{number}", number)
        read = memory.reader("notes")
        state = memory.engine.state
        table = state.find(("notes",), 1)
        assert table is not None
        del table.slots["key-3"]
        state.rebuild_derived()
        memory.runtime.apply([Rederive(("lead", None))])
        await eventually(lambda: read("key-3") == 3, "what was lost in memory")
        await eventually(
            lambda: "rederived" in [alarm.name for alarm in memory.runtime.alarms], "alarm"
        )
        memory.runtime.alarms.clear()
        memory.runtime.apply([Rederive(("lead", None))])
        await memory.space("notes").put("key-5", 5)
        assert not memory.runtime.alarms, "it was sound this time"
        await memory.close()

    asyncio.run(story())


def test_evidence_is_the_batch_that_superseded(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        memory = await Memory.open("memory:", tune_gc=False)
        gone = (await memory.space("notes").put("key", 1)).first
        stays = (await memory.space("notes").put("other", 1)).first
        by = (await memory.space("notes").put("key", 2)).first
        answers: list[Any] = []

        def found(request: Any, batches: Any, now: int) -> list[Any]:
            answers.append((request, batches))
            return []

        monkeypatch.setattr(memory.engine.sync, "evidence_found", found)
        memory.runtime.apply([FindEvidence("who asked", frozenset({gone, stays}))])
        await eventually(lambda: answers, "answer")
        ((request, (data,)),) = answers
        assert request == "who asked"
        assert memory.engine.decode(data).header.last == by & (1 << 64) - 1
        await memory.close()

    asyncio.run(story())
