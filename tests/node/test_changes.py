"""Change feeds over a socket and a WebSocket: parts, cursors, lags and gaps as embedded."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path

import pytest

from crdtmem import feeds
from crdtmem.causality import Context
from crdtmem.changes import Lagging, Part
from crdtmem.client import Client, connect
from crdtmem.errors import HistoryGap
from tests.client.places import serve, service_of
from tests.feed_worlds import World, small_feeds

Body = Callable[[World, Client], Awaitable[None]]
On = Callable[[Body], None]


@pytest.fixture(params=["unix", "websocket"])
def on(request: pytest.FixtureRequest, tmp_path: Path) -> On:
    """Run a body on a world whose memory is served, and a client of it."""

    async def run(body: Body) -> None:
        world = await World.open()
        try:
            async with (
                serve(service_of(world.memory), request.param, tmp_path) as url,
                await connect(url) as client,
                asyncio.timeout(30),
            ):
                await body(world, client)
        finally:
            await world.memory.close()

    def on_world(body: Body) -> None:
        with small_feeds():
            asyncio.run(run(body))

    return on_world


def test_parts_and_cursors_are_those_of_the_embedded_feed(on: On) -> None:
    async def body(world: World, client: Client) -> None:
        for count in (1, 7, 2):
            await world.write(count)
        await world.elsewhere(0, 2)
        await world.join()
        until = await world.memory.joined()
        near = await world.memory.changes(after=Context())
        far = await client.changes(after=Context())
        assert far.cursor == Context()
        while not until <= near.cursor:
            expected = await near.next()
            assert await far.next() == expected
            assert far.cursor == near.cursor
        await far.close()

    on(body)


def test_a_gap_says_from_where_to_go_on_when_it_is_met_and_at_the_beginning(on: On) -> None:
    async def body(world: World, client: Client) -> None:
        before = await client.joined()
        feed = await client.changes()
        await world.elsewhere(0, 3)
        await world.install(0)
        with pytest.raises(HistoryGap) as met:
            await feed.next()
        assert [list(span) for span in met.value.details["missing"]] == [[2, 1, 3]]
        await feed.close()
        with pytest.raises(HistoryGap) as at_once:
            await client.changes(after=before)
        assert at_once.value.details["resume"] == met.value.details["resume"]
        again = await client.changes(after=Context.parse(met.value.details["resume"]))
        await world.write()
        assert (await anext(again)).key == "k0"
        await again.close()

    on(body)


def test_who_does_not_read_is_told_of_it_and_then_everything(
    on: On, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(world: World, client: Client) -> None:
        monkeypatch.setattr(feeds, "CHANGES_PER_PART", 1_000)
        feed = await client.changes(limit_batches=2)
        # More than all the buffers on the way hold.
        for number in range(80):
            async with world.memory.transaction() as transaction:
                keys = [f"{number}-{index}-{'k' * 1_000}" for index in range(500)]
                transaction.put_many(("flood",), dict.fromkeys(keys, number))
        told: list[str] = []
        kinds: list[type] = []
        while len(told) < 40_000:
            part = await feed.next()
            kinds.append(type(part))
            told += [change.dot for change in part.changes] if isinstance(part, Part) else []
        assert len(set(told)) == 40_000
        assert kinds.count(Lagging) == feed.lagged > 0
        assert (Lagging, Lagging) not in pairwise(kinds)
        await feed.close()

    on(body)
