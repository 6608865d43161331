"""The control protocol over a WebSocket: the same connection, another carrier."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import WSMsgType, web

from crdtmem.control_connection import IN_FLIGHT_REQUESTS
from crdtmem.control_frames import (
    CONTROL_VERSION,
    ERROR,
    EVENT,
    MAGIC,
    RESULT,
    decode_messages,
    encode_body,
    payload_of_messages,
)
from crdtmem.control_parts import UNREAD_BYTES
from crdtmem.control_service import ControlService
from crdtmem.memory import Memory
from crdtmem.server.connection import Connections
from crdtmem.server.websocket import serve_socket
from crdtmem.verbs import memory_verbs, quick_verbs
from tests.node.processes import NodeProcess
from tests.waiting import eventually

_FRAME_BYTES = 64 * 1024


class Served:
    """A memory behind a WebSocket on this machine, and what a test needs to look at."""

    def __init__(self, memory: Memory, service: ControlService, url: str) -> None:
        self.memory = memory
        self.service = service
        self.url = url
        self.session = aiohttp.ClientSession()

    @contextlib.asynccontextmanager
    async def connected(self, *, greet: bool = True, **more: Any) -> AsyncIterator[Raw]:
        async with self.session.ws_connect(self.url, max_msg_size=1 << 28, **more) as socket:
            raw = Raw(socket)
            if greet:
                await raw.request(0, "hello", (MAGIC, CONTROL_VERSION))
                assert (await raw.answer())[1] == RESULT
            yield raw


class Raw:
    """A WebSocket, payloads, and no manners."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self._messages: list[tuple[int, Any, Any]] = []

    async def request(self, number: int, verb: Any, body: Any) -> None:
        await self.socket.send_bytes(payload_of_messages([encode_body((number, verb, body))]))

    async def answer(self) -> tuple[int, Any, Any]:
        """Return the next message; ``EOFError`` where the node has closed."""
        while not self._messages:
            received = await self.socket.receive()
            if received.type is not WSMsgType.BINARY:
                raise EOFError
            self._messages += decode_messages(received.data)
        return self._messages.pop(0)

    async def is_closed(self) -> bool:
        with contextlib.suppress(EOFError):
            while True:
                await self.answer()
        return True


def scenario(play: Callable[[Served], Coroutine[Any, Any, None]]) -> None:
    """Play a scenario against a memory that is served on this machine."""

    async def run() -> None:
        async with await Memory.open("memory:", region="here", tune_gc=False) as memory:
            service = ControlService(
                memory_verbs(memory),
                greeting=lambda: {"region": "here"},
                frame_bytes=_FRAME_BYTES,
                quick=quick_verbs(memory),
            )

            async def serve(request: web.BaseRequest) -> web.StreamResponse:
                return await serve_socket(service, request)

            runner = web.ServerRunner(
                Connections(
                    serve,
                    admission=service.admission,
                    most_connections=64,
                    receive_s=30.0,
                    stalled_s=30.0,
                ),
                access_log=None,
            )
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            host, port = runner.addresses[0][:2]
            served = Served(memory, service, f"http://{host}:{port}/v1/socket")
            try:
                async with asyncio.timeout(30):
                    await play(served)
            finally:
                await served.session.close()
                await service.close()
                await runner.cleanup()

    asyncio.run(run())


def _commit(key: str, value: Any) -> Any:
    step = (1, ("space",), 1, key, "set", (value,), None)
    return ("local", 1_000, None), ("", 0, None, None, (step,))


def test_what_one_client_writes_another_reads() -> None:
    async def play(served: Served) -> None:
        async with served.connected() as first, served.connected() as second:
            await first.request(1, "commit", _commit("k", {"a": [1, 2]}))
            number, kind, committed = await first.answer()
            assert (number, kind) == (1, RESULT)
            await second.request(7, "get", (("space",), ("k", "none"), committed[0], 1_000))
            assert await second.answer() == (7, RESULT, ({"a": (1, 2)}, None))

    scenario(play)


def test_the_greeting_tells_the_credits() -> None:
    async def play(served: Served) -> None:
        async with served.connected(greet=False) as raw:
            await raw.request(3, "hello", (MAGIC, CONTROL_VERSION))
            number, kind, greeting = await raw.answer()
            assert (number, kind) == (3, RESULT)
            assert greeting["region"] == "here"
            assert greeting["credits"]["requests"] == IN_FLIGHT_REQUESTS

    scenario(play)


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"", "malformed_frame"),
        (b"\xc1", "malformed_frame"),
        (b"\x91" * 20_000, "malformed_frame"),
        (encode_body([[1, "context", []]]), "malformed_frame"),
        (encode_body([[1, "hello", [MAGIC, 99]]]), "protocol_mismatch"),
    ],
)
def test_garbage_gets_one_clear_error_and_the_connection_is_closed(sent: bytes, code: str) -> None:
    async def play(served: Served) -> None:
        async with served.connected(greet=False) as raw:
            await raw.socket.send_bytes(sent)
            number, kind, error = await raw.answer()
            assert (number, kind, error[0]) == (0, ERROR, code)
            assert error[2], "an error without a hint"
            assert await raw.is_closed()
        await eventually(lambda: not served.service.connections, "end of the connection")

    scenario(play)


def test_text_is_refused() -> None:
    async def play(served: Served) -> None:
        async with served.connected() as raw:
            await raw.socket.send_str("[[1, 'context', []]]")
            assert (await raw.answer())[2][0] == "malformed_frame"
            assert await raw.is_closed()

    scenario(play)


def test_the_largest_message_is_taken_and_one_byte_more_is_not() -> None:
    async def play(served: Served) -> None:
        def padded(size: int) -> bytes:
            payload = encode_body([[1, "get", [["space"], ["k"], None, "x" * 60_000]]])
            pad = 60_000 + size - len(payload)
            return encode_body([[1, "get", [["space"], ["k"], None, "x" * pad]]])

        async with served.connected() as raw:
            assert len(padded(_FRAME_BYTES)) == _FRAME_BYTES
            await raw.socket.send_bytes(padded(_FRAME_BYTES))
            number, kind, error = await raw.answer()
            assert (number, kind, error[0]) == (1, ERROR, "malformed_frame")
            await raw.socket.send_bytes(padded(_FRAME_BYTES + 1))
            assert await raw.is_closed()
            assert raw.socket.close_code == aiohttp.WSCloseCode.MESSAGE_TOO_BIG

    scenario(play)


def test_requests_are_pipelined_far_beyond_what_may_be_in_flight() -> None:
    async def play(served: Served) -> None:
        count = 3 * IN_FLIGHT_REQUESTS
        async with served.connected() as raw:
            for number in range(count):
                step = (1, ("space",), 6, "n", "increment", (1,), None)
                body = ("local", 1_000, None), ("", 0, None, None, (step,))
                await raw.request(number + 1, "commit", body)
            answered = {(await raw.answer())[0] for _ in range(count)}
            assert answered == set(range(1, count + 1))
            await raw.request(0, "read", (("space",), 6, "n", None, 0))
            assert (await raw.answer())[2][0] == count

    scenario(play)


def test_a_client_that_does_not_read_is_not_read_either_and_loses_nothing() -> None:
    async def play(served: Served) -> None:
        await served.memory.space("space").put("big", b"x" * 100_000)
        keys = ("big",) * 10
        async with served.connected() as raw:
            count = 200  # 200 MB of answers, if they were all made.
            sending = asyncio.create_task(_send_all(raw, count, keys))
            (connection,) = served.service.connections
            await eventually(lambda: not connection.writable.is_set(), "pressure")
            carrier: Any = connection._carrier
            assert carrier._unsent_bytes <= UNREAD_BYTES + 2_000_000
            assert not sending.done()
            async with served.connected() as other:
                await other.request(1, "context", ())
                assert (await other.answer())[1] == RESULT
            for number in range(1, count + 1):
                found, _, values = await raw.answer()
                assert (found, len(values)) == (number, len(keys))
                assert await raw.answer() == (0, RESULT, False)
                assert carrier._unsent_bytes <= UNREAD_BYTES + 2_000_000
            await sending

    scenario(play)


async def _send_all(raw: Raw, count: int, keys: tuple[str, ...]) -> None:
    filler = "x" * 40_000  # So that the requests do not all fit into the kernel's buffers.
    for number in range(1, count + 1):
        await raw.request(number, "get", (("space",), (*keys,)))
        await raw.request(0, "cancel", filler)


def test_what_streams_is_told_ends_on_cancel_and_with_its_client() -> None:
    async def play(served: Served) -> None:
        async with served.connected() as raw:
            await raw.request(5, "wait", ((99, 99), 60_000))
            await raw.request(6, "cancel", 5)
            assert await raw.answer() == (6, RESULT, True)
            await raw.request(7, "keys", (("space",), 1))
            assert await raw.answer() == (7, RESULT, 0)
            await served.memory.space("space").put("k", 1)
            await raw.request(8, "keys", (("space",), 1))
            assert await raw.answer() == (8, EVENT, ("k",))
            assert await raw.answer() == (8, RESULT, 1)
            await raw.request(9, "wait", ((99, 99), 60_000))
            (connection,) = served.service.connections
            await eventually(lambda: connection._tasks, "request")
        await eventually(lambda: not served.service.connections, "end of the connection")
        await eventually(lambda: not connection._tasks, "end of the request")

    scenario(play)


def test_a_stop_ends_the_connection_behind_its_last_answer() -> None:
    async def play(served: Served) -> None:
        async with served.connected() as raw:
            await raw.request(1, "context", ())
            assert (await raw.answer())[1] == RESULT
            closing = asyncio.create_task(served.service.close())
            assert await raw.is_closed()
            await closing
            assert not served.service.connections
            assert raw.socket.close_code == aiohttp.WSCloseCode.GOING_AWAY

    scenario(play)


def test_a_node_serves_it_beside_its_http_api(tmp_path: Path) -> None:
    async def play(url: str) -> None:
        async with aiohttp.ClientSession() as session:
            async with session.ws_connect(url) as socket:
                raw = Raw(socket)
                await raw.request(0, "hello", (MAGIC, CONTROL_VERSION))
                await raw.request(1, "status", ())
                assert (await raw.answer())[2]["region"] == "here"
                assert (await raw.answer())[2]["clients"] == 1
            with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                await session.ws_connect(url, headers={"Origin": "https://example.org"})
            assert caught.value.status == 403
            async with session.get(url) as answer:
                assert answer.status == 400
                assert answer.content_type == "application/problem+json"

    with NodeProcess(tmp_path, "--region=here", "--http=127.0.0.1:0") as node:
        asyncio.run(play(f"{node.ready['http']}/v1/socket"))
