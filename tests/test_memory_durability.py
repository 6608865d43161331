"""The embedded memory over crashes, copies, damage and failing disks."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from crdtmem.causality import Context
from crdtmem.errors import (
    Closed,
    InvalidValue,
    LimitExceeded,
    StoreFailed,
    StoreFull,
    StoreLocked,
)
from crdtmem.handles import WriteOptions
from crdtmem.memory import Memory
from crdtmem.transaction import Transaction
from tests.memories import (
    REGISTER,
    crash,
    faults_of,
    fresh_url,
    opened,
    peek,
    store_of,
    with_memory,
)
from tests.waiting import eventually

# ---------------------------------------------------------------------- a moment of rest


def test_a_memory_that_rests_tidies_its_store_and_says_when_that_fails(tmp_path: Path) -> None:
    path = tmp_path / "store.db"

    async def run() -> None:
        memory = await opened(f"sqlite:///{path}")
        before = path.stat().st_size
        await memory.space("s").put("large", "x" * 900_000)
        await memory.space("s").put("larger", "x" * 900_000)
        await eventually(lambda: path.stat().st_size > before + 1_800_000, "tidy store")
        store, alarms = memory.runtime.store, memory.runtime.alarms

        def fail() -> None:
            raise OSError("no such luck")

        store.tidy = fail  # type: ignore[method-assign]
        await memory.space("s").put("k", 1)
        await eventually(lambda: any("tidying" in alarm.message for alarm in alarms), "alarm")
        assert peek(memory, "s", "k") == 1
        await memory.close()

    asyncio.run(run())


# ---------------------------------------------------------------------- reopening and crashing


@pytest.mark.parametrize("how", ["closed", "crashed"])
def test_what_was_acknowledged_is_there_after_reopening(how: str) -> None:
    url = fresh_url()

    async def run() -> None:
        memory = await opened(url)
        identity = memory.replica_id
        space = memory.space("s")
        await asyncio.gather(*(space.put(f"k{n}", n) for n in range(50)))
        await space.counter("c").increment(7)
        committed = await space.set("t").add("e")
        digest = memory.engine.replica.state.digest()
        await (memory.close() if how == "closed" else crash(memory))
        again = await opened(url)
        assert again.replica_id == identity
        assert again.engine.replica.state.digest() == digest
        assert again.engine.replica.context >= committed.context
        assert await again.space("s").counter("c").get() == 7
        later = await again.space("s").put("k0", "newer")
        assert later.first > committed.first
        await again.close()

    asyncio.run(run())


def test_a_flight_that_was_out_at_the_crash_is_all_there_or_not_at_all() -> None:
    url = fresh_url()

    async def run() -> None:
        memory = await opened(url)
        await memory.space("s").put("kept", 1)
        transaction = Transaction()
        for n in range(10):
            transaction.put(("s",), REGISTER, f"k{n}", n)
        task = asyncio.create_task(memory.commit(transaction))
        for _ in range(1_000):
            if memory.engine.replica.flight is None:
                await asyncio.sleep(0)
        assert memory.engine.replica.flight is not None
        await crash(memory)
        await asyncio.gather(task, return_exceptions=True)
        again = await opened(url)
        present = [peek(again, "s", f"k{n}") is not None for n in range(10)]
        assert all(present) or not any(present)
        assert peek(again, "s", "kept") == 1
        if not any(present):
            assert task.exception() is not None
        await again.close()

    asyncio.run(run())


def test_a_copied_store_writes_under_another_id() -> None:
    url = fresh_url()

    async def run() -> None:
        memory = await opened(url)
        await memory.space("s").put("k", 1)
        store_of(memory).backup(f"{url}-copy")
        copy = await opened(f"memory:{url}-copy")
        assert copy.replica_id != memory.replica_id
        assert peek(copy, "s", "k") == 1
        mine, theirs = await memory.space("s").put("k", 2), await copy.space("s").put("k", 3)
        assert mine.first >> 64 != theirs.first >> 64
        await memory.close()
        await copy.close()

    asyncio.run(run())


def test_damage_in_the_middle_of_the_log_costs_the_id() -> None:
    """What was cut may hold our own dots: under the old id they would be used again."""
    url = fresh_url()

    async def run() -> None:
        memory = await opened(url)
        for n in range(6):
            await memory.space("s").put(f"k{n}", n)
        identity, disk = memory.replica_id, store_of(memory).disk
        await memory.close()
        disk.tear(records=3)
        again = await opened(url)
        assert again.replica_id != identity
        assert peek(again, "s", "k0") == 0
        assert peek(again, "s", "k5") is None
        committed = await again.space("s").put("k5", "anew")
        assert committed.first >> 64 == again.replica_id
        await again.close()
        third = await opened(url)
        assert third.replica_id == again.replica_id
        assert peek(third, "s", "k5") == "anew"
        await third.close()

    asyncio.run(run())


def test_a_sqlite_store_is_locked_reopened_and_keeps_everything(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/memory.db"

    async def run() -> None:
        async with await opened(url) as memory:
            await asyncio.gather(*(memory.space("s").put(f"k{n}", n) for n in range(300)))
            with pytest.raises(StoreLocked):
                await opened(url)
            digest, identity = memory.engine.replica.state.digest(), memory.replica_id
        async with await opened(url) as again:
            assert again.engine.replica.state.digest() == digest
            assert again.replica_id == identity

    asyncio.run(run())


def test_a_region_that_could_not_be_read_back_is_refused_at_open() -> None:
    for region in ("r" * 65, "", "\ud800"):
        with pytest.raises((InvalidValue, LimitExceeded)):
            asyncio.run(opened_and_closed(fresh_url(), region))


async def opened_and_closed(url: str, region: str) -> None:
    await (await opened(url, region=region)).close()


# ---------------------------------------------------------------------- bad disks


def test_a_failed_fsync_stops_acknowledgements_says_why_and_is_mended() -> None:
    async def body(memory: Memory) -> None:
        await memory.space("s").put("kept", 1)
        faults_of(memory).fail_sync(StoreFull("no space left"))
        with pytest.raises(StoreFull):
            await memory.space("s").put("lost", 1)
        assert peek(memory, "s", "lost") is None
        assert peek(memory, "s", "kept") == 1
        await eventually(lambda: memory.runtime.broken is None, "mended store")
        assert [alarm.name for alarm in memory.runtime.alarms] == ["store", "store mended"]
        await memory.space("s").put("lost", 2)
        assert peek(memory, "s", "lost") == 2

    with_memory(fresh_url(), body)


def test_an_ambiguous_commit_counts_exactly_when_it_survived() -> None:
    async def body(memory: Memory) -> None:
        faults_of(memory).fail_sync(StoreFailed("lost power, perhaps"), survives=True)
        committed = await memory.space("s").put("k", 1)
        assert peek(memory, "s", "k") == 1
        later = await memory.space("s").put("k", 2)
        assert later.first == committed.first + 1
        assert store_of(memory).heads()[memory.replica_id] == later.first & (1 << 64) - 1

    with_memory(fresh_url(), body)


def test_while_the_store_is_broken_writes_are_refused_and_reads_served() -> None:
    async def body(memory: Memory) -> None:
        await memory.space("s").put("kept", 1)
        plan = faults_of(memory)
        plan.fail_sync(StoreFull("no space left"))
        for _ in range(3):
            plan.fail_reopen(StoreFull("still no space left"))
        tasks = [asyncio.ensure_future(memory.space("s").put(f"k{n}", n)) for n in range(3)]
        await eventually(lambda: memory.runtime.broken, "broken store")
        with pytest.raises(StoreFull):
            await memory.space("s").put("refused", 1)
        assert peek(memory, "s", "kept") == 1
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(outcome, StoreFull) for outcome in outcomes)
        await eventually(lambda: memory.runtime.broken is None, "mended store")
        await memory.space("s").put("k", 1)
        assert await memory.space("s").keys() == ["k", "kept"]

    with_memory(fresh_url(), body)


def test_closing_while_the_store_is_broken_answers_everyone() -> None:
    async def run() -> None:
        memory = await opened(fresh_url())
        plan = faults_of(memory)
        plan.fail_sync(StoreFull("no space left"))
        for _ in range(1_000):
            plan.fail_reopen(StoreFull("still no space left"))
        in_flight = asyncio.ensure_future(memory.space("s").put("k", 1))
        await eventually(lambda: memory.runtime.broken, "broken store")
        reader = asyncio.create_task(memory.wait_for(Context({9: 9})))
        feed = memory.subscribe()
        waiting = asyncio.create_task(feed.next())
        await eventually(lambda: len(memory.engine.replica._waiting), "waiter")
        await memory.close()
        async with asyncio.timeout(5):
            outcomes = await asyncio.gather(in_flight, reader, waiting, return_exceptions=True)
        assert isinstance(outcomes[0], StoreFull)
        assert isinstance(outcomes[1], Closed)
        assert isinstance(outcomes[2], Closed)

    asyncio.run(run())


def test_after_close_everything_says_so_and_closing_again_is_nothing() -> None:
    async def run() -> None:
        memory = await opened(fresh_url())
        waiting = asyncio.create_task(memory.wait_for(Context({9: 9}), timeout_ms=60_000))
        await eventually(lambda: len(memory.engine.replica._waiting), "waiter")
        await memory.close()
        await memory.close()
        with pytest.raises(Closed):
            await memory.space("s").put("k", 1)
        with pytest.raises(Closed):
            async with asyncio.timeout(5):
                await waiting

    asyncio.run(run())


def test_a_cancelled_write_harms_nobody() -> None:
    async def body(memory: Memory) -> None:
        tasks = [asyncio.ensure_future(memory.space("s").put(f"k{n}", n)) for n in range(5)]
        await asyncio.sleep(0)
        tasks[2].cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(outcomes[2], asyncio.CancelledError)
        assert sum(isinstance(outcome, BaseException) for outcome in outcomes) == 1
        await memory.space("s").put("after", 1)

    with_memory(fresh_url(), body)


def test_options_travel_with_the_session() -> None:
    async def body(memory: Memory) -> None:
        session = memory.session(author="ann").session(trust=2)
        assert session.options == WriteOptions(author="ann", trust=2)
        await session.space("s").put("k", 1)
        assert session.context <= memory.engine.replica.context

    with_memory(fresh_url(), body)
