"""What HTTP refuses: clearly, in one form, with the connection and the node in good order."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import msgpack
import pytest

from crdtmem.asking import Request
from crdtmem.errors import CrdtmemError, DurabilityTimeout, Overloaded, _every
from crdtmem.server.problems import STATUSES, problem_of
from tests.server.serving import Answer, Served, run

_CITY = "/v1/spaces/team/register/city"
_JSON = {"Content-Type": "application/json"}


def test_every_error_has_a_status_and_no_status_is_of_no_error() -> None:
    assert set(STATUSES) == set(_every(CrdtmemError))


def test_a_problem_says_what_the_error_says() -> None:
    error = DurabilityTimeout("not yet", hint="wait", reached=["eu"], status="mine", code=7)
    status, problem, headers = problem_of(error)
    assert status == 202
    assert problem["code"] == "durability_timeout"
    assert problem["status"] == 202
    assert problem["reached"] == ["eu"]
    assert problem["state_left"] == error.state_left
    assert headers == {}


@pytest.mark.parametrize(("pause_ms", "seconds"), [(1, "1"), (1_500, "2"), (None, "1")])
def test_who_is_told_to_come_back_is_told_when(pause_ms: int | None, seconds: str) -> None:
    details: dict[str, Any] = {} if pause_ms is None else {"retry_after_ms": pause_ms}
    status, problem, headers = problem_of(Overloaded("full", **details))
    assert status == 429
    assert headers == {"Retry-After": seconds}
    assert problem.get("retry_after_ms") == pause_ms


_REFUSED: list[tuple[str, str, dict[str, Any], int, str]] = [
    ("GET", "/", {}, 404, "unknown_path"),
    ("GET", "/v1", {}, 404, "unknown_path"),
    ("GET", "/v1/spaces/", {}, 404, "unknown_path"),
    ("GET", "/v1/spaces//register/a", {}, 404, "unknown_path"),
    ("GET", "//v1/spaces", {}, 404, "unknown_path"),
    ("GET", "/v1/../v1/status", {}, 404, "unknown_path"),
    ("GET", "/v1/spaces/{}/nothing/a", {}, 404, "unknown_path"),
    ("GET", "/v1/spaces/team/nothing/a", {}, 404, "unknown_path"),
    ("GET", _CITY + "/", {}, 404, "unknown_path"),
    ("PATCH", _CITY, {}, 405, "method_not_allowed"),
    ("HEAD", "/v1/changes", {}, 405, ""),
    ("HEAD", "/v1/export", {}, 405, ""),
    ("PUT", "/v1/spaces/team/counter/a", {}, 405, "method_not_allowed"),
    ("GET", "/v1/spaces/%ff/register/a", {}, 400, "malformed_path"),
    ("GET", "/v1/spaces/a/register/%C3%28", {}, 400, "malformed_path"),
    ("GET", "/v1/spaces/a/register/%4", {}, 400, "malformed_path"),
    ("GET", "/v1/spaces/a/register/%zz", {}, 400, "malformed_path"),
    ("GET", "/v1/spaces/a,,b/register/a", {}, 400, "malformed_path"),
    ("GET", "/v1/spaces/1,2,3,4,5,6,7,8,9/register/a", {}, 400, "malformed_path"),
    ("GET", "/v1/export?space=", {}, 400, "malformed_path"),
    ("GET", _CITY + "?sibling=true", {}, 400, "invalid_value"),
    ("GET", _CITY + "?siblings=perhaps", {}, 400, "invalid_value"),
    ("GET", _CITY + "?siblings=true&siblings=true", {}, 400, "malformed_query"),
    ("GET", _CITY + "?siblings", {}, 400, "malformed_query"),
    ("GET", _CITY + "?a=%ff", {}, 400, "malformed_query"),
    ("GET", "/v1/status?a=b", {}, 400, "malformed_query"),
    ("GET", _CITY, {"headers": {"X-Context": "nonsense"}}, 400, "invalid_token"),
    ("GET", _CITY, {"headers": {"X-Timeout-Ms": "soon"}}, 400, "invalid_value"),
    ("GET", _CITY, {"headers": {"X-Timeout-Ms": "86400001"}}, 400, "invalid_value"),
    ("GET", _CITY, {"headers": {"Host": "example.org"}}, 421, "misdirected_request"),
    ("GET", _CITY, {"headers": {"Origin": "https://example.org"}}, 403, "foreign_origin"),
    ("GET", _CITY, {"headers": {"Origin": "null"}}, 403, "foreign_origin"),
    ("PUT", _CITY, {"data": b"{}"}, 415, "unsupported_media_type"),
    ("PUT", _CITY, {"data": b"{}", "headers": {"Content-Type": "text/plain"}}, 415,
     "unsupported_media_type"),
    ("PUT", _CITY, {"data": b"{}", "headers": {**_JSON, "Content-Encoding": "gzip"}}, 415,
     "unsupported_media_type"),
    ("PUT", _CITY, {"data": b"", "headers": _JSON}, 400, "invalid_value"),
    ("PUT", _CITY, {"data": b"{", "headers": _JSON}, 400, "invalid_value"),
    ("PUT", _CITY, {"data": b"\xff", "headers": _JSON}, 400, "invalid_value"),
    ("PUT", _CITY, {"data": b'{"value": "\\ud800"}', "headers": _JSON}, 400, "invalid_value"),
    ("PUT", _CITY, {"data": b'{"value": ' + b"[" * 10_000, "headers": _JSON}, 400,
     "invalid_value"),
    ("PUT", _CITY, {"data": b'{"value": ' + b"[" * 150 + b"]" * 150 + b"}", "headers": _JSON}, 413,
     "limit_exceeded"),
    ("PUT", _CITY, {"data": b'{"value": ' + b"[" * 35 + b"]" * 35 + b"}", "headers": _JSON}, 413,
     "limit_exceeded"),
    ("PUT", _CITY, {"data": b'{"value": [1e999]}', "headers": _JSON}, 400, "invalid_value"),
    ("PUT", _CITY, {"data": b'{"value": {"a": NaN}}', "headers": _JSON}, 400, "invalid_value"),
    ("PUT", "/v1/spaces/team/policy", {"data": b"", "headers": _JSON}, 400, "invalid_value"),
    ("PUT", _CITY, {"body": {"value": {"$bytes": "not base64"}}}, 400, "invalid_value"),
    ("PUT", _CITY, {"body": {"value": 1 << 64}}, 400, "invalid_value"),
    ("PUT", _CITY, {"body": {"valeu": 1}}, 400, "invalid_value"),
    ("PUT", _CITY, {"body": [1]}, 400, "invalid_value"),
    ("PUT", _CITY, {"body": {"value": 1, "expires_at_us": "soon"}}, 400, "invalid_value"),
    ("PUT", _CITY, {"body": {"value": 1, "observed": "o1.zz"}}, 400, "invalid_token"),
    ("PUT", _CITY, {"body": {"value": 1, "metadata": {"a": 1}}}, 400, "invalid_value"),
    ("PUT", _CITY, {"body": {"value": 1}, "headers": {"X-Trust": "much"}}, 400, "invalid_value"),
    ("PUT", _CITY, {"body": {"value": 1}, "headers": {"X-Trust": "9" * 12}}, 400, "invalid_value"),
    ("PUT", _CITY, {"body": {"value": 1}, "headers": {"X-Durability": "wide"}}, 400,
     "invalid_value"),
    ("PUT", _CITY, {"body": {"value": 1}, "headers": {"Idempotency-Key": "k" * 65}}, 400,
     "invalid_value"),
    ("PUT", _CITY, {"body": {"value": 1}, "headers": {"X-Author": "a" * 2_000}}, 413,
     "limit_exceeded"),
    ("PUT", "/v1/spaces/team/register/" + "k" * 1_025, {"body": {"value": 1}}, 413,
     "limit_exceeded"),
    ("PUT", _CITY, {"body": {"value": "x" * (1 << 20) + "x"}}, 413, "limit_exceeded"),
    ("POST", "/v1/spaces/team/counter/a", {"body": {"operation": "set", "value": 1}}, 404,
     "unknown_name"),
    ("POST", "/v1/spaces/team/counter/a", {"body": {"operation": "increment", "amount": -1}}, 400,
     "invalid_value"),
    ("POST", "/v1/spaces/team/counter/a", {"body": {"operation": "increment", "amount": "3"}}, 400,
     "invalid_value"),
    ("POST", "/v1/spaces/team/map/a", {"body": {"operation": "apply", "path": "p", "datatype":
     "counter", "name": "explode"}}, 404, "unknown_name"),
    ("POST", "/v1/spaces/team/bounded_counter/a", {"body": {"operation": "consume"}}, 409,
     "insufficient_rights"),
    ("POST", "/v1/spaces/team/document/a", {"body": {"operation": "update", "update": "text"}},
     400, "invalid_value"),
    ("GET", "/v1/socket", {}, 400, "malformed_request"),
]  # fmt: skip


def test_what_is_refused_is_refused_clearly(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        wrong = []
        for method, path, more, status, code in _REFUSED:
            answer = await served.ask(method, path, **more)
            found = (answer.status, answer.code if code else "")
            if found != (status, code):
                wrong.append((method, path[:80], str(more)[:80], found, (status, code)))
            if code:
                assert answer.value["detail"]
        assert wrong == []
        assert not (await served.good("GET", _CITY))["exists"]

    run(tmp_path, scene)


def test_a_path_that_is_known_says_which_methods_it_has(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        answer = await served.ask("PATCH", _CITY)
        assert answer.headers["allow"] == "DELETE, GET, POST, PUT"

    run(tmp_path, scene)


def test_pages_of_this_machine_are_served(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        for origin in ("http://localhost:8000", "http://127.0.0.1", "http://[::1]:99"):
            answer = await served.ask("GET", "/v1/context", headers={"Origin": origin})
            assert answer.status == 200
        for host in ("localhost:1", "127.0.0.1", "[::1]:80"):
            answer = await served.ask("GET", "/v1/context", headers={"Host": host})
            assert answer.status == 200

    run(tmp_path, scene)


def test_a_body_beyond_the_limit_is_refused_before_it_has_come(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        limit = served.face.body_bytes
        wire = await served.wire()
        head = f"PUT {_CITY} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        wire.send(f"{head}Content-Length: {limit + 1}\r\n\r\n".encode())
        status, headers, body = await wire.answer()
        assert (status, json.loads(body)["code"]) == (413, "body_too_large")
        assert headers["connection"] == "close"
        await wire.close()
        # In chunks nobody says how much there will be.
        wire = await served.wire()
        wire.send(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        for _ in range(limit // 0x10000 + 1):
            wire.send(chunk)
        status, headers, body = await wire.answer()
        assert (status, json.loads(body)["code"]) == (413, "body_too_large")
        await wire.close()

    run(tmp_path, scene)


@pytest.mark.parametrize(
    "sent",
    [
        b"HELLO\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET /v1/status HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
        b"GET /v1/status HTTP/1.1\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
        b"GET /v1/status HTTP/1.1\r\n" + b"X: a\r\n" * 200 + b"\r\n",
    ],
)
def test_what_is_no_http_is_told_so_and_cut_off(sent: bytes, tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        wire = await served.wire()
        wire.send(sent)
        status, _, body = await wire.answer()
        assert (status, json.loads(body)["code"]) == (400, "malformed_request")
        assert await wire.rest() == b""
        await wire.close()
        assert (await served.ask("GET", "/v1/context")).status == 200

    run(tmp_path, scene)


@pytest.mark.parametrize("depth", [33, 200, 900, 5_000])
def test_depth_is_bounded_in_msgpack_too(depth: int, tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        nested = b"\x91" * depth + b"\xc0"
        data = b"\x81" + msgpack.packb("value") + nested
        kind = {"Content-Type": "application/msgpack"}
        answer = await served.ask("PUT", _CITY, headers=kind, data=data)
        assert answer.status in (400, 413)
        assert answer.code in ("invalid_value", "limit_exceeded", "malformed_frame")

    run(tmp_path, scene)


def test_a_fault_of_our_own_is_logged_and_shows_nothing_of_its_inside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(request: Request, body: Any) -> None:
        raise RuntimeError("the secret inside")

    async def scene(served: Served) -> None:
        served.face.handlers = {**served.face.handlers, "read": fail}
        with caplog.at_level(logging.ERROR):
            answer = await served.ask("GET", _CITY)
        assert (answer.status, answer.code) == (500, "error")
        assert "secret" not in json.dumps(answer.value)
        assert "the secret inside" in caplog.text
        assert (await served.ask("GET", "/v1/context")).status == 200

    run(tmp_path, scene)


def test_requests_may_be_pipelined(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        wire = await served.wire()
        one = f"GET {_CITY} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        wire.send(one * 100)
        answers = [await wire.answer() for _ in range(100)]
        assert {status for status, _, _ in answers} == {200}
        await wire.close()

    run(tmp_path, scene)


def test_the_absolute_form_of_a_path_is_understood(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        wire = await served.wire()
        target = f"http://localhost{_CITY}?siblings=true"
        wire.send(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        status, _, body = await wire.answer()
        assert status == 200
        assert json.loads(body)["siblings"] == []
        await wire.close()

    run(tmp_path, scene)


def test_many_wrong_hosts_cost_no_memory(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        for port in range(1, 200):
            await served.ask("GET", "/v1/context", headers={"Host": f"localhost:{port}"})
        assert len(served.face._hosts) <= 64

    run(tmp_path, scene)


def test_answers_under_way_are_given_when_the_node_stops(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        bodies = [{"operation": "increment"} for _ in range(20)]
        path = "/v1/spaces/team/counter/visits"
        asked = [asyncio.ensure_future(served.ask("POST", path, body)) for body in bodies]
        done, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        assert done
        await served.node.stop()
        answers: list[Answer | BaseException] = await asyncio.gather(*asked, return_exceptions=True)
        for answer in answers:
            # Taken, refused as such, or the connection was not accepted any more.
            if isinstance(answer, Answer):
                assert answer.status in (200, 503)
            else:
                assert isinstance(answer, OSError), answer

    run(tmp_path, scene)
