"""Values over HTTP: every operation of every datatype, and what qualifies a write."""

from __future__ import annotations

import asyncio
import inspect
import json
from pathlib import Path
from typing import Any

import msgpack
import pycrdt
import pytest

from crdtmem.causality import Context, Observed
from crdtmem.crdt import DATATYPES
from crdtmem.exporting import to_json
from crdtmem.memory import Memory
from crdtmem.server.operations import OPERATIONS, Change
from crdtmem.transaction import Transaction
from tests.server.serving import Served, run, segment

_UPDATE = pycrdt.Doc({"text": pycrdt.Text("hello")}).get_update()


def _names(model: type[Change]) -> str:
    (name,) = model.model_fields["operation"].annotation.__args__  # type: ignore[union-attr]
    return str(name)


@pytest.mark.parametrize("datatype", DATATYPES)
def test_each_datatype_has_exactly_the_operations_of_its_mutators(datatype: str) -> None:
    kind = DATATYPES[datatype]
    assert {_names(model) for model in OPERATIONS[datatype]} == set(kind.operations)


@pytest.mark.parametrize("datatype", DATATYPES)
def test_an_operation_has_as_many_arguments_as_its_mutator(datatype: str) -> None:
    kind = DATATYPES[datatype]
    for model in OPERATIONS[datatype]:
        method = getattr(kind, kind.operations[_names(model)])
        parameters = list(inspect.signature(method).parameters.values())[1:]
        named = [p for p in parameters if p.kind is not inspect.Parameter.VAR_POSITIONAL]
        own = set(model.model_fields) - {
            *("operation", "observed", "expect", "expires_at_us", "metadata", "arguments_")
        }
        assert len(own) == len(named), f"{datatype}: {model.__name__} and {method}"


# The operations, in an order in which each is possible, and the same ones embedded.
_PLAYED: dict[str, list[tuple[dict[str, Any], tuple[Any, ...]]]] = {
    "register": [
        ({"operation": "set", "value": {"a": [1, None, 2.5]}}, ({"a": [1, None, 2.5]},)),
        ({"operation": "delete"}, ()),
        ({"operation": "set", "value": {"$bytes": "AAH/"}}, (b"\x00\x01\xff",)),
    ],
    "multi_value": [({"operation": "set", "value": "x"}, ("x",))],
    "flag": [
        ({"operation": "enable"}, ()),
        ({"operation": "disable"}, ()),
        ({"operation": "enable"}, ()),
    ],
    "flag_disable_wins": [
        ({"operation": "enable"}, ()),
        ({"operation": "disable"}, ()),
        ({"operation": "delete"}, ()),
    ],
    "g_counter": [
        ({"operation": "increment"}, (1,)),
        ({"operation": "increment", "amount": 4}, (4,)),
    ],
    "counter": [
        ({"operation": "increment", "amount": 5}, (5,)),
        ({"operation": "decrement", "amount": 2}, (2,)),
        ({"operation": "reset"}, ()),
        ({"operation": "decrement"}, (1,)),
    ],
    "bounded_counter": [
        ({"operation": "mint", "amount": 9}, (9,)),
        ({"operation": "consume", "amount": 3}, (3,)),
        ({"operation": "release", "amount": 1}, (1,)),
        ({"operation": "burn", "amount": 2}, (2,)),
        (
            {"operation": "transfer", "amount": 1, "to_replica": "00000000000000ff"},
            (1, 255),
        ),
    ],
    "set": [
        ({"operation": "add", "element": "red"}, ("red",)),
        ({"operation": "update", "elements": [1, {"$bytes": "AA=="}]}, ([1, b"\0"],)),
        ({"operation": "remove", "element": "red"}, ("red",)),
        ({"operation": "discard", "element": 1}, (1,)),
    ],
    "set_remove_wins": [
        ({"operation": "add", "element": 7}, (7,)),
        ({"operation": "clear"}, ()),
        ({"operation": "add", "element": 8}, (8,)),
    ],
    "map": [
        ({"operation": "set", "path": "city", "value": "Rome"}, ("city", "Rome")),
        ({"operation": "set", "path": ["a", "b"], "value": 1}, (["a", "b"], 1)),
        ({"operation": "update", "values": {"x": 1, "y": None}}, ({"x": 1, "y": None},)),
        ({"operation": "update", "values": {"z": 2}, "path": "a"}, ({"z": 2}, "a")),
        (
            {
                "operation": "apply",
                "path": "visits",
                "datatype": "counter",
                "name": "increment",
                "arguments": [3],
            },
            ("visits", "counter", "increment", 3),
        ),
        ({"operation": "delete", "path": ["a", "b"]}, (["a", "b"],)),
    ],
    "log": [
        ({"operation": "append", "value": "one"}, ("one",)),
        ({"operation": "extend", "values": ["two", {"three": 3}]}, (["two", {"three": 3}],)),
    ],
}  # fmt: skip


@pytest.mark.parametrize("datatype", [name for name in DATATYPES if name != "document"])
def test_operations_over_http_do_what_embedded_ones_do(datatype: str, tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        path = f"/v1/spaces/team,notes/{datatype}/key"
        async with await Memory.open("memory:", tune_gc=False) as memory:
            handle = memory.space("team", "notes").handle(datatype, "key")
            for body, arguments in _PLAYED[datatype]:
                written = await served.good("POST", path, body)
                await handle._do(body["operation"], arguments)
                seen = await served.good("GET", path)
                reading = await handle.read()
                assert written["count"] >= 0
                assert not written["repeated"]
                # A bounded counter tells who holds its rights.
                here, there = served.node.memory.replica_id, memory.replica_id
                value = json.dumps(to_json(seen["value"])).replace(f"{here:016x}", f"{there:016x}")
                assert json.loads(value) == to_json(reading.value)
                assert seen["exists"] == reading.exists
                assert seen["contested"] == reading.contested

    run(tmp_path, scene)


def test_a_document_takes_updates_and_shows_its_text(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        path = "/v1/spaces/team/document/plan"
        packed = msgpack.packb({"operation": "update", "update": _UPDATE})
        kind = {"Content-Type": "application/msgpack"}
        answer = await served.ask("POST", path, headers=kind, data=packed)
        assert answer.status == 200
        assert (await served.good("GET", path))["value"] == {"text": "hello"}

    run(tmp_path, scene)


def test_an_entry_of_a_log_is_removed_by_the_dot_that_its_siblings_show(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        path = "/v1/spaces/team/log/journal"
        written = await served.good("POST", path, {"operation": "extend", "values": [1, 2, 3]})
        (dots,) = written["results"]
        seen = await served.good("GET", path + "?siblings=true")
        assert [sibling["dot"] for sibling in seen["siblings"]] == dots
        removed = await served.good("POST", path, {"operation": "remove", "dots": dots[1:2]})
        assert removed["results"] == [1]
        assert (await served.good("GET", path))["value"] == [1, 3]

    run(tmp_path, scene)


def test_author_trust_expiry_and_metadata_are_those_of_the_entry(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        path = "/v1/spaces/team/register/city"
        body = {"value": "Rome", "expires_at_us": 4_000_000_000_000_000, "metadata": {"c": 0.5}}
        await served.good("PUT", path, body, X_Author="zoë", X_Trust="7")
        (sibling,) = (await served.good("GET", path + "?siblings=true"))["siblings"]
        assert sibling["author"] == "zoë"
        assert sibling["trust"] == 7
        assert sibling["expires_at_us"] == 4_000_000_000_000_000
        assert sibling["metadata"]["c"] == 0.5

    run(tmp_path, scene)


def test_expect_refuses_when_something_else_is_there_by_now(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        path = "/v1/spaces/team/register/city"
        await served.good("PUT", path, {"value": "Rome"})
        seen = await served.good("GET", path)
        await served.good("PUT", path, {"value": "Oslo", "expect": seen["observed"]})
        late = await served.ask("PUT", path, {"value": "Bonn", "expect": seen["observed"]})
        assert (late.status, late.code) == (409, "condition_failed")
        assert late.value["siblings"][0]["value"] == "Oslo"
        gone = await served.ask("DELETE", f"{path}?expect={seen['observed']}")
        assert gone.code == "condition_failed"
        now = (await served.good("GET", path))["observed"]
        await served.good("DELETE", f"{path}?expect={now}")
        assert not (await served.good("GET", path))["exists"]

    run(tmp_path, scene)


def test_observed_supersedes_just_what_was_read(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        path = "/v1/spaces/team/multi_value/city"
        nothing = str(Observed())
        await served.good("PUT", path, {"value": "Rome"})
        await served.good("PUT", path, {"value": "Oslo", "observed": nothing})
        seen = await served.good("GET", path)
        assert seen["contested"]
        assert sorted(seen["value"]) == ["Oslo", "Rome"]
        both = await served.ask("PUT", path, {"value": 1, "observed": nothing, "expect": nothing})
        assert both.code == "invalid_value"

    run(tmp_path, scene)


def test_an_idempotency_key_is_the_replicated_operation_id(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        path = "/v1/spaces/team/counter/visits"
        body = {"operation": "increment", "amount": 3}
        first = await served.good("POST", path, body, Idempotency_Key="order-17")
        again = await served.good("POST", path, body, Idempotency_Key='"order-17"')
        assert not first["repeated"]
        assert again["repeated"]
        assert again["first"] == first["first"]
        # The same id through another face is the same operation.
        embedded = Transaction(operation_id=b"order-17")
        embedded.count(("team",), DATATYPES["counter"].code, "visits", 3)
        assert (await served.node.memory.commit(embedded)).repeated
        assert (await served.good("GET", path))["value"] == 3

    run(tmp_path, scene)


def test_x_context_is_answered_and_waited_for(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        path = "/v1/spaces/team/register/city"
        written = await served.ask("PUT", path, {"value": "Rome"})
        token = written.headers["x-context"]
        assert Context.parse(token) == served.node.memory.engine.replica.context
        seen = await served.ask("GET", path, headers={"X-Context": token})
        assert seen.value["value"] == "Rome"
        assert seen.headers["x-context"] == token
        mine = served.node.memory.replica_id
        ahead = str(Context({mine: Context.parse(token).vector[mine] + 1}))
        waiting = asyncio.create_task(served.ask("GET", path, headers={"X-Context": ahead}))
        await served.good("PUT", path, {"value": "Oslo"})
        assert (await waiting).value["value"] == "Oslo"
        never = {"X-Context": str(Context({mine: 1 << 40})), "X-Timeout-Ms": "1"}
        for method, body in (("GET", None), ("PUT", {"value": 1})):
            late = await served.ask(method, path, body, never)
            assert (late.status, late.code) == (412, "not_covered"), method

    run(tmp_path, scene)


@pytest.mark.parametrize(
    "key", ["a/b", "ключ", "..", "%2F", "a b+c", "x?y#z", "\x00", "{}", "policy", "é" * 500]
)
def test_any_text_can_be_a_key(key: str, tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        path = f"/v1/spaces/{segment('a,b')},c/register/{segment(key)}"
        await served.good("PUT", path, {"value": key})
        assert (await served.good("GET", path))["value"] == key
        assert await served.node.memory.keys(("a,b", "c"), DATATYPES["register"].code) == [key]

    run(tmp_path, scene)


@pytest.mark.parametrize(
    "value",
    [
        None,
        False,
        -(1 << 63),
        (1 << 64) - 1,
        1e300,
        "",
        "\u0000\U0001f600",
        [],
        {},
        {"$bytes": "AAECAw=="},
        {"$dict": {"$bytes": "AA==", "a": 1}},
        {"$float": "inf"},
        [[[[{"deep": [1]}]]]],
    ],
)
def test_a_value_comes_back_as_it_went(value: Any, tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        path = "/v1/spaces/team/register/value"
        assert (await served.ask("PUT", path, {"value": value})).status == 200
        assert (await served.ask("GET", path)).value["value"] == value

    run(tmp_path, scene)


def test_msgpack_carries_the_same_values(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        path = "/v1/spaces/team/register/value"
        value = {"bytes": b"\x00\xff", "float": float("inf"), "list": [1, [2]]}
        packed = msgpack.packb({"value": value})
        kind = {"Content-Type": "application/msgpack", "Accept": "application/msgpack"}
        answer = await served.ask("PUT", path, headers=kind, data=packed)
        assert answer.headers["content-type"] == "application/msgpack"
        written = msgpack.unpackb(answer.value)
        assert written["count"] == 1
        answer = await served.ask("GET", path, headers={"Accept": "application/x-msgpack"})
        assert msgpack.unpackb(answer.value)["value"] == value
        plain = await served.ask("GET", path)
        assert plain.value["value"]["bytes"] == {"$bytes": "AP8="}

    run(tmp_path, scene)


def test_keys_come_in_pages_that_miss_none(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        names = sorted(f"key {number:02}" for number in range(25))
        async with served.node.memory.transaction() as transaction:
            transaction.put_many(("team",), dict.fromkeys(names, 1))
        found: list[str] = []
        cursor = ""
        while True:
            page = await served.good("GET", f"/v1/spaces/team/register?limit=10{cursor}")
            assert len(page["keys"]) <= 10
            found += page["keys"]
            if page["cursor"] is None:
                break
            cursor = f"&cursor={page['cursor']}"
        assert found == names
        wrong = await served.ask("GET", "/v1/spaces/team/register?cursor=zzz!")
        assert wrong.code == "invalid_token"

    run(tmp_path, scene)


def test_a_page_of_many_keys_lets_others_have_their_turn(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        names = sorted(f"key {number:06}" for number in range(50_000))
        for start in range(0, len(names), 10_000):
            async with served.node.memory.transaction() as transaction:
                transaction.put_many(("team",), dict.fromkeys(names[start : start + 10_000], 1))
        turns = 0

        async def count_turns() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        code = DATATYPES["register"].code
        counting = asyncio.ensure_future(count_turns())
        page = await served.node.memory.keys(("team",), code, after=names[30_000], limit=5)
        counting.cancel()
        assert page == names[30_001:30_006]
        assert turns >= 2

    run(tmp_path, scene)


def test_head_answers_as_get_without_a_body(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        path = "/v1/spaces/team/register/city"
        await served.good("PUT", path, {"value": "Rome"})
        head = await served.ask("HEAD", path)
        assert head.status == 200
        assert "x-context" in head.headers
        assert head.value == b""
        for other in ("/docs", "/openapi.json", "/v1/status"):
            assert (await served.ask("HEAD", other)).status == 200

    run(tmp_path, scene)
