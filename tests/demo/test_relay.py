"""The relay: a link that is late, narrow, silent or torn, and never loses its order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from crdtmem.errors import ConfigError
from crdtmem.relay import BACKWARD, FORWARD, LinkShape, Relay
from tests.waiting import eventually

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
TIMEOUT_S = 20.0


class Server:
    """A target that keeps what it was sent and answers when told to."""

    def __init__(self) -> None:
        self.received = b""
        self.ended = 0
        self.streams: list[Streams] = []
        self.reading = asyncio.Event()
        self.reading.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.streams.append((reader, writer))
        try:
            while True:
                await self.reading.wait()
                chunk = await reader.read(65536)
                if not chunk:
                    break
                self.received += chunk
        except ConnectionError:
            self.received += b"<reset>"
        self.ended += 1


async def gone(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with suppress(ConnectionError):
        await writer.wait_closed()


@asynccontextmanager
async def link(shape: LinkShape) -> AsyncIterator[tuple[Relay, Server, Streams]]:
    server = Server()
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    relay = Relay("127.0.0.1", listening.sockets[0].getsockname()[1], shape, seed=7)
    port = await relay.start()
    streams = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield relay, server, streams
    finally:
        await relay.close()
        for _, writer in [streams, *server.streams]:
            await gone(writer)
        listening.close()
        await listening.wait_closed()


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(TIMEOUT_S):
            await scenario()

    asyncio.run(bounded())


def test_bytes_arrive_late_whole_and_in_order() -> None:
    async def scenario() -> None:
        async with link(LinkShape(latency_ms=40, jitter_ms=30)) as (
            relay,
            server,
            (reader, writer),
        ):
            started = time.monotonic()
            sent = b"".join(b"%06d" % number for number in range(5_000))
            for start in range(0, len(sent), 999):
                writer.write(sent[start : start + 999])
                await writer.drain()
            await eventually(lambda: server.received == sent, "everything")
            assert time.monotonic() - started >= 0.040
            answered = time.monotonic()
            server.streams[0][1].write(b"answer")
            assert await reader.readexactly(6) == b"answer"
            assert time.monotonic() - answered >= 0.040
            assert relay.connections == 1

    run(scenario)


def test_a_narrow_link_takes_its_time() -> None:
    async def scenario() -> None:
        shape = LinkShape(bandwidth_bytes_per_s=1_000_000)
        async with link(shape) as (_, server, (_, writer)):
            started = time.monotonic()
            writer.write(b"x" * 200_000)
            await eventually(lambda: len(server.received) == 200_000, "everything")
            assert time.monotonic() - started >= 0.190

    run(scenario)


def test_a_link_may_become_another_while_it_carries() -> None:
    async def scenario() -> None:
        async with link(LinkShape()) as (relay, server, (_, writer)):
            writer.write(b"quick")
            await eventually(lambda: server.received == b"quick", "the first")
            relay.reshape(LinkShape(latency_ms=80))
            started = time.monotonic()
            writer.write(b", slow")
            await eventually(lambda: server.received == b"quick, slow", "the second")
            assert time.monotonic() - started >= 0.080

    run(scenario)


def test_what_is_lost_comes_again_later_whole_and_in_order() -> None:
    async def scenario() -> None:
        # Every other chunk has to be sent again.
        async with link(LinkShape(loss=0.5, resend_ms=1e-3)) as (_, server, (_, writer)):
            sent = bytes(range(200))
            for number in range(200):
                writer.write(sent[number : number + 1])
                await writer.drain()
            await eventually(lambda: server.received == sent, "everything")

    run(scenario)
    with pytest.raises(ConfigError, match="loss"):
        LinkShape(loss=1.0)


def test_a_cut_is_silent_and_what_was_held_arrives_after_it() -> None:
    async def scenario() -> None:
        async with link(LinkShape(latency_ms=5)) as (relay, server, (reader, writer)):
            writer.write(b"before ")
            await eventually(lambda: server.received == b"before ", "what was sent before")
            relay.cut()
            assert relay.is_cut
            writer.write(b"during ")
            server.streams[0][1].write(b"answer")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await reader.read(1)
            assert server.received == b"before "
            assert server.ended == 0, "a black hole says nothing"
            relay.heal()
            await eventually(lambda: server.received == b"before during ", "what was held")
            assert await reader.readexactly(6) == b"answer"

    run(scenario)


@pytest.mark.parametrize("direction", [FORWARD, BACKWARD])
def test_one_direction_alone_can_be_cut(direction: str) -> None:
    async def scenario() -> None:
        async with link(LinkShape()) as (relay, server, (reader, writer)):
            await eventually(lambda: server.streams, "connection")
            relay.cut(FORWARD if direction == FORWARD else BACKWARD)
            writer.write(b"there")
            server.streams[0][1].write(b"back")
            if direction == FORWARD:
                assert await reader.readexactly(4) == b"back"
                assert server.received == b""
            else:
                await eventually(lambda: server.received == b"there", "what was sent")
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await reader.read(1)
            relay.heal()
            await eventually(lambda: server.received == b"there", "what was sent")

    run(scenario)


def test_a_full_link_makes_the_sender_wait_and_loses_nothing() -> None:
    async def scenario() -> None:
        shape = LinkShape(buffer_bytes=100_000)
        async with link(shape) as (relay, server, (_, writer)):
            await eventually(lambda: server.streams, "connection")
            relay.cut()
            size = 0
            drained = asyncio.create_task(writer.drain())
            while size < 50_000_000 and (await asyncio.wait({drained}, timeout=0.3))[0]:
                writer.write(b"y" * 1_000_000)
                size += 1_000_000
                drained = asyncio.create_task(writer.drain())
            assert not drained.done(), "nothing held the sender back"
            relay.heal()
            await eventually(lambda: len(server.received) == size, "everything")
            await drained

    run(scenario)


def test_a_reset_tears_down_both_ends() -> None:
    async def scenario() -> None:
        async with link(LinkShape()) as (relay, server, (reader, writer)):
            writer.write(b"hello")
            await eventually(lambda: server.received == b"hello", "greeting")
            relay.reset()
            with pytest.raises(ConnectionError):
                await reader.readexactly(1)
            await eventually(lambda: server.ended == 1, "end at the target")
            await eventually(lambda: relay.connections == 0, "end of the connection")

    run(scenario)


def test_a_connection_opened_across_a_cut_is_made_when_it_heals() -> None:
    async def scenario() -> None:
        async with link(LinkShape()) as (relay, server, (_, first)):
            first.write(b"first ")
            await eventually(lambda: server.received == b"first ", "first connection")
            relay.cut()
            _, second = await asyncio.open_connection("127.0.0.1", relay.listening_port)
            second.write(b"second")
            await eventually(lambda: relay.connections == 2, "second connection")
            assert len(server.streams) == 1
            relay.heal()
            await eventually(lambda: server.received == b"first second", "second connection")
            await gone(second)

    run(scenario)


def test_an_end_travels_behind_the_bytes_and_the_answer_still_comes_back() -> None:
    async def scenario() -> None:
        async with link(LinkShape(latency_ms=20)) as (relay, server, (reader, writer)):
            writer.write(b"all of it")
            writer.write_eof()
            await eventually(lambda: server.ended == 1, "end")
            assert server.received == b"all of it"
            server.streams[0][1].write(b"thanks")
            server.streams[0][1].write_eof()
            assert await reader.read() == b"thanks"
            await eventually(lambda: relay.connections == 0, "end of the connection")
            assert (relay.totals.bytes_forward, relay.totals.bytes_backward) == (9, 6)

    run(scenario)


def test_a_target_that_is_not_there_is_a_closed_connection() -> None:
    async def scenario() -> None:
        probe = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        port = probe.sockets[0].getsockname()[1]
        probe.close()
        await probe.wait_closed()
        async with Relay("127.0.0.1", port) as relay:
            reader, writer = await asyncio.open_connection("127.0.0.1", relay.listening_port)
            with pytest.raises(ConnectionError):
                await reader.readexactly(1)
            assert relay.totals.refused == 1
            await gone(writer)

    run(scenario)


@pytest.mark.parametrize(
    "shape", [{"latency_ms": -1}, {"bandwidth_bytes_per_s": -1}, {"buffer_bytes": 0}]
)
def test_a_shape_that_no_link_has_is_refused(shape: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        LinkShape(**shape)
