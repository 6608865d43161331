"""Nodes over real TCP: they meet, replicate, lose each other, and meet again."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from crdtmem.client import Client
from crdtmem.errors import DurabilityTimeout, InvalidValue
from tests.node.cluster import clients_of, converge, make_cluster
from tests.node.processes import NodeProcess, crdtmem, start_all
from tests.waiting import eventually, eventually_answered

REGIONS = ("eu", "us", "ap")


@pytest.fixture(params=["plain", "sealed"])
def trio(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[list[NodeProcess]]:
    nodes = make_cluster(tmp_path, REGIONS, sealed=request.param == "sealed")
    start_all(nodes)
    yield nodes
    for node in nodes:
        node.kill()


async def write_some(client: Client, label: str, count: int = 20) -> None:
    space = client.session(author=label).space("shared")
    for number in range(count):
        await space.put(f"{label}-{number}", number)
        await space.put("contested", f"{label}-{number}")
        await space.counter("writes").increment()
        await space.set("writers").add(label)
        await space.log("history").append(f"{label}-{number}")


async def check(client: Client, writers: set[str], count: int) -> None:
    space = client.space("shared")
    assert await space.counter("writes").get() == count
    assert set(await space.set("writers").get()) == writers
    history = await space.log("history").get()
    assert len(history) == len(set(history)) == count


def test_three_regions_write_at_once_and_converge(trio: list[NodeProcess]) -> None:
    async def scenario() -> None:
        async with clients_of(trio) as clients:
            await asyncio.gather(
                *(
                    write_some(client, region)
                    for client, region in zip(clients, REGIONS, strict=True)
                )
            )
            assert await converge(clients)
            for client in clients:
                await check(client, set(REGIONS), 60)
            readings = [await c.space("shared").register("contested").read() for c in clients]
            assert len({reading.value for reading in readings}) == 1
            assert len({reading.observed for reading in readings}) == 1

    asyncio.run(scenario())
    assert [node.stop() for node in trio] == [0, 0, 0]


def test_a_killed_node_catches_up_when_it_is_back(trio: list[NodeProcess]) -> None:
    async def scenario() -> None:
        async with clients_of(trio) as clients:
            await asyncio.gather(*(write_some(c, r) for c, r in zip(clients, REGIONS, strict=True)))
            await converge(clients)
            trio[2].kill()
            await asyncio.gather(*(write_some(clients[i], f"more-{i}") for i in range(2)))
            await asyncio.to_thread(trio[2].start)
            await write_some(clients[2], "back")
            await converge(clients)
            for client in clients:
                await check(client, {*REGIONS, "more-0", "more-1", "back"}, 120)

    asyncio.run(scenario())


def test_a_frozen_region_does_not_stop_the_others_and_durability_says_so(
    trio: list[NodeProcess],
) -> None:
    """SIGSTOP is the blackest of holes: the streams stay open, and nothing is answered."""
    frozen = trio[1]

    async def scenario() -> None:
        async with clients_of(trio) as clients:
            writer = clients[0]
            await writer.session(durability="all").space("a").put("warm", True)
            frozen.signal(signal.SIGSTOP)
            await writer.session(durability="majority").space("a").put("key", 1)
            with pytest.raises(DurabilityTimeout) as caught:
                await writer.session(durability="all", timeout_ms=200).space("a").put("key", 2)
            assert sorted(caught.value.details["reached"]) == ["ap", "eu"]
            # Nothing is undone.
            assert await writer.space("a").get("key") == 2
            frozen.signal(signal.SIGCONT)
            await writer.session(durability="all").space("a").put("key", 3)
            await converge(clients)
            assert await clients[1].space("a").get("key") == 3

    asyncio.run(scenario())


def test_a_chain_relays_and_one_side_naming_the_other_is_enough(tmp_path: Path) -> None:
    async def scenario(nodes: list[NodeProcess]) -> None:
        async with clients_of(nodes) as clients:
            await write_some(clients[0], "eu")
            await write_some(clients[1], "us")
            await converge(clients)
            status = await clients[0].call("status", ())
            (peer,) = status["peers"]
            assert (peer["configured"], peer["connected"]) == (True, True)
            (peer,) = (await clients[1].call("status", ()))["peers"]
            assert (peer["configured"], peer["connected"]) == (False, True)

    nodes = make_cluster(tmp_path, ["eu", "us"], dialling="later")
    with contextlib.ExitStack() as stack:
        asyncio.run(scenario([stack.enter_context(node) for node in nodes]))


def test_another_cluster_is_kept_out_and_named(tmp_path: Path) -> None:
    ours, theirs = make_cluster(tmp_path, ["eu", "us"])
    theirs.arguments.append("--cluster=staging")

    async def scenario() -> None:
        async with clients_of([ours, theirs]) as clients:

            async def refused() -> bool:
                (peer,) = (await clients[0].call("status", ()))["peers"][:1]
                return "cluster" in str(peer["error"] or "")

            await eventually_answered(refused, "refusal that names the cluster")

    with ours, theirs:
        asyncio.run(scenario())


def test_strangers_at_the_port_harm_nothing(trio: list[NodeProcess]) -> None:
    host, port = trio[0].ready["listen"].rsplit(":", 1)
    chance = random.Random(7)
    with contextlib.ExitStack() as stack:
        for length in (0, 1, 100, 100_000):
            stranger = stack.enter_context(socket.create_connection((host, int(port)), timeout=10))
            with contextlib.suppress(ConnectionError):
                stranger.sendall(chance.randbytes(length))

        async def scenario() -> None:
            async with clients_of(trio) as clients:
                await asyncio.gather(
                    *(write_some(c, r, 5) for c, r in zip(clients, REGIONS, strict=True))
                )
                await converge(clients)

        asyncio.run(scenario())


def test_a_restored_backup_joins_as_somebody_else_and_loses_nothing(
    trio: list[NodeProcess], tmp_path: Path
) -> None:
    backup = tmp_path / "backup.db"

    async def before() -> None:
        async with clients_of(trio) as clients:
            await write_some(clients[2], "ap")
            done = crdtmem("backup", str(backup), "--node", trio[2].url)
            assert done.returncode == 0, done.stderr
            await write_some(clients[2], "after the backup")
            await converge(clients)

    asyncio.run(before())
    first = trio[2].ready["replica"]
    trio[2].kill()
    for path in trio[2].folder.glob("store.db*"):
        path.unlink()
    done = crdtmem("restore", str(backup), str(trio[2].folder / "store.db"))
    assert done.returncode == 0, done.stderr
    trio[2].start()
    assert trio[2].ready["replica"] != first

    async def after() -> None:
        async with clients_of(trio) as clients:
            await write_some(clients[2], "restored")
            await converge(clients)
            for client in clients:
                await check(client, {"ap", "after the backup", "restored"}, 60)

    asyncio.run(after())


def test_a_copied_store_is_a_new_replica(node: NodeProcess, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    assert node.stop() == 0
    for path in node.folder.glob("store.db*"):
        shutil.copy(path, copy / path.name)
    node.start()
    with NodeProcess(copy) as clone:
        assert clone.ready["replica"] != node.ready["replica"]


def test_a_node_without_its_peers_says_so_and_answers_when_they_come(tmp_path: Path) -> None:
    nodes = make_cluster(tmp_path, ["eu", "us"])

    async def scenario() -> None:
        async with clients_of(nodes[:1]) as (alone,):
            writing = asyncio.ensure_future(alone.space("a").put("key", 1))
            status = await alone.call("status", ())
            assert status["member"] is False
            assert not writing.done()
            await asyncio.to_thread(nodes[1].start)
            await writing
            status = await alone.call("status", ())
            assert status["member"] is True
            await eventually(lambda: writing.done(), "the write")

    with nodes[0], contextlib.ExitStack() as stack:
        stack.callback(lambda: nodes[1].end(signal.SIGKILL))
        asyncio.run(scenario())


def test_what_an_evicted_node_wrote_alone_is_set_aside_and_rescued_once(
    trio: list[NodeProcess],
) -> None:
    lost = trio[2]
    evicted = int(lost.ready["replica"], 16)

    async def write_alone() -> None:
        async with clients_of(trio) as clients:
            await write_some(clients[2], "together", 3)
            await until_settled(clients)
            # What members have acknowledged survives a kill by checkpoints only.
            for client in clients:
                await client.call("checkpoint", ())
            for other in trio[:2]:
                other.kill()
            alone = clients[2].session(author="hermit").space("shared")
            await alone.put("alone", "precious")
            await alone.counter("writes").increment(10)
            lost.kill()
            start_all(trio[:2])

    async def evict_and_rescue() -> None:
        async with clients_of(trio[:2]) as survivors:
            await survivors[0].call("evict", (evicted, False))
            for survivor in survivors:
                await until_gone(survivor, evicted)
            await survivors[0].space("shared").put("meanwhile", 1)
            await asyncio.to_thread(lost.start)
            async with clients_of([lost]) as (returned,):
                await until_new(returned, evicted)
                await converge([*survivors, returned])
                assert await returned.space("shared").get("alone") is None
                listed = await rescue_list(returned)
                assert [(w["key"], w["state"], w["author"]) for w in listed] == [
                    ("alone", "lost", "hermit"),
                    ("writes", "lost", "hermit"),
                ]
                await rescued(returned)
                await converge([*survivors, returned])
                for client in [*survivors, returned]:
                    assert await client.space("shared").get("alone") == "precious"
                    assert await client.space("shared").counter("writes").get() == 3 + 10
                assert {w["state"] for w in await rescue_list(returned)} == {"rescued"}
                again = await returned.call("rescue", (None,))
                assert (again["written"], again["already"]) == (0, 2)

    asyncio.run(write_alone())
    asyncio.run(evict_and_rescue())


async def until_settled(clients: list[Client]) -> None:
    """Wait until every node knows all members, and that they have acknowledged everything."""
    for client in clients:
        while True:
            status = await client.call("status", ())
            if len(status["members"]) == len(clients) and not any(status["lag"].values()):
                break


async def until_gone(client: Client, replica: int) -> None:
    while True:
        if f"{replica:016x}" not in (await client.call("status", ()))["members"]:
            return


async def until_new(client: Client, former: int) -> None:
    while True:
        status = await client.call("status", ())
        if status["replica"] != f"{former:016x}" and status["member"]:
            return


async def rescue_list(client: Client) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    async with await client.events("rescue_list", (), idle_ms=10_000) as events:
        async for part in events:
            found += part
    return found


async def rescued(client: Client) -> None:
    """Rescue all, as soon as it is certain that this node is the one to do it."""
    while True:
        try:
            outcome = await client.call("rescue", (None,))
        except InvalidValue as error:
            if "not certain yet" not in error.message:
                raise
            continue
        assert outcome == {"written": 2, "already": 0, "failed": ()}
        return
