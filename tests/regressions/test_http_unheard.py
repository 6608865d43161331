"""What HTTP said, and nobody heard.

``If-Match`` and ``If-None-Match`` were passed over, so a write that was to happen only if
nothing had changed happened in any case; and so was the body of a DELETE, in which
``expect`` was: what was to remove one value removed whatever was there. And the bodies of an
operator's requests were weighed by nobody: many of them, each almost whole, were held
beside all that the node had room for.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.server.serving import Served, run

_CITY = "/v1/spaces/team/register/city"


@pytest.mark.parametrize("name", ["If-Match", "If-None-Match", "If-Unmodified-Since"])
@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE"])
def test_a_condition_that_is_not_known_is_refused(tmp_path: Path, name: str, method: str) -> None:
    body = {"PUT": {"value": "Oslo"}, "POST": {"operation": "set", "value": "Oslo"}}.get(method)

    async def scene(served: Served) -> None:
        await served.good("PUT", _CITY, {"value": "Rome"})
        answer = await served.ask(method, _CITY, body, {name: "*"})
        assert (answer.status, answer.code) == (400, "invalid_value")
        assert "expect" in answer.value["hint"]
        assert (await served.good("GET", _CITY))["value"] == "Rome"

    run(tmp_path, scene)


def test_the_body_of_a_delete_is_refused(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        await served.good("PUT", _CITY, {"value": "Rome"})
        answer = await served.ask("DELETE", _CITY, {"expect": "o1.kA"})
        assert (answer.status, answer.code) == (400, "malformed_request")
        assert (await served.good("GET", _CITY))["value"] == "Rome"

    run(tmp_path, scene)


def test_the_large_body_of_an_operators_request_is_weighed(tmp_path: Path) -> None:
    async def scene(served: Served) -> None:
        size_bytes = 4 * 1024 * 1024
        wires = [await served.wire() for _ in range(24)]
        for wire in wires:
            wire.send(
                b"POST /v1/admin/rescue HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Type: application/json\r\n"
                + f"Content-Length: {size_bytes}\r\n\r\n".encode()
            )
        answers = [asyncio.ensure_future(wire.answer()) for wire in wires]
        # Half of them, at most, have room; none of those is whole, so none is answered.
        async with asyncio.timeout(10):
            done, _ = await asyncio.wait(answers, return_when=asyncio.FIRST_COMPLETED)
        assert {answer.result()[0] for answer in done} == {429}
        assert served.node.admission.size_bytes < 24 * size_bytes
        assert (await served.ask("GET", "/v1/status")).status == 200
        for answer in answers:
            answer.cancel()
        for wire in wires:
            await wire.close()

    run(tmp_path, scene)
