"""Slow, silent and too many clients: bounded in time, in number and in memory."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from crdtmem.causality import Context
from tests.server.serving import Served, run
from tests.waiting import eventually

_CITY = "/v1/spaces/team/register/city"


def test_a_head_that_trickles_is_cut_off(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        wire = await served.wire()
        wire.send(f"GET {_CITY} HTTP/1.1\r\nHost: local".encode())
        status, headers, body = await wire.answer()
        assert (status, json.loads(body)["code"]) == (408, "request_timeout")
        assert headers["connection"] == "close"
        assert await wire.rest() == b""
        await wire.close()

    run(tmp_path, scene, http__receive_ms=200)


def test_the_second_head_of_a_connection_has_its_deadline_too(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        wire = await served.wire()
        request = f"GET {_CITY} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        wire.send(request)
        assert (await wire.answer())[0] == 200
        wire.send(request[:-1])
        assert (await wire.answer())[0] == 408
        await wire.close()

    run(tmp_path, scene, http__receive_ms=200)


def test_a_body_that_trickles_is_cut_off(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        wire = await served.wire()
        wire.send(
            f"PUT {_CITY} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            'Content-Length: 100\r\n\r\n{"value'.encode()
        )
        status, _, body = await wire.answer()
        assert (status, json.loads(body)["code"]) == (408, "request_timeout")
        assert await wire.rest() == b""
        await wire.close()
        assert not (await served.good("GET", _CITY))["exists"]

    run(tmp_path, scene, http__receive_ms=200)


def test_a_body_that_comes_in_pieces_is_put_together(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        wire = await served.wire()
        wire.send(
            f"PUT {_CITY} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            "Expect: 100-continue\r\nContent-Length: 15\r\n\r\n".encode()
        )
        assert await wire.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        wire.send(b'{"value"')
        wire.send(b':"Rome"}')
        assert (await wire.answer())[0] == 400  # One byte more was announced than is JSON.
        await wire.close()

    async def good(served: Served) -> None:
        body = {"value": "x" * 300_000}
        assert (await served.ask("PUT", _CITY, body)).status == 200
        assert (await served.good("GET", _CITY))["value"] == body["value"]

    run(tmp_path, scene)
    run(tmp_path, good)


def test_an_idle_connection_is_closed_and_a_waiting_one_is_not(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        idle = await served.wire()
        idle.send(f"GET {_CITY} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert (await idle.answer())[0] == 200
        waiting = asyncio.ensure_future(
            served.ask("GET", f"{_CITY}", headers={"X-Context": _ahead(served)})
        )
        async with asyncio.timeout(10):
            assert await idle.rest() == b""
        await idle.close()
        assert not waiting.done()
        await served.node.memory.space("team").put("city", "Rome")
        assert (await waiting).status == 200

    run(tmp_path, scene, http__idle_ms=300, http__receive_ms=200)


def _ahead(served: Served) -> str:
    vector = dict(served.node.memory.engine.replica.context.vector)
    mine = served.node.memory.replica_id
    return str(Context({**vector, mine: vector[mine] + 1}))


def test_a_client_that_does_not_read_is_cut_off(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        async with served.node.memory.transaction() as transaction:
            transaction.put_many(("team",), {f"key {n}": "x" * 1_000 for n in range(3_000)})
        wire = await served.wire()
        wire.reader._limit = 1  # type: ignore[attr-defined] # It takes nothing from its socket.
        request = b"GET /v1/export HTTP/1.1\r\nHost: localhost\r\n\r\n"
        wire.send(request * 20)
        await eventually(lambda: served.face.streams, "beginning of the export")
        await eventually(lambda: not served.face.connections, "end of the connection")
        assert not served.face.streams
        await wire.close()

    run(tmp_path, scene, http__stalled_ms=200)


def test_a_client_too_many_is_told_to_come_back(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        first, second = await served.wire(), await served.wire()
        request = f"GET {_CITY} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        for wire in (first, second):
            wire.send(request)
            assert (await wire.answer())[0] == 200
        third = await served.wire()
        status, headers, body = await third.answer()
        assert (status, json.loads(body)["code"]) == (503, "too_many_connections")
        assert headers["retry-after"] == "1"
        assert await third.rest() == b""
        await third.close()
        await first.close()
        await eventually(lambda: len(served.face.connections) == 1, "room")
        fourth = await served.wire()
        fourth.send(request)
        assert (await fourth.answer())[0] == 200
        for wire in (second, fourth):
            await wire.close()

    run(tmp_path, scene, http__connections=2)


def test_a_client_that_says_nothing_is_cut_off(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        wire = await served.wire()
        status, _, body = await wire.answer()
        assert (status, json.loads(body)["code"]) == (408, "request_timeout")
        await wire.close()

    run(tmp_path, scene, http__receive_ms=200)


def test_a_stop_does_not_wait_for_connections_that_rest(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        wires = [await served.wire() for _ in range(3)]
        for wire in wires:
            wire.send(f"GET {_CITY} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert (await wire.answer())[0] == 200
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        await served.face.close(timeout_s=30)
        assert loop.time() - begun_s < 10
        for wire in wires:
            assert await wire.rest() == b""
            await wire.close()

    run(tmp_path, scene)


def test_a_client_that_leaves_ends_what_only_waits(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        wire = await served.wire()
        wire.send(
            f"GET {_CITY} HTTP/1.1\r\nHost: localhost\r\nX-Context: {_ahead(served)}\r\n"
            "X-Timeout-Ms: 60000\r\n\r\n".encode()
        )
        await eventually(lambda: len(served.face.connections) == 1, "connection")
        await wire.close()
        await eventually(lambda: not served.face.connections, "end of the connection")

    run(tmp_path, scene)
