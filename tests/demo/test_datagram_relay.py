"""The datagrams of a link: late, lost, cut and bounded, but never changed or doubled."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from crdtmem.datagram_relay import DatagramRelay
from crdtmem.errors import Closed, ConfigError
from crdtmem.relay import LinkShape
from tests.waiting import eventually

Send = Callable[[bytes], None]


class Target(asyncio.DatagramProtocol):
    """Keeps what arrives."""

    def __init__(self) -> None:
        self.received: list[bytes] = []

    def datagram_received(self, data: bytes, source: tuple[Any, ...]) -> None:
        self.received.append(data)


@asynccontextmanager
async def link(
    shape: LinkShape, loss_percent: float = 0.0
) -> AsyncIterator[tuple[DatagramRelay, Target, Send]]:
    loop = asyncio.get_running_loop()
    listening, target = await loop.create_datagram_endpoint(Target, local_addr=("127.0.0.1", 0))
    port = listening.get_extra_info("sockname")[1]
    relay = DatagramRelay("127.0.0.1", port, shape, seed=7, loss_percent=loss_percent)
    address = ("127.0.0.1", await relay.start())
    sending, _ = await loop.create_datagram_endpoint(
        asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
    )
    try:
        yield relay, target, lambda data: sending.sendto(data, address)
    finally:
        await relay.close()
        sending.abort()
        listening.abort()


def test_a_datagram_arrives_once_unchanged_and_not_before_its_time() -> None:
    async def play() -> None:
        async with link(LinkShape(latency_ms=30)) as (relay, target, send):
            began = time.monotonic()
            for number in range(20):
                send(b"%d" % number)
            await eventually(lambda: len(target.received) == 20, "all that was sent")
            assert time.monotonic() - began >= 0.03
            assert sorted(target.received, key=int) == [b"%d" % number for number in range(20)]
            assert relay.totals.carried == 20

    asyncio.run(play())


def test_a_cut_loses_what_is_sent_and_what_is_under_way() -> None:
    async def play() -> None:
        async with link(LinkShape(latency_ms=400)) as (relay, target, send):
            send(b"under way")
            await eventually(lambda: relay._held_bytes > 0, "the datagram under way")
            relay.cut()
            send(b"into the void")
            await eventually(lambda: relay.totals.cut == 2, "two losses")
            relay.heal()
            send(b"after")
            await eventually(lambda: target.received == [b"after"], "what was sent after healing")

    asyncio.run(play())


def test_loss_takes_about_its_part() -> None:
    async def play() -> None:
        async with link(LinkShape(), loss_percent=30) as (relay, target, send):
            for number in range(400):
                send(b"%d" % number)
                totals = relay.totals
                # One at a time, so that no socket's buffer loses any of them besides.
                await eventually(
                    lambda n=number, t=totals: t.lost + t.carried == n + 1,  # type: ignore[misc]
                    "the relay's turn",
                )
            lost = relay.totals.lost
            assert 80 <= lost <= 160
            await eventually(lambda: len(target.received) == 400 - lost, "the rest")

    asyncio.run(play())


def test_what_is_under_way_is_bounded() -> None:
    async def play() -> None:
        shape = LinkShape(latency_ms=400, buffer_bytes=1_000)
        async with link(shape) as (relay, target, send):
            for _ in range(5):
                send(bytes(400))
            await eventually(lambda: relay.totals.overflowed == 3, "what does not fit")
            await eventually(lambda: len(target.received) == 2, "what fits")
            assert relay._held_bytes == 0

    asyncio.run(play())


def test_after_the_end_nothing_is_sent() -> None:
    async def play() -> None:
        async with link(LinkShape(latency_ms=400)) as (relay, target, send):
            send(b"late")
            await eventually(lambda: relay._held_bytes > 0, "the datagram under way")
            await relay.close()
            await eventually(lambda: relay._held_bytes == 0, "its time")
            assert target.received == []
            with pytest.raises(Closed):
                _ = relay.listening_port

    asyncio.run(play())


def test_a_loss_that_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError):
        DatagramRelay("127.0.0.1", 1, loss_percent=101)
