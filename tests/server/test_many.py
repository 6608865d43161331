"""More than one value over HTTP: spaces, policies, transactions, reads, conflicts, export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from crdtmem.causality import Context, Observed
from crdtmem.exporting import from_json, record_transaction
from crdtmem.limits import DEFAULT_LIMITS
from crdtmem.memory import Memory
from crdtmem.server.http import HttpFace
from tests.server.serving import Served, run, serving


def _step(datatype: str, key: str, **do: Any) -> dict[str, Any]:
    return {"space": ["team"], "datatype": datatype, "key": key, "do": do}


def test_a_transaction_is_carried_out_whole(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        steps = [
            _step("register", "city", operation="set", value={"$bytes": "AA=="}),
            _step("counter", "visits", operation="increment", amount=2),
            _step("map", "trip", operation="update", values={"city": "Rome"}),
        ]
        written = await served.good("POST", "/v1/transactions", {"operations": steps})
        assert written["count"] == 3
        assert [type(result) for result in written["results"]] == [str, str, int]
        assert await served.node.memory.space("team").get("city") == b"\0"
        assert await served.node.memory.space("team").counter("visits").get() == 2

    run(tmp_path, scene)


def test_a_transaction_is_refused_whole(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        steps = [
            _step("register", "city", operation="set", value=1),
            _step("bounded_counter", "budget", operation="consume", amount=1),
        ]
        refused = await served.ask("POST", "/v1/transactions", {"operations": steps})
        assert (refused.status, refused.code) == (409, "insufficient_rights")
        assert await served.node.memory.space("team").keys() == []
        for wrong in (
            _step("register", "", operation="set", value=1),
            {**_step("register", "a", operation="set", value=1), "more": 1},
            {"space": [], "datatype": "flag", "key": "a", "do": {"operation": "enable"}},
        ):
            refused = await served.ask("POST", "/v1/transactions", {"operations": [wrong]})
            assert (refused.status, refused.code) == (400, "invalid_value"), wrong
        empty = await served.ask("POST", "/v1/transactions", {"operations": []})
        assert empty.code == "invalid_value"

    run(tmp_path, scene)


def test_reads_are_of_one_moment_and_wait_for_a_context(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        space = served.node.memory.space("team")
        await space.put("city", "Rome")
        written = await space.counter("visits").increment()
        body = {
            "reads": [
                {"space": ["team"], "key": "city"},
                {"space": ["team"], "datatype": "counter", "key": "visits"},
                {"space": ["team"], "key": "nothing"},
            ],
            "siblings": True,
        }
        token = str(written.context)
        answer = await served.ask("POST", "/v1/reads", body, {"X-Context": token})
        readings = answer.value["readings"]
        assert [reading["value"] for reading in readings] == ["Rome", 1, None]
        assert [reading["exists"] for reading in readings] == [True, True, False]
        assert [len(reading["siblings"]) for reading in readings] == [1, 1, 0]
        assert answer.value["context"] == answer.headers["x-context"] == token
        mine = served.node.memory.replica_id
        never = {"X-Context": str(Context({mine: 1 << 40})), "X-Timeout-Ms": "1"}
        assert (await served.ask("POST", "/v1/reads", body, never)).code == "not_covered"

    run(tmp_path, scene)


def test_a_policy_is_read_and_replaced(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        path = "/v1/spaces/team,notes/policy"
        assert (await served.good("GET", path))["is_default"]
        await served.good("PUT", path, {"resolver": "keep_all", "trust_ordered": True})
        now = await served.good("GET", path)
        assert not now["is_default"]
        assert now["policy"]["resolver"] == "keep_all"
        assert served.node.memory.engine.replica.policy(("team", "notes")).trust_ordered
        wrong = await served.ask("PUT", path, {"resolver": 7})
        assert wrong.code == "invalid_value"

    run(tmp_path, scene)


def test_the_system_space_is_read_and_not_written(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        path = "/v1/spaces/crdtmem/register/member%3Ax"
        refused = await served.ask("PUT", path, {"value": 1})
        assert (refused.status, refused.code) == (400, "invalid_value")
        assert await served.good("GET", "/v1/spaces") == {"spaces": []}

    run(tmp_path, scene)


def test_conflicts_come_in_pages_that_miss_none(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        assert await served.good("GET", "/v1/conflicts") == {"conflicts": [], "cursor": None}
        space = served.node.memory.space("team")
        for number in range(5):
            register = space.register(f"key-{number}")
            await register.set("a")
            await register.set("b", observed=Observed())
        await space.map("trip").set("city", "Rome")
        await space.map("trip").set("city", "Oslo", observed=Observed())
        found, cursor = [], ""
        while True:
            page = await served.good("GET", f"/v1/conflicts?space=team&limit=2{cursor}")
            found += page["conflicts"]
            if page["cursor"] is None:
                break
            cursor = f"&cursor={page['cursor']}"
        assert [one["key"] for one in found] == [*(f"key-{n}" for n in range(5)), "trip"]
        assert {one["datatype"] for one in found} == {"register", "map"}
        assert {sibling["value"] for sibling in found[0]["siblings"]} == {"a", "b"}
        assert (await served.good("GET", "/v1/conflicts?space=other"))["conflicts"] == []
        alien = (await served.good("GET", "/v1/spaces/team/register?limit=1"))["cursor"]
        wrong = await served.ask("GET", f"/v1/conflicts?cursor={alien}")
        assert wrong.code == "invalid_token"

    run(tmp_path, scene)


def test_a_context_is_told_and_waited_for(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        now = (await served.good("GET", "/v1/context"))["context"]
        same = await served.good("GET", f"/v1/context?at_least={now}")
        assert same == {"context": now}
        mine = served.node.memory.replica_id
        ahead = Context({mine: 1 << 40})
        late = await served.ask("GET", f"/v1/context?at_least={ahead}&timeout_ms=1")
        assert (late.status, late.code) == (412, "not_covered")
        wrong = await served.ask("GET", "/v1/context?at_least=c1.nonsense")
        assert (wrong.status, wrong.code) == (400, "invalid_token")

    run(tmp_path, scene)


def test_an_export_can_be_imported_again(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        space = served.node.memory.space("team")
        await space.put("bytes", b"\x00\x01")
        async with served.node.memory.transaction() as transaction:
            transaction.put_many(("other",), {f"key {n}": n for n in range(1_200)})
        answer = await served.ask("GET", "/v1/export")
        assert answer.headers["content-type"] == "application/x-ndjson"
        records = [from_json(json.loads(line)) for line in answer.value.splitlines()]
        assert len(records) == 1_201
        only = await served.ask("GET", "/v1/export?space=team")
        assert len(only.value.splitlines()) == 1
        assert (await served.ask("GET", "/v1/export?space=none")).value == b""
        async with await Memory.open("memory:", tune_gc=False) as memory:
            await memory.commit(record_transaction(records, DEFAULT_LIMITS))
            assert await memory.space("team").get("bytes") == b"\x00\x01"
            assert len(await memory.space("other").keys()) == 1_200

    run(tmp_path, scene)


def test_an_export_that_fails_on_the_way_does_not_look_whole(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        async with served.node.memory.transaction() as transaction:
            transaction.put_many(("team",), {f"key {n}": "x" * 100 for n in range(2_000)})
        wire = await served.wire()
        wire.send(b"GET /v1/export HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await wire.reader.readuntil(b"\r\n\r\n")
        served.face.end_connections()
        rest = await wire.rest()
        # The last chunk of a whole answer is empty.
        assert not rest.endswith(b"0\r\n\r\n") or rest.count(b'"dot"') == 2_000
        await wire.close()

    run(tmp_path, scene)


def test_what_was_written_at_one_node_is_read_at_the_next(tmp_path: Path) -> None:
    async def scene(europe: Served) -> None:
        join = europe.node.peers.address
        (tmp_path / "us").mkdir()
        async with serving(tmp_path / "us", region="us", node_name="us", join=join) as america:
            path = "/v1/spaces/team/register/city"
            written = await europe.ask("PUT", path, {"value": "Rome"})
            token = {"X-Context": written.headers["x-context"]}
            seen = await america.ask("GET", path, headers=token)
            assert seen.value["value"] == "Rome"
            everywhere = {**token, "X-Durability": "all"}
            assert (await america.ask("PUT", path, {"value": "Oslo"}, everywhere)).status == 200
            counted = "/v1/spaces/team/counter/visits"
            once = {"Idempotency-Key": "once"}
            body = {"operation": "increment"}
            first = await europe.ask("POST", counted, body, once)
            after = {**once, "X-Context": first.headers["x-context"]}
            again = await america.ask("POST", counted, body, after)
            assert again.value["repeated"]
            assert (await america.good("GET", counted))["value"] == 1
        # The other region is gone: what it cannot confirm is taken all the same.
        slow = {"X-Durability": "all", "X-Timeout-Ms": "50"}
        taken = await europe.ask("PUT", path, {"value": "Bonn"}, slow)
        assert (taken.status, taken.code) == (202, "durability_timeout")
        assert (
            Context.parse(taken.headers["x-context"]) <= europe.node.memory.engine.replica.context
        )
        assert taken.headers["x-context"] == taken.value["context"]
        assert (await europe.good("GET", path))["value"] == "Bonn"

    run(tmp_path, scene, region="eu", node_name="eu")


def test_a_face_answers_nothing_that_was_not_asked_of_its_own_node(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        assert isinstance(served.face, HttpFace)
        assert served.node.readiness()["http"] == served.base
        status = await served.good("GET", "/v1/status")
        assert status["replica"] == f"{served.node.memory.replica_id:016x}"
        assert status["http"] == served.base

    run(tmp_path, scene)
