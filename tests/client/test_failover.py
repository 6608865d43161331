"""Two real nodes, one client: a node is lost, and what was seen stays seen."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from crdtmem.causality import Context
from crdtmem.client import Client, connect
from crdtmem.errors import Closed, NotCovered, Unreachable
from tests.client.places import Gate, Pair, pair_of_nodes
from tests.waiting import eventually, eventually_answered

SPACE = ("fleet",)


def play(folder: Path, scenario: Callable[[Pair], Awaitable[None]]) -> None:
    """Play a scenario with two nodes."""

    async def run() -> None:
        async with pair_of_nodes(folder) as pair, asyncio.timeout(50):
            await scenario(pair)

    asyncio.run(run())


async def count_at(url: str, key: str) -> int:
    """Ask one node alone what a counter shows there."""
    async with await connect(url) as client:
        value: int = await client.space(*SPACE).counter(key).get()
        return value


async def settled(pair: Pair, key: str, expected: int) -> None:
    """Wait until both nodes hold the same, and show ``expected``."""

    async def agreed() -> bool:
        digests = set()
        for node in (pair.a, pair.b):
            async with await connect(node.url) as client:
                digests.add((await client.call("status", ()))["digest"])
        counts = {await count_at(node.url, key) for node in (pair.a, pair.b)}
        return len(digests) == 1 and counts == {expected}

    await eventually_answered(agreed, f"agreement on {expected}")


def test_the_first_node_that_can_be_used_is(tmp_path: Path) -> None:
    async def scenario(pair: Pair) -> None:
        nowhere = f"unix://{tmp_path}/nobody.sock"
        async with await connect(nowhere, pair.b.url, pair.a.url) as client:
            assert client.region == "b"
        async with await connect(pair.a.url, pair.b.url) as client:
            assert client.region == "a"
        with pytest.raises(Unreachable, match=r"nobody.*no one"):
            await connect(nowhere, f"unix://{tmp_path}/no one.sock", timeout_ms=300)

    play(tmp_path, scenario)


def test_a_killed_node_is_a_pause_for_calls_under_way(tmp_path: Path) -> None:
    """Writers, readers and a session go on at the other node; each increment counts once."""
    each = 200

    async def scenario(pair: Pair) -> None:
        async with await connect(pair.a.url, pair.b.url) as client:
            session = client.session(author="ann")
            counter = session.space(*SPACE).counter("exact")
            done = 0

            async def count() -> None:
                nonlocal done
                for _ in range(each):
                    await counter.increment()
                    done += 1

            counting = [asyncio.create_task(count()) for _ in range(4)]
            await eventually(lambda: done > each, "increments")
            assert client.region == "a"
            # What only the dead node holds is waited for, so it is started again beside this.
            pair.a.kill()
            again = asyncio.create_task(pair.start(pair.a))
            await asyncio.gather(*counting)
            await again
            assert done == 4 * each
            assert client.seen >= session.context
        await settled(pair, "exact", 4 * each)

    play(tmp_path, scenario)


def test_own_writes_are_read_at_the_next_node(tmp_path: Path) -> None:
    async def scenario(pair: Pair) -> None:
        async with await connect(pair.a.url, pair.b.url) as client:
            for number in range(50):
                await client.space(*SPACE).put("key", number)
            async with await connect(pair.b.url) as other:
                await other.wait_for(client.seen)
            pair.a.kill()
            assert await client.space(*SPACE).get("key") == 49
            assert client.region == "b"
            assert client.replica_id == int(pair.b.ready["replica"], 16)
            # There it stays, though the one that was named first is back.
            await pair.start(pair.a)
            await client.space(*SPACE).put("key", 50)
            assert client.region == "b"

    play(tmp_path, scenario)


async def write_beyond(pair: Pair, client: Client) -> None:
    """Let ``a`` take a write that ``b`` does not hear of, and die."""
    await client.space(*SPACE).put("key", "old")
    async with await connect(pair.b.url) as other:
        await other.wait_for(client.seen)
    pair.part()
    await client.space(*SPACE).put("key", "new")
    pair.a.kill()


def test_a_node_that_lacks_what_was_seen_is_not_used_until_it_has_it(tmp_path: Path) -> None:
    async def scenario(pair: Pair) -> None:
        async with await connect(pair.a.url, pair.b.url, timeout_ms=900) as client:
            await write_beyond(pair, client)
            for ask in (
                client.space(*SPACE).get("key"),
                client.space(*SPACE).put("key", "newer"),
                client.joined(),
            ):
                with pytest.raises(NotCovered, match="this client has seen") as caught:
                    await ask
                assert "forget_seen" in caught.value.hint
                assert Context.parse(caught.value.details["context"]) == client.seen
            async with await connect(pair.b.url) as other:
                assert await other.space(*SPACE).get("key") == "old"
                pair.join()
                await pair.start(pair.a)
                await other.wait_for(client.seen)
            assert await client.space(*SPACE).get("key") == "new"

    play(tmp_path, scenario)


def test_what_only_was_read_is_not_unread_at_the_next_node(tmp_path: Path) -> None:
    """Monotonic reads: by reading, listing, or a feed, each of which shows another's write."""

    async def scenario(pair: Pair) -> None:
        async with await connect(pair.a.url) as writer:
            await writer.space(*SPACE).put("key", "old")
            pair.part()
            await writer.space(*SPACE).put("new", 1)
        ways: list[Callable[[Client], Awaitable[object]]] = [
            lambda client: client.space(*SPACE).get("new"),
            lambda client: client.space(*SPACE).keys(),
            lambda client: client.get_many(SPACE, ["new"]),
            lambda client: client.spaces(),
            lambda client: client.conflicts(),
            lambda client: client.joined(),
        ]
        clients = []
        for way in ways:
            client = await connect(pair.a.url, pair.b.url, timeout_ms=600)
            assert client.seen == Context()
            await way(client)
            clients.append(client)
        unmoved = await connect(pair.a.url, pair.b.url, timeout_ms=600)
        pair.a.kill()
        for client in clients:
            with pytest.raises(NotCovered):
                await client.space(*SPACE).get("new")
            await client.close()
        # Who has seen nothing asks for nothing.
        assert await unmoved.space(*SPACE).get("new") is None
        await unmoved.close()

    play(tmp_path, scenario)


@pytest.mark.slow
def test_the_guarantee_can_be_given_up(tmp_path: Path) -> None:
    async def scenario(pair: Pair) -> None:
        async with await connect(pair.a.url, pair.b.url, timeout_ms=20_000) as client:
            await write_beyond(pair, client)
            reading = asyncio.ensure_future(client.space(*SPACE).get("key"))
            await eventually(lambda: client.nodes.is_seeking, "a search")
            client.forget_seen()
            assert await reading == "old"
            await client.space(*SPACE).put("key", "other")
            assert await client.space(*SPACE).get("key") == "other"

    play(tmp_path, scenario)


@pytest.mark.slow
def test_what_was_seen_can_be_handed_on_to_another_process(tmp_path: Path) -> None:
    async def scenario(pair: Pair) -> None:
        async with await connect(pair.a.url) as client:
            await write_beyond(pair, client)
            seen = Context.parse(str(client.seen))
        with pytest.raises(NotCovered):
            await connect(pair.b.url, timeout_ms=300, seen=seen)
        pair.join()
        connecting = asyncio.ensure_future(connect(pair.b.url, timeout_ms=20_000, seen=seen))
        await pair.start(pair.a)
        async with await connecting as client:
            assert await client.space(*SPACE).get("key") == "new"

    play(tmp_path, scenario)


@pytest.mark.parametrize("known", [True, False])
def test_an_increment_whose_answer_is_lost_counts_once(tmp_path: Path, known: bool) -> None:
    """The commit gets through, its answer does not, and the other node is asked again.

    Where that node knows the operation's id already it answers with the first outcome. Where
    it cannot, both are written; when the two hear of each other one is taken back.
    """

    async def scenario(pair: Pair) -> None:
        gate = Gate(tmp_path / "gate.sock", pair.a.socket)
        await gate.open()
        async with await connect(gate.url, pair.b.url) as client:
            counter = client.space(*SPACE).counter("lost")
            await counter.increment(5)
            async with await connect(pair.b.url) as other:
                await other.wait_for(client.seen)
            if not known:
                pair.part()
            gate.swallowing = True
            async with client.transaction() as opened:
                opened.space(*SPACE).counter("lost").increment(7)
                committing = asyncio.ensure_future(client.commit(opened.transaction))
                for node in (pair.a, pair.b) if known else (pair.a,):

                    async def arrived(url: str = node.url) -> bool:
                        return await count_at(url, "lost") == 12

                    await eventually_answered(arrived, "the commit")
                assert not committing.done()
                await gate.shut()
                outcome = await committing
                assert client.region == "b"
                assert outcome.repeated is known
                assert await counter.get() == 12
                # What the block commits at its end is the very same operation.
            assert opened.committed is not None
            assert opened.committed.repeated
            pair.join()
            await settled(pair, "lost", 12)

    play(tmp_path, scenario)


@pytest.mark.parametrize("idle", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_node_that_stands_still_is_given_up_for_the_next(tmp_path: Path, idle: bool) -> None:
    """A stopped process keeps its sockets; only its silence tells."""

    async def scenario(pair: Pair) -> None:
        async with await connect(pair.a.url, pair.b.url, timeout_ms=3_000) as client:
            await client.space(*SPACE).put("key", 1)
            async with await connect(pair.b.url) as other:
                await other.wait_for(client.seen)
            if idle:
                await client.joined()
            waiting = asyncio.ensure_future(client.wait_for(Context({5: 5}), timeout_ms=60_000))
            pair.a.signal(signal.SIGSTOP)
            try:
                assert await client.space(*SPACE).get("key") == 1
                assert client.region == "b"
                await client.space(*SPACE).put("key", 2)
                # A long question went along, and is asked there.
                assert not waiting.done()
                waiting.cancel()
            finally:
                pair.a.signal(signal.SIGCONT)

    play(tmp_path, scenario)


@pytest.mark.slow
def test_a_node_that_only_has_nothing_to_say_is_kept(tmp_path: Path) -> None:
    """Waiting longer than the patience with a silent node is no silence: it answers a ping."""

    async def scenario(pair: Pair) -> None:
        async with await connect(pair.a.url, pair.b.url, timeout_ms=3_000) as client:
            with pytest.raises(NotCovered, match="stands on"):
                await client.wait_for(Context({5: 5}), timeout_ms=2_500)
            assert client.region == "a"

    play(tmp_path, scenario)


def test_a_node_that_stops_gracefully_is_left_for_the_next(tmp_path: Path) -> None:
    async def scenario(pair: Pair) -> None:
        async with await connect(pair.a.url, pair.b.url) as client:
            space = client.space(*SPACE)
            done = 0

            async def write(name: str) -> None:
                nonlocal done
                for number in range(100):
                    await space.put(name, number)
                    done += 1

            writing = [asyncio.create_task(write(f"{number}")) for number in range(4)]
            await eventually(lambda: done > 50, "writes")
            stopping = asyncio.create_task(asyncio.to_thread(pair.a.stop))
            await asyncio.gather(*writing)
            assert await stopping == 0
            assert client.region == "b"
            assert [await space.get(f"{number}") for number in range(4)] == [99] * 4

    play(tmp_path, scenario)


def test_when_all_are_gone_calls_say_so_by_their_deadline_and_work_when_one_is_back(
    tmp_path: Path,
) -> None:
    async def scenario(pair: Pair) -> None:
        client = await connect(pair.a.url, pair.b.url, timeout_ms=500)
        await client.space(*SPACE).put("key", 1)
        pair.a.kill()
        pair.b.kill()
        with pytest.raises(Unreachable) as caught:
            await client.space(*SPACE).put("key", 2)
        assert caught.value.details["operation_id"]
        assert str(pair.a.socket) in caught.value.message
        assert str(pair.b.socket) in caught.value.message
        await pair.start(pair.a)
        assert await client.space(*SPACE).get("key") == 1
        await client.close()
        with pytest.raises(Closed):
            await client.space(*SPACE).get("key")

    play(tmp_path, scenario)
