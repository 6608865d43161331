"""Every verb of a node, asked in every way that there is: the answers are equal.

The scenarios of ``tests/node/test_faces.py`` play through all faces as users do. Here each
verb of the node's own table is asked of one node: by its handler itself, over the socket,
over a WebSocket, and as the HTTP request that stands for it. What a verb answers, or the
error that it raises, must be the same; and no verb may be missing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from crdtmem.asking import Handler, Request
from crdtmem.causality import Context, Observed
from crdtmem.client import Client, connect
from crdtmem.control_frames import decode_body, encode_body
from crdtmem.crdt import DATATYPES
from crdtmem.errors import CrdtmemError
from crdtmem.exporting import from_json
from crdtmem.handles import WriteOptions
from crdtmem.operations import (
    encode_context,
    encode_error,
    encode_transaction,
    encode_write_options,
)
from crdtmem.transaction import Operation, Options, Transaction
from tests.server.http_memory import HttpMemory, path_of
from tests.server.serving import Served, run

_REGISTER: Final = DATATYPES["register"].code
_COUNTER: Final = DATATYPES["counter"].code
_BUDGET: Final = DATATYPES["bounded_counter"].code
_TEAM: Final = ("team", "notes")
_NEVER: Final = Context({77: 1_000})
_STRANGER: Final = 0xFF
_KEY: Final = b"k" * 32

_NO_ROUTE: Final = {"get": "POST /v1/reads tells the same values, with all that a reading tells"}
"""Verbs that HTTP has no route of, and why."""

Answer = tuple[list[Any], Any]
"""The parts of an answer, joined, and its result."""

Asked = Callable[[HttpMemory], Awaitable[Answer]]


class Case(NamedTuple):
    """A verb, what it is asked, the HTTP request that stands for that, what is compared of the
    answer, and the code of the error, where it is one."""

    verb: str
    body: Any
    over_http: Asked
    compared: Callable[[Answer], Any] = lambda answer: answer
    refused: str = ""


# ---------------------------------------------------------------------- asking


class _Recorder:
    """An embedded caller: the request of a handler that is called as a function is."""

    def __init__(self, endless: bool) -> None:
        self.parts: list[Any] = []
        self.result: Any = None
        self.error: BaseException | None = None
        self.work: Any = None
        self.encode: Callable[[Any], Any] | None = None
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._endless = endless

    def done(self) -> bool:
        return self.future.done()

    def set_result(self, result: Any) -> None:
        self.future.set_result(result if self.encode is None else self.encode(result))

    def set_exception(self, error: BaseException) -> None:
        self.future.set_exception(error)

    async def emit(self, event: Any) -> None:
        self.parts.append(event)
        if self._endless:
            raise EOFError

    def rest(self) -> None:
        """Nothing is held here."""

    def run(self, work: Any) -> None:
        self.work = work


_ENDLESS: Final = ("subscribe", "member_changes")


async def _by_handler(handler: Handler, case: Case) -> Answer:
    request = _Recorder(case.verb in _ENDLESS)
    # As it would come over a wire: arrays are tuples.
    handler(request, decode_body(encode_body(case.body)))
    if request.work is None:
        return request.parts, await request.future
    with contextlib.suppress(EOFError):
        result = await request.work
        return request.parts, result if request.encode is None else request.encode(result)
    return request.parts, None


async def _by_client(client: Client, case: Case) -> Answer:
    parts = []
    async with await client.events(case.verb, case.body, idle_ms=20_000, apart=True) as events:
        async for part in events:
            parts.append(part)
            if case.verb in _ENDLESS:
                return parts, None
        return parts, events.result


async def _outcome(asked: Awaitable[Answer], case: Case) -> Any:
    """Return what is compared of an answer or an error, as plain values."""
    try:
        answer: Any = "", case.compared(await asked)
    except CrdtmemError as error:
        answer = error.code, encode_error(error)
    return decode_body(encode_body(answer))


# ---------------------------------------------------------------------- what is asked


def _asks(method: str, path: str, body: Any = None, part: str | None = None, **more: Any) -> Asked:
    """Return a request whose answer is the result, or a list of parts that it names."""

    async def ask(http: HttpMemory) -> Answer:
        said = await http.ask(method, path, body, **more)
        return ([], said) if part is None else ([said[part]], len(said[part]))

    return ask


def _accepts(path: str, body: Any = None) -> Asked:
    async def ask(http: HttpMemory) -> Answer:
        return [], (await http.ask("POST", path, body))["accepted"]

    return ask


def _commit(*operations: Operation, after: Context | None = None) -> Any:
    transaction = Transaction(author="ada", trust=2)
    transaction.steps += operations
    options = WriteOptions(after=after, timeout_ms=20)
    return encode_write_options(options), encode_transaction(transaction)


_WRITTEN_BY: Final = {"X-Author": "ada", "X-Trust": "2", "X-Timeout-Ms": "20"}


def _writes(datatype: str, key: str, body: Any, **headers: str) -> Asked:
    path = path_of(_TEAM, datatype, key)
    named = {**_WRITTEN_BY, **{name.replace("_", "-"): value for name, value in headers.items()}}

    async def ask(http: HttpMemory) -> Answer:
        said = await http.ask("POST", path, body, headers=named)
        return [], [
            said["context"],
            said["results"],
            said["first"],
            said["count"],
            said["repeated"],
        ]

    return ask


def _reads(datatype: str, key: str, **headers: str) -> Asked:
    named = {name.replace("_", "-"): value for name, value in headers.items()}

    async def ask(http: HttpMemory) -> Answer:
        said = await http.ask("GET", path_of(_TEAM, datatype, key), headers=named)
        names = ("value", "exists", "contested", "resolver", "also", "unknown_resolver")
        return [], [said[name] for name in names]

    return ask


async def _gets(http: HttpMemory) -> Answer:
    reads = [{"space": _TEAM, "key": key} for key in ("city", "nothing")]
    said = await http.ask("POST", "/v1/reads", {"reads": reads})
    return [], [reading["value"] for reading in said["readings"]]


def _tells_context(path: str, **query: Any) -> Asked:
    async def ask(http: HttpMemory) -> Answer:
        said = await http.ask("GET", path, query=query)
        return [], Context.parse(said["context"]).vector.flat()

    return ask


async def _begins_a_feed(http: HttpMemory) -> Answer:
    feed = await http.changes(_TEAM)
    await feed.close()
    return [[feed.cursor.vector.flat(), []]], None


async def _begins_a_watch(http: HttpMemory) -> Answer:
    async with http.stream("/v1/members/changes") as events:
        kind, data, _ = await anext(events)
        assert kind == "members"
        return [data], None


async def _exports(http: HttpMemory) -> Answer:
    lines = await http.lines("/v1/export?space=team,notes")
    records = [from_json(json.loads(line)) for line in lines]
    return [records], len(records)


def _joined(answer: Answer) -> Answer:
    """Return an answer with its parts as one list: how it is cut is the face's business."""
    parts, result = answer
    return [item for part in parts for item in part], result


def _lists(answer: Answer) -> list[Any]:
    """Return what an answer lists, in parts or as its result."""
    items, result = _joined(answer)
    return items or (list(result) if isinstance(result, list | tuple) else [])


def _count(answer: Answer) -> Any:
    """Return what is alike of two commits: each has a context and dots of its own."""
    _, (_, results, first, count, repeated) = answer
    assert first
    return len(results), count, repeated


def _result(answer: Answer) -> Any:
    return answer[1]


def _seen(answer: Answer) -> Any:
    """Return what a reading shows; the entries that it is made of differ in their form."""
    return answer[1][:6]


def _names(answer: Answer) -> Any:
    return sorted(answer[1])


def _conflicts(answer: Answer) -> Any:
    return [list(row.values()) if isinstance(row, dict) else row for row in _lists(answer)]


def _cases_of_values() -> list[Case]:
    increment = Operation(_TEAM, _COUNTER, "visits", "increment", (3,))
    never = {"X_Context": str(_NEVER), "X_Timeout_Ms": "20"}
    flat = encode_context(_NEVER)
    unmet = Options(observed=Observed().dots, conditional=True)
    at_will = _TEAM, _REGISTER, "city"
    return [
        Case("commit", _commit(increment),
             _writes("counter", "visits", {"operation": "increment", "amount": 3}),
             _count),
        Case("commit", _commit(Operation(_TEAM, _BUDGET, "budget", "consume", (9,))),
             _writes("bounded_counter", "budget", {"operation": "consume", "amount": 9}),
             refused="insufficient_rights"),
        Case("commit", _commit(Operation(*at_will, "set", ("Oslo",), unmet)),
             _writes("register", "city", {
                 "operation": "set", "value": "Oslo", "expect": str(Observed())}),
             refused="condition_failed"),
        Case("commit", _commit(Operation(_TEAM, _REGISTER, "k" * 2_000, "set", (1,))),
             _writes("register", "k" * 2_000, {"operation": "set", "value": 1}),
             refused="limit_exceeded"),
        Case("commit", _commit(Operation(*at_will, "set", (1,)), after=_NEVER),
             _writes("register", "city", {"operation": "set", "value": 1}, **never),
             refused="not_covered"),
        Case("read", (*at_will, None, 0), _reads("register", "city"), _seen),
        Case("read", (_TEAM, _COUNTER, "none", None, 0), _reads("counter", "none"), _seen),
        Case("read", (*at_will, flat, 20), _reads("register", "city", **never), _seen,
             refused="not_covered"),
        Case("get", (_TEAM, ("city", "nothing")), _gets, _result),
        Case("keys", (_TEAM, _REGISTER),
             _asks("GET", path_of(_TEAM, "register"), part="keys"), _joined),
        Case("spaces", (), _asks("GET", "/v1/spaces", part="spaces"), _lists),
        Case("conflicts", (None,), _asks("GET", "/v1/conflicts", part="conflicts"), _conflicts),
        Case("context", (), _tells_context("/v1/context"), _result),
        Case("wait", (encode_context(Context()), 10),
             _tells_context("/v1/context", at_least=str(Context())), _result),
        Case("wait", (flat, 20),
             _tells_context("/v1/context", at_least=str(_NEVER), timeout_ms=20),
             refused="not_covered"),
        Case("subscribe", (_TEAM, 100, None), _begins_a_feed),
        Case("member_changes", (), _begins_a_watch),
        Case("export", (_TEAM,), _exports, _joined),
    ]  # fmt: skip


def _cases_of_nodes(folder: Path) -> list[Case]:
    return [
        Case("status", (), _asks("GET", "/v1/status"), _names),
        Case("members", (), _asks("GET", "/v1/members", part="members"), _lists),
        Case("peers", (), _asks("GET", "/v1/peers", part="peers"), _lists),
        Case("keyring", (), _asks("GET", "/v1/admin/keyring"), _result),
        Case("rotate", ("install", _KEY, 10_000),
             _asks("POST", "/v1/admin/keyring/install", {"key": _KEY}), _result),
        Case("rotate", ("use", 7, 10_000),
             _asks("POST", "/v1/admin/keyring/use", {"key": "00000007"}),
             refused="condition_failed"),
        Case("rotate", ("remove", 7, 10_000),
             _asks("POST", "/v1/admin/keyring/remove", {"key": "00000007"}),
             refused="condition_failed"),
        Case("checkpoint", (), _asks("POST", "/v1/admin/checkpoint"), _names),
        Case("verify", (True,), _asks("POST", "/v1/admin/verify", {"deep": True}), _result),
        Case("backup", ("copy.db",), _asks("POST", "/v1/admin/backup", {"path": "copy.db"}),
             refused="invalid_value"),
        Case("backup", (str(folder),), _asks("POST", "/v1/admin/backup", {"path": str(folder)}),
             refused="invalid_value"),
        Case("rescue_list", (), _asks("GET", "/v1/admin/rescue", part="writes"), _lists),
        Case("rescue", (None,), _asks("POST", "/v1/admin/rescue"), _result),
        Case("rescue", (("0000000000000001:1",),),
             _asks("POST", "/v1/admin/rescue", {"dots": ["0000000000000001:1"]}), _result,
             refused="invalid_value"),
        Case("evict", (_STRANGER, False),
             _accepts("/v1/admin/evict", {"replica": f"{_STRANGER:016x}"}),
             refused="unknown_name"),
        Case("rejoin", (), _accepts("/v1/admin/rejoin"),
             refused="condition_failed"),
        Case("leave", (False, 10), _asks("POST", "/v1/admin/leave", {"timeout_ms": 10}),
             refused="condition_failed"),
    ]  # fmt: skip


# ---------------------------------------------------------------------- the suite


async def _prepare(served: Served) -> None:
    """Write what the cases look at."""
    memory = served.node.memory
    await memory.space(*_TEAM).put("city", "Rome")
    for author in ("ann", "bob"):
        named = memory.session(author=author).space(*_TEAM).register("contested")
        await named.set({"by": author.encode()}, observed=Observed())


def _heard(handlers: Mapping[str, Handler], heard: set[str]) -> dict[str, Handler]:
    """Return handlers that note what is asked of them."""

    def noted(verb: str, handler: Handler) -> Handler:
        def handle(request: Request, body: Any) -> None:
            heard.add(verb)
            handler(request, body)

        return handle

    return {verb: noted(verb, handler) for verb, handler in handlers.items()}


def test_every_verb_answers_alike_in_every_way(tmp_path: Path) -> None:
    cases = [*_cases_of_values(), *_cases_of_nodes(tmp_path)]

    async def scene(served: Served) -> None:
        await _prepare(served)
        heard: set[str] = set()
        handlers = served.face.handlers
        served.face.handlers = _heard(handlers, heard)
        socket = await connect(served.node.readiness()["control"])
        websocket = await connect(served.base)
        plain = await HttpMemory.connect(served.base)
        packed = await HttpMemory.connect(served.base, msgpack=True)
        wrong = []
        for case in cases:
            outcomes = {
                "handler": await _outcome(_by_handler(handlers[case.verb], case), case),
                "socket": await _outcome(_by_client(socket, case), case),
                "websocket": await _outcome(_by_client(websocket, case), case),
                "http": await _outcome(case.over_http(plain), case),
                "msgpack": await _outcome(case.over_http(packed), case),
            }
            code, _ = outcomes["handler"]
            alike = all(outcome == outcomes["handler"] for outcome in outcomes.values())
            if code != case.refused or not alike:
                wrong.append((case.verb, outcomes))
        for face in (socket, websocket, plain, packed):
            await face.close()
        assert wrong == []
        assert {case.verb for case in cases} == set(handlers) - {"stop"}
        assert heard == set(handlers) - set(_NO_ROUTE) - {"stop"}

    run(tmp_path, scene, store=f"sqlite:///{tmp_path}/store.db", mesh__plain_text=False)


@pytest.mark.parametrize("way", ["handler", "socket", "websocket", "http"])
@pytest.mark.parametrize(
    ("verb", "body", "path", "sent"),
    [
        ("stop", (), "/v1/admin/stop", {}),
        ("leave", (True, 10), "/v1/admin/leave", {"forced": True, "timeout_ms": 10}),
    ],
)
def test_a_node_is_ended_in_every_way(
    way: str, verb: str, body: Any, path: str, sent: Any, tmp_path: Path
) -> None:
    case = Case(verb, body, _accepts(path) if verb == "stop" else _asks("POST", path, sent))

    async def scene(served: Served) -> None:
        replica = served.node.readiness()["replica"]
        if way == "handler":
            answer = await _by_handler(served.face.handlers[verb], case)
        elif way == "http":
            http = await HttpMemory.connect(served.base)
            answer = await case.over_http(http)
            await http.close()
        else:
            control = served.node.readiness()["control"]
            client = await connect(control if way == "socket" else served.base)
            answer = await _by_client(client, case)
            await client.close()
        left = {"replica": replica, "node": "local/node-1", "holders": ()}
        assert decode_body(encode_body(answer)) == ((), True if verb == "stop" else left)
        assert served.node.stopping.is_set()

    run(tmp_path, scene)
