"""Change feeds: each dot once, in causal order, or a gap that is said to be one."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crdtmem import feeds
from crdtmem.causality import Context
from crdtmem.changes import Lagging, Part
from crdtmem.errors import Closed, HistoryGap, LimitExceeded
from crdtmem.memory import Memory
from tests.feed_worlds import STEPS, World, play, played, small_feeds
from tests.memories import fresh_url, opened, with_memory
from tests.waiting import eventually


@pytest.fixture(autouse=True, scope="module")
def _small() -> Iterator[None]:
    with small_feeds():
        yield


_steps = st.lists(st.tuples(st.sampled_from(sorted(STEPS)), st.integers(0, 9)), max_size=25)


@given(st.integers(1, 4), _steps)
@settings(max_examples=150)
def test_each_dot_is_told_once_after_its_causes_or_a_gap_is_said(
    limit_batches: int, steps: list[tuple[str, int]]
) -> None:
    asyncio.run(play(limit_batches, steps))


def _exhaust(length: int) -> int:
    """Play every sequence of steps of one length, with a queue of one batch."""
    played = 0
    for names in product(("write", "elsewhere", "join", "install", "cut", "read"), repeat=length):
        numbered: list[tuple[str, int]] = [(name, index) for index, name in enumerate(names)]
        asyncio.run(play(1, numbered))
        played += 1
    return played


@pytest.mark.parametrize("seed", range(6))
def test_the_same_over_a_store_on_disk(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    steps = [(chance.choice(sorted(STEPS)), chance.randrange(10)) for _ in range(40)]
    asyncio.run(play(chance.randint(1, 3), steps, f"sqlite:///{tmp_path / 'store.db'}"))


def test_every_sequence_of_three_steps() -> None:
    assert _exhaust(3) == 6**3


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_sequence_of_five_steps() -> None:
    assert _exhaust(5) == 6**5


def test_the_oracle_sees_lags_gaps_and_resumptions() -> None:
    """A test of the test: without these the property would be of little worth."""
    assert played("write", "write").lagged == 0
    # Whoever only catches up does not lag, however full the queue is meanwhile.
    assert played("write", "write", "read", "read", "write", limit_batches=1).lagged == 0
    assert played("write", "read", "catch up", *["write"] * 5).lagged == 1
    assert played("elsewhere", "install").gaps
    assert played("write", "cut", "write", "resume").gaps
    assert not played("write", "elsewhere", "join", "restart", "write").gaps


# ------------------------------------------------------------------ one space, many changes


async def _put(memory: Memory, count: int, *, space: str = "s", first: int = 0) -> Context:
    """Write keys of one space in one transaction; return its context."""
    async with memory.transaction() as transaction:
        transaction.put_many((space,), {f"k{first + n}": n for n in range(count)})
    assert transaction.committed is not None
    return transaction.committed.context


async def _parts(feed: feeds.Feed, through: Context) -> list[Part]:
    """Take parts until the cursor covers a context."""
    found: list[Part] = []
    while not through <= feed.cursor:
        part = await feed.next()
        assert isinstance(part, Part)
        found.append(part)
    return found


def test_a_batch_that_is_too_large_for_a_part_comes_in_pieces_without_a_cursor() -> None:
    async def body(memory: Memory) -> None:
        feed = await memory.changes()
        before = feed.cursor
        through = await _put(memory, 7)
        parts = await _parts(feed, through)
        assert [len(part.changes) for part in parts] == [3, 3, 1]
        assert [part.cursor for part in parts] == [None, None, through]
        again = await memory.changes(after=before)
        assert await _parts(again, through) == parts

    with_memory(fresh_url(), body)


def test_the_cursor_moves_when_the_last_change_of_a_part_is_taken() -> None:
    async def body(memory: Memory) -> None:
        feed = await memory.changes()
        before = feed.cursor
        through = await _put(memory, 5)
        keys = []
        for _ in range(5):
            assert feed.cursor == before
            keys.append((await anext(feed)).key)
        assert keys == [f"k{n}" for n in range(5)]
        assert feed.cursor == through
        # What was begun one by one is ended by the rest of its part.
        through = await _put(memory, 3, first=10)
        assert (await anext(feed)).key == "k10"
        rest = await feed.next()
        assert isinstance(rest, Part)
        assert [change.key for change in rest.changes] == ["k11", "k12"]
        assert feed.cursor == rest.cursor == through

    with_memory(fresh_url(), body)


@pytest.mark.parametrize("live", [True, False])
def test_a_feed_of_a_quiet_space_is_told_the_cursor_all_the_same(live: bool) -> None:
    """Else it would go on, after a lost connection, from where it once began."""

    async def body(memory: Memory) -> None:
        feed = await memory.changes(("quiet",), after=None if live else Context())
        for number in range(4):
            through = await _put(memory, 1, space="loud", first=number)
        parts = await _parts(feed, through)
        assert {len(part.changes) for part in parts} == {0}
        await _put(memory, 1, space="quiet")
        assert (await anext(feed)).space == ("quiet",)

    with_memory(fresh_url(), body)


def test_a_cursor_within_a_batch_is_told_the_rest_of_it() -> None:
    """A retried commit answers with the dots of its first copy, which may end within a batch."""

    async def body(memory: Memory) -> None:
        through = await _put(memory, 5)
        last = through.vector[memory.replica_id]
        feed = await memory.changes(after=Context({memory.replica_id: last - 2}))
        (part,) = await _parts(feed, through)
        assert [change.key for change in part.changes] == ["k3", "k4"]

    with_memory(fresh_url(), body)


def test_a_cursor_that_is_ahead_of_this_replica_is_not_told_what_it_covers() -> None:
    """Who comes from another node may know more than this one."""

    async def story() -> None:
        world = await World.open()
        for _ in range(3):
            await world.elsewhere(0)
        feed = await world.memory.changes(after=Context({2: 2}))
        await world.join()
        assert [(await anext(feed)).dot for _ in range(1)] == ["0000000000000002:3"]
        await world.memory.close()

    asyncio.run(story())


def test_a_cursor_beyond_a_final_cut_is_a_gap_that_ends_at_the_cut() -> None:
    async def story() -> None:
        world = await World.open()
        for _ in range(2):
            await world.elsewhere(0)
        await world.join()
        world.memory.engine.replica.inbox.settle(2, 2)
        with pytest.raises(HistoryGap, match="was cut off") as caught:
            await world.memory.changes(after=Context({**world.published, 2: 5}))
        assert caught.value.details["missing"] == [[2, 3, 5]]
        resume = Context.parse(caught.value.details["resume"])
        assert resume == Context(world.published)
        feed = await world.memory.changes(after=resume)
        await world.write()
        assert (await anext(feed)).key == "k0"
        await world.memory.close()

    asyncio.run(story())


@pytest.mark.parametrize("reason", ["budget", "retention"])
def test_what_the_log_still_has_for_one_of_two_reasons_is_told(reason: str) -> None:
    async def story() -> None:
        world = await World.open()
        await world.write()
        await world.cut(budget=reason == "budget", retention=reason == "retention")
        feed = await world.memory.changes(after=Context())
        assert (await anext(feed)).key == "k0"
        await world.cut()
        with pytest.raises(HistoryGap):
            await world.memory.changes(after=Context())
        await world.memory.close()

    asyncio.run(story())


def test_what_is_durable_is_not_told_before_it_is_published() -> None:
    """As while a commit that failed, but did get through, is read back."""

    async def body(memory: Memory) -> None:
        runtime = memory.runtime
        await memory.space("s").put("seen", 1)
        held: list[Any] = []
        commit = runtime.run_in_store

        def holding(work: Any, done: Any) -> None:
            commit(work, lambda value, error: held.append((done, value, error)))

        runtime.run_in_store = holding  # type: ignore[method-assign]
        feed = await memory.changes(after=Context())
        writing = asyncio.ensure_future(memory.space("s").put("durable", 2))
        await eventually(lambda: held, "a commit")
        runtime._landed.set()
        assert (await anext(feed)).key == "seen"
        asked = asyncio.ensure_future(anext(feed))
        await eventually(lambda: feed._live, "a reader that is live")
        assert not asked.done()
        runtime.run_in_store = commit  # type: ignore[method-assign]
        done, value, error = held.pop()
        done(value, error)
        assert (await asked).key == "durable"
        await writing

    with_memory(fresh_url(), body)


# ------------------------------------------------------------------ bounds


def test_a_slow_reader_holds_a_queue_a_slice_and_a_part_at_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feeds, "QUEUE_BYTES", 4_000)
    monkeypatch.setattr(feeds, "_SLICE_BYTES", 4_000)

    async def body(memory: Memory) -> None:
        feed = await memory.changes()
        value = "v" * 1_000
        told = lags = 0
        for number in range(60):
            await memory.space("s").put(f"k{number}", value)
            held = sum(len(batch.data) for batch in feed._queue._batches)
            held += sum(len(record.data) for record in feed._records)
            assert held <= 10_000
            if number % 7 == 0:
                part = await feed.next()
                told += len(part.changes) if isinstance(part, Part) else 0
                lags += isinstance(part, Lagging)
        while told < 60:
            part = await feed.next()
            told += len(part.changes) if isinstance(part, Part) else 0
        assert lags
        assert feed.lagged >= lags

    with_memory(fresh_url(), body)


def test_replays_look_into_the_log_one_at_a_time_and_once_beside_a_commit_at_most() -> None:
    async def body(memory: Memory) -> None:
        runtime = memory.runtime
        for number in range(20):
            await memory.space("s").put(f"k{number}", number)
        order: list[str] = []
        commit, look = runtime.run_in_store, runtime.in_store

        def committing(work: Any, done: Any) -> None:
            def landed(value: Any, error: BaseException | None) -> None:
                order.append("landed")
                done(value, error)

            order.append("commit")
            commit(work, landed)

        def looking(work: Any) -> Any:
            order.append("look")
            found = look(work)
            found.add_done_callback(lambda _: order.append("seen"))
            return found

        readers = [await memory.changes(after=Context()) for _ in range(4)]
        runtime.run_in_store = committing  # type: ignore[method-assign]
        runtime.in_store = looking  # type: ignore[method-assign]

        async def read(feed: feeds.Feed) -> list[str]:
            return [(await anext(feed)).key for _ in range(30)]

        async def write() -> None:
            for number in range(20, 30):
                await memory.space("s").put(f"k{number}", number)

        *told, _ = await asyncio.gather(*map(read, readers), write())
        assert told == [[f"k{number}" for number in range(30)]] * 4
        assert order.count("look") >= 4 * 10
        looks = beside = 0
        committing_now = False
        for what in order:
            looks += {"look": 1, "seen": -1}.get(what, 0)
            committing_now = what == "commit" or (committing_now and what != "landed")
            beside = beside + (what == "look") if committing_now else 0
            assert looks <= 1
            assert beside <= 1

    with_memory(fresh_url(), body)


def test_a_feed_that_was_closed_or_whose_memory_was_says_so() -> None:
    async def story() -> None:
        memory = await opened(fresh_url())
        left, closed = await memory.changes(), await memory.changes(after=Context())
        await closed.close()
        await closed.close()
        with pytest.raises(Closed):
            await anext(closed)
        waiting = asyncio.ensure_future(left.next())
        await memory.close()
        with pytest.raises(Closed):
            await waiting
        with pytest.raises(Closed):
            await left.next()
        assert closed._queue not in memory.runtime.subscriptions

    asyncio.run(story())


def test_what_is_no_cursor_is_refused() -> None:
    async def body(memory: Memory) -> None:
        listening = len(memory.runtime.subscriptions)
        with pytest.raises(LimitExceeded):
            await memory.changes(after=Context(dict.fromkeys(range(1, 20_000), 1)))
        assert len(memory.runtime.subscriptions) == listening

    with_memory(fresh_url(), body)


# ------------------------------------------------------------------ a new id


async def _retire(memory: Memory, last: int) -> None:
    """Let a memory's id be given up, with a cut, and wait until it goes on under another."""
    old = memory.engine
    own = old.replica_id
    memory.runtime.apply(old.membership.retire("a test", {own: last}))
    await eventually(lambda: memory.engine is not old, "a new engine")
    await eventually(lambda: memory.engine.epoch.is_member, "a new member")


def test_a_feed_goes_on_where_its_replica_goes_on_under_a_new_id() -> None:
    async def story() -> None:
        memory = await opened(fresh_url())
        own = memory.replica_id
        reading, waiting, behind = [await memory.changes() for _ in range(3)]
        await memory.space("s").put("before", 1)
        assert (await anext(reading)).key == (await anext(waiting)).key == "before"
        asked = asyncio.ensure_future(anext(waiting))
        await _retire(memory, memory.engine.state.vector[own])
        assert memory.replica_id != own
        await memory.space("s").put("after", 2)
        assert (await anext(reading)).key == (await asked).key == "after"
        assert [(await anext(behind)).key for _ in range(2)] == ["before", "after"]
        await memory.close()

    asyncio.run(story())


def test_a_feed_ends_where_what_it_told_was_set_aside() -> None:
    async def story() -> None:
        memory = await opened(fresh_url())
        own = memory.replica_id
        told, untold = await memory.changes(), await memory.changes()
        through = await _put(memory, 1)
        await memory.space("s").put("aside", 1)
        assert [(await anext(told)).key for _ in range(2)] == ["k0", "aside"]
        last = through.vector[own]
        await _retire(memory, last)
        with pytest.raises(HistoryGap, match="was set aside") as caught:
            await anext(told)
        assert caught.value.details["missing"] == [[own, last + 1, last + 1]]
        resume = Context.parse(caught.value.details["resume"])
        assert resume == through
        again = await memory.changes(after=resume)
        await memory.space("s").put("after", 2)
        assert (await anext(again)).key == "after"
        # Who had not been told of it is told of what still stands.
        assert [(await anext(untold)).key for _ in range(2)] == ["k0", "after"]
        await memory.close()

    asyncio.run(story())
