"""Checkpoints bound what a restart replays, and what the disk keeps."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path

from crdtmem.checkpointing import Checkpointer
from crdtmem.memory import Memory


async def _rounds(memory: Memory, checkpointer: Checkpointer, rounds: int) -> None:
    space = memory.space("notes")
    for number in range(rounds):
        await asyncio.gather(*(space.put(f"k{key}", [number, key]) for key in range(20)))
        await memory.runtime.perform(checkpointer.checkpoint())


async def _reopened(url: str) -> dict[str, object]:
    async with await Memory.open(url, region="eu") as memory:
        space = memory.space("notes")
        return {key: await space.get(key) for key in await space.keys()}


def test_history_that_is_older_than_its_retention_leaves_the_disk(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a.db"

    async def story() -> None:
        async with await Memory.open(url, region="eu") as memory:
            store = memory.runtime.store
            brief = Checkpointer(memory.runtime, sync_log_bytes=1, retention_us=1)
            await _rounds(memory, brief, 4)
            assert store.history_floors()[memory.replica_id] > 20
            assert store.floors()[memory.replica_id] > 20
        expected = {f"k{key}": [3, key] for key in range(20)}
        assert await _reopened(url) == expected

    asyncio.run(story())


def test_a_retention_of_zero_keeps_everything(tmp_path: Path) -> None:
    async def story() -> None:
        async with await Memory.open(f"sqlite:///{tmp_path}/a.db", region="eu") as memory:
            for_ever = Checkpointer(memory.runtime, sync_log_bytes=1, retention_us=0)
            await _rounds(memory, for_ever, 4)
            assert memory.runtime.store.history_floors()[memory.replica_id] == 1

    asyncio.run(story())


def test_history_within_its_retention_is_kept(tmp_path: Path) -> None:
    async def story() -> None:
        async with await Memory.open(f"sqlite:///{tmp_path}/a.db", region="eu") as memory:
            await _rounds(memory, Checkpointer(memory.runtime, sync_log_bytes=1), 4)
            assert memory.runtime.store.history_floors()[memory.replica_id] == 1

    asyncio.run(story())


def test_a_log_that_has_grown_starts_a_checkpoint_by_itself(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a.db"

    async def story() -> None:
        async with await Memory.open(url, region="eu") as memory:
            memory.runtime.checkpointer = Checkpointer(memory.runtime, log_bytes=1_000)
            number = 0
            while not memory.runtime.checkpointer.written:
                number += 1
                await memory.space("notes").put(f"k{number}", "x" * 100)
            assert memory.runtime.store.checkpoint() is not None
        assert len(await _reopened(url)) == number

    asyncio.run(story())


def test_what_was_replayed_counts_towards_the_next_checkpoint(tmp_path: Path) -> None:
    """Lives that are each too short for a checkpoint do not replay ever more."""
    url = f"sqlite:///{tmp_path}/a.db"

    async def life() -> int:
        """One life that ends before it has written a checkpoint's worth of log."""
        async with await Memory.open(url, region="eu") as memory:
            checkpointer = Checkpointer(memory.runtime, log_bytes=1_000)
            memory.runtime.checkpointer = checkpointer
            await memory.space("notes").put("k", "x" * 400)
            while checkpointer.busy:
                await memory.space("notes").put("k", "")
            return memory.runtime.engine.replayed_bytes

    replayed = [asyncio.run(life()) for _ in range(12)]
    assert max(replayed) < 4_000
    assert any(later < earlier for earlier, later in pairwise(replayed))
