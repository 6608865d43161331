"""The change feed as Server-Sent Events."""

from __future__ import annotations

import asyncio
from pathlib import Path

from crdtmem.causality import Context
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
            event = await anext(events)
            assert [change["key"] for change in event["data"]["changes"]] == ["b"]

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


def test_what_becomes_of_members_is_streamed(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        async with served.session.get(served.base + "/v1/members/changes") as answer:
            first = await anext(events_of(answer.content))
            assert first == {"event": "members", "data": []}

    run(tmp_path, scene)
