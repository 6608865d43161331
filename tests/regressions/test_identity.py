"""Restored, copied, rolled back, evicted: whose name a store writes under, and what becomes of it.

Each test is one story, and tells its harm. Numbers in names are those of the list of anomalies.
Real stores, real sockets; what a machine cannot do to itself in a test is done to its files.
"""

from __future__ import annotations

import asyncio
import shutil
from functools import partial
from pathlib import Path

import pytest

from crdtmem.errors import CrdtmemError, InsufficientRights, InvalidValue, ReplicaHalted
from crdtmem.memory import Memory
from crdtmem.rescue import LostWrite
from crdtmem.session import ChangeFeed
from tests.regressions.places import Home, converged, homes, increments, member
from tests.waiting import eventually


async def opened(path: Path) -> Memory:
    """Open a store of one's own, embedded."""
    return await Memory.open(f"sqlite:///{path}", tune_gc=False)


def states(writes: list[LostWrite]) -> list[str]:
    return [write.state for write in writes]


# ---------------------------------------------------------------------------- restore and copy


def test_3_a_restored_backup_writes_under_another_id(tmp_path: Path) -> None:
    """Harm: the backup writes dots that the original wrote after it: silent loss everywhere."""

    async def story() -> None:
        original = await opened(tmp_path / "store.db")
        await original.space("notes").put("a", 1)
        await original.runtime.in_store(
            lambda: original.runtime.store.backup(str(tmp_path / "backup.db"))
        )
        later = (await original.space("notes").put("b", 2)).first
        restored = await opened(tmp_path / "backup.db")
        assert restored.replica_id != original.replica_id
        assert await restored.space("notes").get("a") == 1
        after = (await restored.space("notes").put("c", 3)).first
        assert after >> 64 != later >> 64
        assert restored.engine.node.predecessor == original.replica_id
        assert restored.engine.node.predecessor_last > 0
        await original.close()
        await restored.close()

    asyncio.run(story())


def test_3_a_copied_directory_and_its_original_both_go_on(tmp_path: Path) -> None:
    """Harm: two processes write other things under the same dots, and one hides the other."""

    async def story() -> None:
        async with homes(tmp_path, "ab") as (a, b):
            await a.start()
            await increments(a, 3)
            await a.stop()
            for path in a.folder.glob("store.db*"):
                shutil.copy(path, b.folder / path.name)
            await a.start()
            await b.start()
            assert await member(b) != a.memory.replica_id
            assert "new identity" in b.alarms()
            await asyncio.gather(increments(a, 5), increments(b, 7))
            await converged(a, b)
            assert await b.memory.space("notes").counter("n").get() == 15
            assert await a.memory.set_aside() == []

    asyncio.run(story())


def test_a_copy_that_goes_on_alone_collects_again(tmp_path: Path) -> None:
    """Harm: the former id is a member that never acknowledges: nothing is ever stable again."""

    async def story() -> None:
        home = tmp_path / "home"
        home.mkdir()
        original = await opened(home / "store.db")
        await original.space("notes").set("grants", remove_wins=True).add("eve")
        await original.close()
        shutil.copytree(home, tmp_path / "copy")
        copy = await opened(tmp_path / "copy" / "store.db")
        former = copy.engine.node.predecessor
        await copy.space("notes").set("grants", remove_wins=True).remove("eve")
        engine = copy.engine
        await eventually(lambda: former in engine.epoch.settled, "eviction of the former id")
        assert engine.epoch.members == {copy.replica_id}
        removed = dict(engine.state.vector)
        assert engine.epoch.stable_vector(engine.state.vector).dominates(removed)
        await copy.close()
        # And again: a copy of the copy gives up both.
        shutil.copytree(tmp_path / "copy", tmp_path / "third")
        third = await opened(tmp_path / "third" / "store.db")
        await eventually(
            lambda: third.engine.epoch.members == {third.replica_id}, "eviction of all former ids"
        )
        await third.close()

    asyncio.run(story())


def test_a_backup_of_a_cluster_does_not_found_another_one(tmp_path: Path) -> None:
    """Harm: a restored node that names no peers founds, and its own cluster turns it away."""

    async def story() -> None:
        async with homes(tmp_path, "ab") as (a, b):
            await a.start()
            await b.start()
            await member(b)
            await increments(b, 2)
            await converged(a, b)
            former = a.memory.replica_id
            await a.stop()
            await b.stop()
            (a.folder / "store.db-mark").unlink()
            await a.start()
            assert "not a member" in a.alarms()
            assert not a.memory.engine.epoch.is_member
            await b.start()
            await member(a, former)
            await increments(a, 2)
            await converged(a, b)
            assert await b.memory.space("notes").counter("n").get() == 4

    asyncio.run(story())


def test_a_tail_that_was_lost_comes_back_from_the_others(tmp_path: Path) -> None:
    """Harm: the id goes on from before its tail, and writes its dots a second time."""

    async def story() -> None:
        async with homes(tmp_path, "ab") as (a, b):
            await a.start()
            await b.start()
            await member(b)
            await increments(a, 3)
            await a.stop()
            await a.start()
            # Whatever comes now is in the write-ahead log alone, which is then lost.
            saved = a.store.read_bytes()
            await eventually(lambda: b.memory.engine.sync.info(), "stream")
            await increments(a, 4)
            await converged(a, b)
            former = a.memory.replica_id
            await a.stop()
            a.store.write_bytes(saved)
            await a.start()
            assert await member(a, former) != former
            await increments(a, 1)
            await converged(a, b)
            assert await a.memory.space("notes").counter("n").get() == 8

    asyncio.run(story())


# ---------------------------------------------------------------------------- first contact


def _established(home: Home) -> bool:
    engine = home.memory.engine
    engine.epoch.stable_vector(engine.state.vector)
    return engine.replica_id in engine.epoch.established()


def _kept(home: Home) -> bool:
    engine = home.memory.engine
    return not engine.epoch.has_news and engine.replica.flight is None


async def fork(a: Home, b: Home) -> int:
    """Let a's files be rolled back in place, and a write on, before it meets b; return its id."""
    await a.start()
    await b.start()
    await member(b)
    await a.memory.space("notes").put("shared", "before")
    await increments(a, 2)
    await converged(a, b)
    await a.stop()
    saved = a.save()
    await a.start()
    await eventually(lambda: b.memory.engine.sync.info(), "stream")
    await a.memory.space("notes").put("theirs", "kept")
    await a.memory.space("notes").put("shared", "the cluster's")
    await increments(a, 3)
    await converged(a, b)
    former = a.memory.replica_id
    # What b knows to be stable outlives its restart, once it has been kept.
    await eventually(lambda: _established(b) and _kept(b), "stable admission")
    await b.stop()
    await a.stop()
    a.put_back(saved)
    await a.start()
    assert a.memory.replica_id == former, "nothing on this machine can tell"
    return former


def test_3_a_rollback_that_shows_at_first_contact_keeps_both_forks(tmp_path: Path) -> None:
    """Harm: one history hides the other under the same dots; whoever wrote it was acknowledged."""

    async def story() -> None:
        async with homes(tmp_path, "ab") as (a, b):
            former = await fork(a, b)
            await a.memory.space("notes").put("ours", "not lost")
            await a.memory.space("notes").put("shared", "the fork's")
            await increments(a, 10)
            await b.start()
            assert await member(a, former) != former
            await converged(a, b)
            for home in (a, b):
                space = home.memory.space("notes")
                assert await space.get("theirs") == "kept"
                assert await space.get("ours") is None
                assert await space.counter("n").get() == 5
            listed = await a.memory.set_aside()
            assert [w.key for w in listed if w.state == "lost"] == ["ours", "shared", *["n"] * 10]
            with pytest.raises(InvalidValue, match="not certain"):
                await a.memory.rescue()
            # Of two that count, none is a majority: the operator knows that it is gone.
            await b.memory.evict(former, forced=True)
            await eventually(lambda: former in a.memory.engine.epoch.settled, "final cut")
            outcome = await _rescued(a)
            assert (outcome["written"], outcome["failed"]) == (12, [])
            await converged(a, b)
            for home in (a, b):
                space = home.memory.space("notes")
                assert await space.get("ours") == "not lost"
                assert await space.get("theirs") == "kept"
                siblings = (await space.register("shared").read()).siblings
                assert {s.value for s in siblings} == {"the cluster's", "the fork's"}
                assert await space.counter("n").get() == 15
            assert (await a.memory.rescue())["written"] == 0
            assert set(states(await a.memory.set_aside())) <= {"rescued", "arrived"}

    asyncio.run(story())


async def _rescued(home: Home) -> dict[str, object]:
    """Rescue all, once it is certain that this replica is the one to do it."""
    origin = home.memory.engine.node.predecessor
    assert origin is not None

    def certain() -> bool:
        engine = home.memory.engine
        engine.epoch.stable_vector(engine.state.vector)
        return engine.epoch.successor(origin) == engine.replica_id

    await eventually(certain, "certain successor")
    return await home.memory.rescue()


def test_3_a_rollback_that_writes_nothing_is_noticed_and_loses_nothing(tmp_path: Path) -> None:
    """Harm: the first write after the rollback takes a dot that is taken."""

    async def story() -> None:
        async with homes(tmp_path, "ab") as (a, b):
            former = await fork(a, b)
            await b.start()
            await member(a, former)
            await increments(a, 1)
            await converged(a, b)
            assert await a.memory.space("notes").counter("n").get() == 6
            assert set(states(await a.memory.set_aside())) <= {"arrived"}

    asyncio.run(story())


def test_3_a_fork_that_grew_longer_than_the_cluster_knows_is_noticed(tmp_path: Path) -> None:
    """Harm: the peers fence the id for ever, and the one who writes under it never hears of it."""

    async def story() -> None:
        async with homes(tmp_path, "ab") as (a, b):
            former = await fork(a, b)
            await increments(a, 30)
            await b.start()
            await member(a, former)
            await converged(a, b)
            assert await a.memory.space("notes").counter("n").get() == 5
            assert states(await a.memory.set_aside()).count("lost") == 30

    asyncio.run(story())


def test_retiring_refuses_who_waits_and_ends_feeds_and_readers_go_on(tmp_path: Path) -> None:
    """Harm: a caller waits for ever for an engine that is gone, or reads from one."""

    async def story() -> None:
        async with homes(tmp_path, "ab") as (a, b):
            former = await fork(a, b)
            read = a.memory.reader("notes")
            feed = await a.memory.changes()
            ours = await a.memory.space("notes").put("ours", 1)
            waiting = asyncio.ensure_future(
                a.memory.wait_for(type(ours.context)({former: 10_000}), timeout_ms=60_000)
            )
            await b.start()
            await member(a, former)
            with pytest.raises(ReplicaHalted):
                await waiting
            with pytest.raises(CrdtmemError):
                await _exhaust(feed)
            await converged(a, b)
            assert (read("ours"), read("theirs")) == (None, "kept")

    asyncio.run(story())


async def _exhaust(feed: ChangeFeed) -> None:
    """Take changes until the feed says that it has ended."""
    while True:
        await anext(aiter(feed))


# ---------------------------------------------------------------------------- eviction


def test_9_10_an_evicted_node_that_returns_is_counted_once(tmp_path: Path) -> None:
    """Harm: its old totals arrive beside those that were merged: counted twice, or resurrected."""

    async def story() -> None:
        async with homes(tmp_path, "abc") as (a, b, c):
            await a.start()
            await b.start()
            await c.start()
            for home in (b, c):
                await member(home)
            await increments(c, 4)
            await converged(a, b, c)
            await a.stop()
            await b.stop()
            await increments(c, 5)
            former = c.memory.replica_id
            await c.stop()
            await a.start()
            await b.start()
            await eventually(lambda: a.memory.engine.sync.info(), "stream")
            await b.memory.evict(former)
            for home in (a, b):
                settled = home.memory.engine.epoch.settled
                await eventually(partial(settled.__contains__, former), "final cut")
            await c.start()
            await member(c, former)
            await converged(a, b, c)
            for home in (a, b, c):
                assert await home.memory.space("notes").counter("n").get() == 4
            assert states(await c.memory.set_aside()) == ["lost"] * 5
            one = (await c.memory.set_aside())[0].dot
            await eventually(lambda: _certain(c, former), "certain successor")
            assert (await c.memory.rescue([one]))["written"] == 1
            assert (await c.memory.rescue())["written"] == 4
            assert (await c.memory.rescue())["written"] == 0
            await converged(a, b, c)
            for home in (a, b, c):
                assert await home.memory.space("notes").counter("n").get() == 9
            with pytest.raises(InvalidValue):
                await c.memory.rescue(["0000000000000001:1"])

    asyncio.run(story())


def _certain(home: Home, origin: int) -> bool:
    engine = home.memory.engine
    engine.epoch.stable_vector(engine.state.vector)
    return engine.epoch.successor(origin) == engine.replica_id


def test_rescue_of_a_write_that_did_get_through(tmp_path: Path) -> None:
    """Harm: what the others had after all is written a second time."""

    async def story() -> None:
        async with homes(tmp_path, "ab") as (a, b):
            await a.start()
            await b.start()
            await member(b)
            await increments(a, 6)
            await converged(a, b)
            former = a.memory.replica_id
            # A cut that turns out to have been lower than feared: all of it is elsewhere too.
            membership = a.memory.engine.membership
            a.memory.runtime.apply(membership.retire("a test", {former: 2}))
            await member(a, former)
            await converged(a, b)
            assert await a.memory.space("notes").counter("n").get() == 6
            assert set(states(await a.memory.set_aside())) == {"arrived"}
            assert (await a.memory.rescue())["written"] == 0
            assert await b.memory.space("notes").counter("n").get() == 6

    asyncio.run(story())


def test_7_a_start_from_a_peer_that_lags_does_not_resurrect(tmp_path: Path) -> None:
    """Harm: what was deleted comes back with the state of one who had not heard of it."""

    async def story() -> None:
        async with homes(tmp_path, "abc") as (a, b, c):
            await a.start()
            await b.start()
            await member(b)
            await a.memory.space("notes").put("secret", 1)
            await a.memory.space("notes").set("grants").add("eve")
            await converged(a, b)
            await b.stop()
            await a.memory.space("notes").register("secret").delete()
            await a.memory.space("notes").set("grants").remove("eve")
            await a.stop()
            await b.start()
            await c.start()
            await member(c)
            await converged(b, c)
            assert await c.memory.space("notes").get("secret") == 1, "b does not know better"
            await a.start()
            await converged(a, b, c)
            for home in (a, b, c):
                assert await home.memory.space("notes").get("secret") is None
                assert await home.memory.space("notes").set("grants").get() == []

    asyncio.run(story())


# ---------------------------------------------------------------------------- clocks and rights


def test_18_a_clock_that_steps_back_over_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Harm: what is written after the restart loses to what was written before."""
    time_us = 1_800_000_000_000_000

    def set_clock(now_us: int) -> None:
        for module in ("memory", "runtime"):
            monkeypatch.setattr(f"crdtmem.{module}.now_us", lambda: now_us)

    async def write(value: str) -> tuple[int, int]:
        memory = await opened(tmp_path / "store.db")
        await memory.space("notes").put("key", value)
        reading = await memory.space("notes").register("key").read()
        await memory.close()
        assert reading.value == value
        (entry,) = reading.siblings
        return entry.order, entry.physical_us

    set_clock(time_us)
    first = asyncio.run(write("before"))
    set_clock(time_us - 3_600_000_000)
    second = asyncio.run(write("after"))
    assert second[0] > first[0]
    assert second[1] >= first[1]


def test_32_escrow_is_not_overspent_after_a_restore(tmp_path: Path) -> None:
    """Harm: the backup still holds rights that the original has spent since."""

    async def story() -> None:
        async with homes(tmp_path, "ab") as (a, b):
            await a.start()
            seats = a.memory.space("shop").bounded_counter("seats")
            await seats.mint(10)
            store = a.memory.runtime.store
            await a.memory.runtime.in_store(lambda: store.backup(str(b.store)))
            await seats.consume(8)
            await b.start()
            await member(b)
            await converged(a, b)
            with pytest.raises(InsufficientRights):
                await b.memory.space("shop").bounded_counter("seats").consume(1)
            await seats.consume(2)
            with pytest.raises(InsufficientRights):
                await seats.consume(1)
            await converged(a, b)

    asyncio.run(story())
