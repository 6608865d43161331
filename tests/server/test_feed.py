"""The change feed as Server-Sent Events."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from crdtmem.asking import Request
from crdtmem.causality import Context
from crdtmem.errors import HistoryGap
from crdtmem.server import feed
from tests.server.serving import Served, events_of, run
from tests.waiting import eventually


def test_changes_come_in_whole_transactions_and_are_resumed_by_the_last_id(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        space = served.node.memory.space("team")
        async with served.session.get(served.base + "/v1/changes") as answer:
            assert answer.headers["Content-Type"] == "text/event-stream"
            events = events_of(answer.content)
            first = await anext(events)
            assert first["event"] == "changes"
            assert first["data"]["changes"] == []
            await served.good("PUT", "/v1/spaces/team/register/a", {"value": 1}, X_Author="ada")
            second = await anext(events)
            (change,) = second["data"]["changes"]
            assert change["space"] == ["team"]
            assert (change["datatype"], change["key"]) == ("register", "a")
            assert change["author"] == "ada"
            assert second["id"] == second["data"]["cursor"]
        # The reader is away for two transactions, one of them of two changes.
        await space.put("b", 2)
        async with served.node.memory.transaction() as transaction:
            transaction.put_many(("team",), {"c": 3, "d": 4})
        resumed = {"Last-Event-ID": second["id"]}
        async with served.session.get(served.base + "/v1/changes", headers=resumed) as answer:
            events = events_of(answer.content)
            keys: list[list[str]] = []
            while sum(map(len, keys)) < 3:
                event = await anext(events)
                keys.append([change["key"] for change in event["data"]["changes"]])
            assert [part for part in keys if part] in ([["b"], ["c", "d"]], [["b", "c", "d"]])

    run(tmp_path, scene)


def test_a_feed_of_one_space_tells_of_that_space_alone(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        async with served.session.get(served.base + "/v1/changes?space=team,notes") as answer:
            events = events_of(answer.content)
            await anext(events)
            await served.node.memory.space("other").put("a", 1)
            await served.node.memory.space("team", "notes").put("b", 1)
            found: list[str] = []
            while not found:
                # An event without changes only moves the cursor past the other space's.
                found = [change["key"] for change in (await anext(events))["data"]["changes"]]
            assert found == ["b"]

    run(tmp_path, scene)


def test_a_cursor_that_is_none_or_too_old_is_a_problem(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        wrong = await served.ask("GET", "/v1/changes", headers={"Last-Event-ID": "nonsense"})
        assert (wrong.status, wrong.code) == (400, "invalid_token")
        bad = await served.ask("GET", "/v1/changes?limit_batches=0")
        assert bad.code == "invalid_value"

    run(tmp_path, scene)


def test_a_reader_that_leaves_is_forgotten(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        async with served.session.get(served.base + "/v1/changes") as answer:
            await anext(events_of(answer.content))
            assert len(served.face.streams) == 1
            answer.close()
        await eventually(lambda: not served.face.streams, "end of the stream")
        await eventually(lambda: not served.node.runtime.subscriptions, "end of the subscription")

    run(tmp_path, scene)


def test_a_stop_ends_feeds_with_their_reason(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        async with served.session.get(served.base + "/v1/changes") as answer:
            events = events_of(answer.content)
            begin = await anext(events)
            Context.parse(begin["id"])
            async with asyncio.timeout(10):
                stopping = asyncio.ensure_future(served.node.stop())
                last = await anext(events)
                assert last["event"] == "problem"
                assert last["data"]["code"] == "closed"
                await stopping

    run(tmp_path, scene)


def _narrow_socket(info: Any) -> socket.socket:
    family, kind, protocol, *_ = info
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    return made


def test_a_slow_reader_is_told_and_misses_nothing(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        written = 0
        path = "/v1/changes?space=team&limit_batches=1"
        connector = aiohttp.TCPConnector(socket_factory=_narrow_socket)
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.get(served.base + path) as answer,
        ):
            events = events_of(answer.content)
            await anext(events)
            # More than the two sockets between here and there take.
            while written < 50_000:
                async with served.node.memory.transaction() as transaction:
                    names = (f"key {number:06}" for number in range(written, written + 10_000))
                    transaction.put_many(("team",), dict.fromkeys(names, 0))
                written += 10_000
            found: list[str] = []
            kinds = []
            while len(found) < written:
                event = await anext(events)
                kinds.append(event["event"])
                if event["event"] == "changes":
                    found += [change["key"] for change in event["data"]["changes"]]
        assert found == [f"key {number:06}" for number in range(written)]
        assert kinds.count("lagging") >= 1

    run(tmp_path, scene, store=f"sqlite:///{tmp_path}/store.db")


@pytest.mark.parametrize("begun", [False, True])
def test_a_gap_is_told_with_where_to_go_on(begun: bool, tmp_path: Path) -> None:
    """The verb is played: what is looked at is how HTTP tells what it says."""

    def subscribe(request: Request, body: Any) -> None:
        request.run(fail(request))

    async def fail(request: Request) -> None:
        if begun:
            await request.emit([[], []])
        raise HistoryGap("cut", hint="read the state again", resume="c1.kA")

    async def scene(served: Served) -> None:
        served.face.handlers = {**served.face.handlers, "subscribe": subscribe}
        if not begun:
            gone = await served.ask("GET", "/v1/changes", headers={"Last-Event-ID": "c1.kA"})
            assert (gone.status, gone.code) == (410, "history_gap")
            assert gone.value["resume"] == "c1.kA"
            return
        async with served.session.get(served.base + "/v1/changes") as answer:
            first, last = [event async for event in events_of(answer.content)]
            assert first["event"] == "changes"
            assert last["event"] == "problem"
            assert last["data"]["code"] == "history_gap"
            assert last["data"]["resume"] == "c1.kA"

    run(tmp_path, scene)


def test_silence_is_broken_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "_SILENCE_S", 0.01)

    async def scene(served: Served) -> None:
        wire = await served.wire()
        wire.send(b"GET /v1/changes HTTP/1.1\r\nHost: localhost\r\n\r\n")
        for _ in range(3):
            await wire.reader.readuntil(b": still here\n\n")
        await wire.close()
        await eventually(lambda: not served.face.streams, "end of the stream")

    run(tmp_path, scene)


@pytest.mark.parametrize("path", ["/v1/changes", "/v1/members/changes", "/v1/export"])
def test_who_could_not_tell_a_part_from_the_whole_gets_none(path: str, tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        wire = await served.wire()
        wire.send(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        status, _, body = await wire.answer()
        assert (status, json.loads(body)["code"]) == (400, "old_protocol")
        await wire.close()
        # What has a length can be asked for.
        wire = await served.wire()
        wire.send(b"GET /v1/context HTTP/1.0\r\n\r\n")
        assert (await wire.answer())[0] == 200
        await wire.close()

    run(tmp_path, scene)


def test_what_becomes_of_members_is_streamed(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        async with served.session.get(served.base + "/v1/members/changes") as answer:
            first = await anext(events_of(answer.content))
            assert first == {"event": "members", "data": []}

    run(tmp_path, scene)
