"""A feed of changes, over connections and nodes that are lost: each change once, in order."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from crdtmem.causality import Context
from crdtmem.changes import Change, Part
from crdtmem.client import Client, connect
from crdtmem.errors import Closed, Unreachable
from crdtmem.session import ChangeFeed
from tests.client.places import Gate, Pair, pair_of_nodes
from tests.node.processes import NodeProcess
from tests.waiting import eventually

SPACE = ("fed",)


def play(folder: Path, scenario: Callable[[NodeProcess], Awaitable[None]]) -> None:
    """Play a scenario with one node."""

    async def run() -> None:
        node = NodeProcess(folder, "--region=here")
        await asyncio.to_thread(node.start)
        try:
            async with asyncio.timeout(50):
                await scenario(node)
        finally:
            await asyncio.to_thread(node.kill)

    asyncio.run(run())


def play_two(folder: Path, scenario: Callable[[Pair], Awaitable[None]]) -> None:
    """Play a scenario with two nodes."""

    async def run() -> None:
        async with pair_of_nodes(folder) as pair, asyncio.timeout(50):
            await scenario(pair)

    asyncio.run(run())


async def take(feed: ChangeFeed, last_key: str) -> list[Change]:
    """Read until the change of a key has come."""
    changes: list[Change] = []
    while not changes or changes[-1].key != last_key:
        changes.append(await anext(feed))
    return changes


def check_once_each_in_order(changes: list[Change]) -> None:
    """No dot comes twice, and those of one replica come in order, without a gap."""
    by_replica: dict[str, list[int]] = {}
    for change in changes:
        replica, _, sequence = change.dot.partition(":")
        by_replica.setdefault(replica, []).append(int(sequence))
    for sequences in by_replica.values():
        assert sequences == list(range(sequences[0], sequences[0] + len(sequences)))


async def write(client: Client, label: str, count: int) -> None:
    for number in range(count):
        await client.space(*SPACE).put(f"{label}-{number}", number)


def test_a_feed_goes_on_when_its_node_is_back(tmp_path: Path) -> None:
    async def scenario(node: NodeProcess) -> None:
        async with await connect(node.url, timeout_ms=20_000) as client:
            feed = await client.changes(SPACE)
            await write(client, "a", 20)
            changes = await take(feed, "a-19")
            node.kill()
            reading = asyncio.ensure_future(take(feed, "b-19"))
            await asyncio.to_thread(node.start)
            await write(client, "b", 20)
            changes += await reading
            check_once_each_in_order(changes)
            assert len(changes) == 40

    play(tmp_path, scenario)


def test_a_feed_goes_on_at_the_other_node(tmp_path: Path) -> None:
    async def scenario(pair: Pair) -> None:
        async with (
            await connect(pair.a.url, pair.b.url) as client,
            await connect(pair.b.url) as other,
        ):
            feed = await client.changes(SPACE)
            await write(client, "a", 50)
            await write(other, "b", 50)
            # Some were handed over when the node dies, some were not, of either's.
            changes = await take(feed, "a-49")
            await other.wait_for(client.seen)
            pair.a.kill()
            await write(other, "c", 50)
            changes += await take(feed, "c-49")
            await client.joined()
            assert client.region == "b"
            # What the dead one wrote comes once, though it tells of it again.
            await pair.start(pair.a)
            async with await connect(pair.a.url, timeout_ms=20_000) as again:
                await write(again, "d", 10)
            changes += await take(feed, "d-9")
            check_once_each_in_order(changes)
            assert len(changes) == 160

    play_two(tmp_path, scenario)


def test_a_transaction_that_is_cut_in_the_middle_is_told_once(tmp_path: Path) -> None:
    """A large batch comes in pieces, and no cursor is given out within it."""

    async def scenario(node: NodeProcess) -> None:
        gate = Gate(tmp_path / "gate.sock", node.socket)
        await gate.open()
        async with await connect(node.url) as writer, await connect(gate.url) as client:
            feed = await client.changes(SPACE)
            cursor = feed.cursor
            gate.limit = gate.forwarded + 200_000
            async with writer.transaction() as opened:
                opened.put_many(SPACE, {f"key-{number:05}": number for number in range(9_000)})
            part = await feed.next()
            assert isinstance(part, Part)
            assert part.cursor is None, "the batch is too small for the test"
            assert feed.cursor == cursor
            await writer.space(*SPACE).put("last", 1)
            changes = [*part.changes, *await take(feed, "last")]
            assert gate.limit == -1, "nothing was cut"
            assert gate.connections > 2
            check_once_each_in_order(changes)
            assert len(changes) == 9_001
            assert feed.cursor >= client.seen
        await gate.shut()

    play(tmp_path, scenario)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_cuts_at_any_time_neither_repeat_nor_skip(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)

    async def scenario(node: NodeProcess) -> None:
        gate = Gate(tmp_path / "gate.sock", node.socket)
        await gate.open()
        async with await connect(node.url) as writer, await connect(gate.url) as client:
            feed = await client.changes(SPACE)
            changes: list[Change] = []

            async def read() -> None:
                changes.extend(await take(feed, "last"))

            reading = asyncio.create_task(read())
            for number in range(30):
                async with writer.transaction() as opened:
                    keys = [f"{number}-{index}" for index in range(chance.randrange(1, 3_000))]
                    opened.put_many(SPACE, dict.fromkeys(keys, number))
                gate.limit = gate.forwarded + chance.randrange(100_000)
            await writer.space(*SPACE).put("last", 1)
            await reading
            assert gate.connections > 5, "too few cuts"
            check_once_each_in_order(changes)
            assert (
                changes[-1].dot
                == (await writer.space(*SPACE).register("last").read()).siblings[0].dot
            )
        await gate.shut()

    play(tmp_path, scenario)


def test_what_a_feed_tells_is_there_to_be_read(tmp_path: Path) -> None:
    """Also where the feed's node is ahead of the one that is read from."""

    async def scenario(pair: Pair) -> None:
        gate = Gate(tmp_path / "gate.sock", pair.a.socket)
        await gate.open()
        async with (
            await connect(gate.url, pair.b.url, timeout_ms=20_000) as client,
            await connect(pair.a.url) as writer,
        ):
            feed = await client.changes(SPACE)
            # Only the connection of the calls is cut; the feed's own stays.
            gate.cut(1)
            await client.joined()
            assert client.region == "b"
            pair.part()
            await writer.space(*SPACE).put("key", "told")
            assert (await anext(feed)).key == "key"
            reading = asyncio.ensure_future(client.space(*SPACE).get("key"))
            await eventually(lambda: client.nodes.is_seeking, "a wait")
            pair.join()
            assert await reading == "told"
        await gate.shut()

    play_two(tmp_path, scenario)


def test_a_feed_whose_nodes_are_gone_says_so_and_can_be_read_on(tmp_path: Path) -> None:
    async def scenario(node: NodeProcess) -> None:
        async with await connect(node.url, timeout_ms=300) as client:
            feed = await client.changes(SPACE)
            await write(client, "a", 1)
            changes = await take(feed, "a-0")
            node.kill()
            for _ in range(2):
                with pytest.raises(Unreachable):
                    await anext(feed)
            await asyncio.to_thread(node.start)
            async with await connect(node.url) as writer:
                await write(writer, "b", 1)
            changes += await take(feed, "b-0")
            check_once_each_in_order(changes)

    play(tmp_path, scenario)


def test_a_cancelled_reader_loses_nothing(tmp_path: Path) -> None:
    async def scenario(node: NodeProcess) -> None:
        gate = Gate(tmp_path / "gate.sock", node.socket)
        await gate.open()
        async with await connect(node.url) as writer, await connect(gate.url) as client:
            feed = await client.changes(SPACE)
            changes: list[Change] = []
            for number in range(60):
                reading = asyncio.ensure_future(anext(feed))
                if number % 3 == 0:
                    gate.cut()
                writing = asyncio.ensure_future(writer.space(*SPACE).put(f"{number}", number))
                for _ in range(number % 11):
                    await asyncio.wait({reading}, timeout=0.0)
                if reading.cancel():
                    await asyncio.wait({reading})
                if not reading.cancelled():
                    changes.append(reading.result())
                await writing
            await writer.space(*SPACE).put("last", 1)
            changes += await take(feed, "last")
            check_once_each_in_order(changes)
            assert len(changes) == 61
        await gate.shut()

    play(tmp_path, scenario)


def test_a_feed_goes_on_from_a_cursor_in_another_client(tmp_path: Path) -> None:
    async def scenario(node: NodeProcess) -> None:
        async with await connect(node.url) as client:
            feed = await client.changes(SPACE)
            await write(client, "a", 5)
            changes = await take(feed, "a-4")
            cursor = Context.parse(str(feed.cursor))
            await feed.close()
            await write(client, "b", 5)
        async with await connect(node.url) as client:
            feed = await client.changes(SPACE, after=cursor)
            changes += await take(feed, "b-4")
            check_once_each_in_order(changes)

    play(tmp_path, scenario)


def test_a_closed_feed_ends_its_reader(tmp_path: Path) -> None:
    async def scenario(node: NodeProcess) -> None:
        async with await connect(node.url) as client:
            feed = await client.changes(SPACE)
            reading = asyncio.ensure_future(anext(feed))
            await asyncio.wait({reading}, timeout=0.01)
            await feed.close()
            await feed.close()
            with pytest.raises(Closed):
                await reading
            other = await client.changes(SPACE)
            reading = asyncio.ensure_future(anext(other))
        with pytest.raises(Closed):
            await reading
        with pytest.raises(Closed):
            await anext(other)
        patient = await connect(node.url, retry=False)
        feed = await patient.changes(SPACE)
        node.kill()
        with pytest.raises(Unreachable):
            await anext(feed)
        with pytest.raises(Closed):
            await anext(feed)
        await patient.close()

    play(tmp_path, scenario)
