"""A client over each carrier: pipelining, bounds, refusals, nodes that are busy or odd."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from crdtmem.asking import Handler, Request
from crdtmem.causality import Context
from crdtmem.client import connect
from crdtmem.client_stream import OPEN_BYTES, OPEN_CALLS
from crdtmem.errors import (
    Closed,
    CrdtmemError,
    FrameTooLarge,
    InvalidValue,
    MalformedFrame,
    Unreachable,
)
from crdtmem.memory import Memory
from tests.client.served import play, served
from tests.node.processes import NodeProcess
from tests.waiting import eventually

SPACE = ("carried",)


# ------------------------------------------------------------------ calls


def test_many_calls_at_once_are_all_answered(carrier: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with served(carrier, tmp_path) as place, await connect(place.url) as client:
            space = client.space(*SPACE)
            count = 3 * OPEN_CALLS
            await asyncio.gather(*(space.put(f"{n}", n) for n in range(count)))
            keys = [f"{n}" for n in range(count)]
            assert await client.get_many(SPACE, keys) == list(range(count))
            assert await asyncio.gather(*(space.get(key) for key in keys)) == list(range(count))
            assert len(await space.keys()) == count
            assert len(place.service.connections) == 1
            assert len([record async for record in client.export(SPACE)]) == count

    play(scenario)


def test_many_registers_are_read_at_once_as_one_by_one(carrier: str, tmp_path: Path) -> None:
    values = [None, 1.5, True, "text", b"\x00", [1, {"a": [None]}], 2**63]

    async def scenario() -> None:
        async with served(carrier, tmp_path) as place, await connect(place.url) as client:
            space = client.space(*SPACE)
            for number, value in enumerate(values):
                await space.put(f"{number}", value)
            await space.register("short").set("gone", ttl_ms=1)
            keys = [*(f"{number}" for number in range(len(values))), "absent"]
            found = await client.get_many(SPACE, keys, at_least=client.seen)
            assert found == [*values, None]
            found[5].append("mine")
            assert (await client.get_many(SPACE, ["5"])) == [values[5]]
            assert await client.get_many(("nowhere",), ["a"]) == [None]
            assert await client.get_many(SPACE, []) == []
            many = [f"{number}" for number in range(25_000)]
            assert (await client.get_many(SPACE, many))[:7] == values
            with pytest.raises(CrdtmemError):
                await client.get_many(SPACE, [5])  # type: ignore[list-item]
            assert client.seen == await client.joined()

    play(scenario)


def test_large_answers_and_requests_cross(carrier: str, tmp_path: Path) -> None:
    """More than any buffer on the way holds, in both directions, and more than one turn's write."""

    async def scenario() -> None:
        async with served(carrier, tmp_path) as place, await connect(place.url) as client:
            space = client.space(*SPACE)
            large = os.urandom(client.limits.value_bytes - 100)
            await asyncio.gather(*(space.put(f"{n}", large) for n in range(40)))
            found = await client.get_many(SPACE, [f"{n}" for n in range(40)])
            assert found == [large] * 40
            with pytest.raises(FrameTooLarge):
                await client.call("read", b"x" * (client.limits.frame_bytes + 1))
            assert await space.get("1") == large

    play(scenario)


def test_unanswered_bytes_are_bounded(carrier: str, tmp_path: Path) -> None:
    """Calls beyond the credits wait for their turn in the client, however large they are."""
    held: list[Request] = []

    def verbs(_: Memory) -> dict[str, Handler]:
        return {"hold": lambda request, _: held.append(request)}

    def more_than(count: int) -> bool:
        return len(held) > count

    async def scenario() -> None:
        async with served(carrier, tmp_path, verbs) as place, await connect(place.url) as client:
            size = 1024 * 1024
            calls = [asyncio.ensure_future(client.call("hold", b"x" * size)) for _ in range(40)]
            await eventually(lambda: len(held) >= OPEN_BYTES // size, "requests")
            # The rest stays where it is, however long one waits.
            for _ in range(50):
                await asyncio.to_thread(int)
            assert len(held) * size <= OPEN_BYTES + size
            for number in range(40):
                await eventually(partial(more_than, number), "another request")
                held[number].set_result(None)
            await asyncio.gather(*calls)

    play(scenario)


def test_the_nodes_credits_bound_the_calls(carrier: str, tmp_path: Path) -> None:
    held: list[Request] = []

    def verbs(_: Memory) -> dict[str, Handler]:
        return {"hold": lambda request, _: held.append(request)}

    async def scenario() -> None:
        async with served(carrier, tmp_path, verbs) as place, await connect(place.url) as client:
            calls = [asyncio.ensure_future(client.call("hold", ())) for _ in range(2_000)]
            await eventually(lambda: len(held) == OPEN_CALLS, "as many as there are credits")
            for request in held[:OPEN_CALLS]:
                request.set_result(len(held))
            await eventually(lambda: len(held) == 2 * OPEN_CALLS, "the others")
            for request in held[OPEN_CALLS:]:
                request.set_result(None)
            await asyncio.gather(*calls)

    play(scenario)


def test_a_reader_that_takes_its_time_holds_up_its_own_connection_only(
    carrier: str, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with served(carrier, tmp_path) as place, await connect(place.url) as client:
            records = client.export(SPACE)
            for part in range(30):
                async with client.transaction() as opened:
                    keys = [f"{part}-{number}" for number in range(500)]
                    opened.put_many(SPACE, dict.fromkeys(keys, "x" * 1_000))
            first = await anext(records)
            assert first["space"] == SPACE
            assert await client.space(*SPACE).get("1-1")
            assert 1 + len([record async for record in records]) == 15_000

    play(scenario)


# ------------------------------------------------------------------ refusals and oddities


def test_closing_ends_what_is_under_way(carrier: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with served(carrier, tmp_path) as place:
            client = await connect(place.url)
            records = client.export()
            waiting = asyncio.ensure_future(client.wait_for(Context({5: 5}), timeout_ms=60_000))
            await client.joined()
            await client.close()
            await client.close()
            for call in (waiting, client.joined(), anext(records), client.changes()):
                with pytest.raises(Closed):
                    await call
            await eventually(lambda: not place.service.connections, "the end of all connections")

    play(scenario)


@pytest.mark.parametrize(
    "broken",
    [
        lambda greeting: {},
        lambda greeting: {**greeting, "replica": "x"},
        lambda greeting: {**greeting, "limits": {"frame_bytes": 10_000, "other": 1}},
        lambda greeting: {**greeting, "limits": None},
    ],
)
def test_a_greeting_that_makes_no_sense_is_refused(
    carrier: str, tmp_path: Path, broken: Callable[[dict[str, Any]], Any]
) -> None:
    async def scenario() -> None:
        async with served(carrier, tmp_path, greeting=broken) as place:
            with pytest.raises(MalformedFrame) as caught:
                await connect(place.url)
            assert caught.value.hint
            await eventually(lambda: not place.service.connections, "the end of the connection")

    play(scenario)


def test_what_cannot_cross_is_refused_before_it_is_sent(carrier: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with served(carrier, tmp_path) as place, await connect(place.url) as client:
            with pytest.raises(InvalidValue):
                await client.call("read", object())
            assert await client.joined() is not None

    play(scenario)


def test_a_web_server_that_is_no_node_is_told_from_one(tmp_path: Path) -> None:
    async def other(request: web.Request) -> web.StreamResponse:
        if request.path == "/text/v1/socket":
            socket = web.WebSocketResponse()
            await socket.prepare(request)
            await socket.send_str("hello")
            await socket.receive()
            return socket
        return web.Response(text="hello")

    async def scenario() -> None:
        app = web.Application()
        app.router.add_get("/{any:.*}", other)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        with pytest.raises(Unreachable, match="status 200"):
            await connect(f"http://{host}:{port}")
        with pytest.raises(MalformedFrame):
            await connect(f"http://{host}:{port}/text")
        await runner.cleanup()
        for url in (f"http://{host}:{port}", f"unix://{tmp_path}/nobody.sock"):
            with pytest.raises(Unreachable) as caught:
                await connect(url)
            assert caught.value.hint

    play(scenario)


def test_a_server_that_never_answers_is_unreachable_in_time(tmp_path: Path) -> None:
    ended: list[None] = []

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        ended.append(None)

    async def scenario() -> None:
        path = tmp_path / "silent.sock"
        async with (
            await asyncio.start_unix_server(silent, path),
            await asyncio.start_server(silent, "127.0.0.1", 0) as tcp,
        ):
            host, port = tcp.sockets[0].getsockname()
            for url in (f"unix://{path}", f"http://{host}:{port}"):
                with pytest.raises(Unreachable, match="in time"):
                    await connect(url, timeout_ms=100)
            await eventually(lambda: len(ended) == 2, "the end of both connections")

    play(scenario)


# ------------------------------------------------------------------ real processes


def test_a_node_that_serves_http_is_a_pause_away_when_it_is_killed(tmp_path: Path) -> None:
    """Over the WebSocket of a real node: what was acknowledged is there, and counts once."""

    async def scenario() -> None:
        node = NodeProcess(tmp_path, "--region=here", "--http=127.0.0.1:0")
        await asyncio.to_thread(node.start)
        port = node.ready["http"].rpartition(":")[2]
        node.arguments[-1] = f"--http=127.0.0.1:{port}"
        try:
            async with await connect(node.ready["http"], timeout_ms=20_000) as client:
                counter = client.space(*SPACE).counter("n")
                done = 0

                async def count() -> None:
                    nonlocal done
                    for _ in range(100):
                        await counter.increment()
                        done += 1

                counting = [asyncio.create_task(count()) for _ in range(3)]
                await eventually(lambda: done > 30, "increments")
                node.kill()
                await asyncio.to_thread(node.start)
                await asyncio.gather(*counting)
                assert await counter.get() == 300
                feed = await client.changes(SPACE)
                await client.space(*SPACE).put("key", 1)
                assert (await anext(feed)).key == "key"
        finally:
            await asyncio.to_thread(node.kill)

    play(scenario)


def test_users_of_the_unix_socket_do_not_pay_for_http(tmp_path: Path) -> None:
    """The library behind the WebSocket is imported by whoever connects to one."""
    program = (
        "import sys, crdtmem.client\n"
        "sys.exit(any(name.partition('.')[0] in ('aiohttp', 'yarl') for name in sys.modules))\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
