"""One suite over every transport: what the driver may rely on."""

from __future__ import annotations

import asyncio
import random
import socket
import time
from typing import cast

import pytest

from gossip.errors import TransportError
from gossip.transport.base import Exchanged, format_address, split_address
from gossip.transport.resolver import Resolver
from gossip.transport.sockets import Sockets
from tests.conformance.transport_sites import SITES, Place, Site
from tests.waiting import eventually, eventually_answered

_SECOND = 1_000_000


@pytest.fixture(params=sorted(SITES))
def site(request: pytest.FixtureRequest) -> Site:
    return SITES[request.param]


@pytest.fixture(params=sorted(name for name in SITES if name != "memory"))
def real(request: pytest.FixtureRequest) -> Site:
    return SITES[request.param]


# ------------------------------------------------------------------ datagrams


def test_a_datagram_arrives_whole_and_its_source_can_be_answered(site: Site) -> None:
    async def body(place: Place) -> None:
        ann, bob = await place.listener(), await place.listener()
        data = random.Random(1).randbytes(1_200)
        ann.transport.send(bob.address, data)
        await eventually(lambda: bob.datagrams, "datagram")
        assert bob.datagrams == [(data, ann.address)]
        bob.transport.send(bob.datagrams[0][1], b"thanks")
        await eventually(lambda: ann.datagrams, "answer")
        assert ann.datagrams == [(b"thanks", bob.address)]
        assert ann.transport.counters["datagrams sent"] == 1
        assert ann.transport.counters["datagram bytes sent"] == 1_200
        assert bob.transport.counters["datagrams received"] == 1

    site.run(body)


def test_many_datagrams_to_many(site: Site) -> None:
    async def body(place: Place) -> None:
        members = [await place.listener() for _ in range(5)]
        for member in members:
            for other in members:
                member.transport.send(other.address, member.address.encode())
        await eventually(
            lambda: all(len(member.datagrams) == 5 for member in members), "five datagrams each"
        )
        for member in members:
            assert all(data.decode() == source for data, source in member.datagrams)

    site.run(body)


def test_a_datagram_to_nobody_is_lost_without_a_word(site: Site) -> None:
    async def body(place: Place) -> None:
        ann, bob = await place.listener(), await place.listener()
        gone = bob.address
        await bob.transport.close()
        for _ in range(10):
            ann.transport.send(gone, b"hello?")
        carol = await place.listener()
        ann.transport.send(carol.address, b"still here")
        await eventually(lambda: carol.datagrams, "datagram after the failed ones")
        assert bob.datagrams == []

    site.run(body)


@pytest.mark.parametrize("address", ["", "nowhere", "a:b", "::1:80", "[x]:1", "h:99999", " :1"])
def test_what_is_no_address_is_counted(site: Site, address: str) -> None:
    async def body(place: Place) -> None:
        ann = await place.listener()
        ann.transport.send(address, b"hello?")
        assert ann.transport.counters["datagrams dropped: no address"] == 1
        assert await ann.transport.exchange(address, b"hello?", _SECOND) == Exchanged(None)

    site.run(body)


# ------------------------------------------------------------------ exchanges


@pytest.mark.parametrize("size", [0, 1, 1_000, 1_000_000])
def test_an_exchange_brings_the_answer(site: Site, size: int) -> None:
    async def body(place: Place) -> None:
        ann, bob = await place.listener(), await place.listener()
        frame = random.Random(size).randbytes(size)
        bob.reply = lambda frame: frame[::-1]
        outcome = await ann.transport.exchange(bob.address, frame, 20 * _SECOND)
        assert outcome == Exchanged(frame[::-1])
        assert bob.frames == [frame]

    site.run(body)


def test_many_exchanges_at_once_each_get_their_own_answer(site: Site) -> None:
    async def body(place: Place) -> None:
        ann, bob = await place.listener(), await place.listener()
        outcomes = await asyncio.gather(
            *(
                ann.transport.exchange(bob.address, str(number).encode(), 20 * _SECOND)
                for number in range(50)
            )
        )
        assert [outcome.frame for outcome in outcomes] == [
            b"re: " + str(number).encode() for number in range(50)
        ]

    site.run(body)


def test_an_answer_may_come_later(site: Site) -> None:
    async def body(place: Place) -> None:
        ann, bob = await place.listener(), await place.listener()
        bob.silent = True
        asking = asyncio.ensure_future(ann.transport.exchange(bob.address, b"?", 20 * _SECOND))
        await eventually(lambda: bob.streams, "frame")
        assert not asking.done()
        bob.transport.answer(bob.streams[0], b"!")
        assert await asking == Exchanged(b"!")

    site.run(body)


def test_a_refused_stream_has_no_answer_but_is_no_refusal_of_the_host(site: Site) -> None:
    async def body(place: Place) -> None:
        ann, bob = await place.listener(), await place.listener()
        bob.reply = lambda frame: None
        assert await ann.transport.exchange(bob.address, b"?", 20 * _SECOND) == Exchanged(None)
        assert bob.frames == [b"?"]

    site.run(body)


def test_where_nobody_listens_the_host_says_so(site: Site) -> None:
    async def body(place: Place) -> None:
        ann, bob = await place.listener(), await place.listener()
        await bob.transport.close()
        outcome = await ann.transport.exchange(bob.address, b"?", 20 * _SECOND)
        assert outcome == Exchanged(None, refused=True)

    site.run(body)


def test_an_exchange_ends_within_its_timeout_when_nobody_answers(site: Site) -> None:
    async def body(place: Place) -> None:
        ann, bob = await place.listener(), await place.listener()
        bob.silent = True
        began = time.monotonic()
        assert await ann.transport.exchange(bob.address, b"?", 50_000) == Exchanged(None)
        assert 0.045 <= time.monotonic() - began < 5
        # And the stream does not stay behind: it no longer counts.
        bob.silent = False
        assert (await ann.transport.exchange(bob.address, b"?", 20 * _SECOND)).frame == b"re: ?"

    site.run(body)


def test_streams_that_others_open_are_bounded(site: Site) -> None:
    async def body(place: Place) -> None:
        ann, bob = await place.listener(), await place.listener(accepted=2)
        bob.silent = True
        asking = [
            asyncio.ensure_future(ann.transport.exchange(bob.address, b"?", 20 * _SECOND))
            for _ in range(2)
        ]
        await eventually(lambda: len(bob.streams) == 2, "two streams")
        assert await ann.transport.exchange(bob.address, b"!", 20 * _SECOND) == Exchanged(None)
        assert bob.transport.counters["streams dropped: too many"] == 1
        for stream in bob.streams:
            bob.transport.answer(stream, b"now")
        assert [await each for each in asking] == [Exchanged(b"now")] * 2
        bob.silent = False
        outcome = await ann.transport.exchange(bob.address, b"!", 20 * _SECOND)
        assert outcome == Exchanged(b"re: !"), "room is made when streams end"

    site.run(body)


# ------------------------------------------------------------------ beginning and end


def test_an_address_that_is_taken_is_refused(site: Site) -> None:
    async def body(place: Place) -> None:
        ann = await place.listener()
        with pytest.raises(TransportError):
            await place.listener(ann.address)

    site.run(body)


def test_after_its_close_nothing_is_told_and_the_address_is_free(site: Site) -> None:
    async def body(place: Place) -> None:
        ann, bob = await place.listener(), await place.listener()
        bob.silent = True
        asking = asyncio.ensure_future(ann.transport.exchange(bob.address, b"?", 20 * _SECOND))
        await eventually(lambda: bob.streams, "frame")
        ann.transport.send(bob.address, b"too late")
        await bob.transport.close()
        await bob.transport.close()
        assert await asking == Exchanged(None)
        told = (list(bob.datagrams), list(bob.frames))
        again = await place.listener(bob.address)
        ann.transport.send(again.address, b"news")
        await eventually(lambda: again.datagrams, "datagram at the second life")
        assert (await ann.transport.exchange(again.address, b"?", 20 * _SECOND)).frame == b"re: ?"
        assert (bob.datagrams, bob.frames) == told

    site.run(body)


def test_cancelling_an_exchange_leaves_nothing_behind(site: Site) -> None:
    async def body(place: Place) -> None:
        ann, bob = await place.listener(), await place.listener(accepted=1)
        bob.silent = True
        asking = asyncio.ensure_future(ann.transport.exchange(bob.address, b"?", 20 * _SECOND))
        await eventually(lambda: bob.streams, "frame")
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        bob.silent = False

        async def answered() -> bool:
            outcome = await ann.transport.exchange(bob.address, b"?", 20 * _SECOND)
            return outcome.frame == b"re: ?"

        await eventually_answered(answered, "room for another stream")

    site.run(body)


# ------------------------------------------------------------------ sockets only


def raw(address: str) -> socket.socket:
    connection = socket.create_connection(split_address(address), timeout=10)
    connection.setblocking(False)
    return connection


async def ends(connection: socket.socket) -> None:
    """Read until the other side ends the stream, however it does."""
    loop = asyncio.get_running_loop()
    try:
        while await loop.sock_recv(connection, 65_536):
            pass
    except ConnectionError:
        return


async def drip(connection: socket.socket, data: bytes) -> None:
    """Send byte after byte, for as long as the other side takes them."""
    while True:
        await asyncio.get_running_loop().sock_sendall(connection, data)
        data = b"x"
        await asyncio.sleep(0)


def test_names_are_resolved(real: Site) -> None:
    async def body(place: Place) -> None:
        ann, bob = await place.listener(), await place.listener()
        name = f"localhost:{split_address(bob.address)[1]}"
        ann.transport.send(name, b"by name")
        await eventually(lambda: bob.datagrams, "datagram")
        assert (await ann.transport.exchange(name, b"?", 20 * _SECOND)).frame == b"re: ?"
        lost = "no-such-host.invalid:1"
        ann.transport.send(lost, b"?")
        await eventually(
            lambda: ann.transport.counters["datagrams dropped: no address"], "counted loss"
        )
        assert await ann.transport.exchange(lost, b"?", 20 * _SECOND) == Exchanged(None)

    real.run(body)


def test_routes_translate_advertised_addresses(real: Site) -> None:
    async def body(place: Place) -> None:
        bob = await place.listener()
        ann = await place.listener(routes={"bob.example:7421": bob.address})
        ann.transport.send("bob.example:7421", b"hello")
        await eventually(lambda: bob.datagrams, "datagram")
        outcome = await ann.transport.exchange("bob.example:7421", b"?", 20 * _SECOND)
        assert outcome.frame == b"re: ?"

    real.run(body)


def test_the_silent_are_dropped(real: Site) -> None:
    async def body(place: Place) -> None:
        bob = await place.listener(silence_s=0.05)
        with raw(bob.address) as mute, raw(bob.address) as half:
            await asyncio.get_running_loop().sock_sendall(half, b"frames please...\x00\x00")
            await ends(mute)
            await ends(half)
        assert bob.transport.counters["streams dropped: silent"] == 2
        assert bob.frames == []

    real.run(body)


def test_the_slow_are_dropped_although_they_are_never_silent(real: Site) -> None:
    async def body(place: Place) -> None:
        bob = await place.listener(life_s=0.1)
        with raw(bob.address) as slow, pytest.raises(ConnectionError):
            await drip(slow, b"frames please...\0\x10\0\0")
        assert bob.transport.counters["streams dropped: silent"] == 1
        assert bob.frames == []

    real.run(body)


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "streams dropped: AuthenticationFailed"),
        (b"frames please...\xff\xff\xff\xff", "streams dropped: Malformed"),
        (b"frames please...\0\0\0\1a\0\0\0\1b", "streams dropped: too many frames"),
    ],
)
def test_what_the_seal_refuses_ends_the_stream(real: Site, sent: bytes, reason: str) -> None:
    async def body(place: Place) -> None:
        bob = await place.listener()
        with raw(bob.address) as stranger:
            await asyncio.get_running_loop().sock_sendall(stranger, sent)
            await ends(stranger)
        assert bob.transport.counters[reason] == 1
        assert bob.frames == []

    real.run(body)


def test_a_frame_in_single_bytes_is_one_frame(real: Site) -> None:
    async def body(place: Place) -> None:
        bob = await place.listener()
        with raw(bob.address) as slow:
            for byte in b"frames please...\0\0\0\5hello":
                await asyncio.get_running_loop().sock_sendall(slow, bytes([byte]))
                await asyncio.sleep(0)
            await ends(slow)
        assert bob.frames == [b"hello"]

    real.run(body)


def test_both_sockets_or_neither(real: Site) -> None:
    async def body(place: Place) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
            # A port that nobody has for streams: it is asked for there first.
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                taken.bind(free.getsockname())
            address = format_address(*taken.getsockname())
            with pytest.raises(TransportError, match="datagrams"):
                await place.listener(address)
            with pytest.raises(ConnectionRefusedError):
                raw(address)

    real.run(body)


def test_a_datagram_that_no_socket_takes_is_counted(real: Site) -> None:
    async def body(place: Place) -> None:
        ann, bob = await place.listener(), await place.listener()
        ann.transport.send(bob.address, bytes(70_000))
        ann.transport.send("[::1]:9", b"of another family")
        ann.transport.send(bob.address, b"fits")
        await eventually(lambda: bob.datagrams, "datagram")
        assert [data for data, _ in bob.datagrams] == [b"fits"]

    real.run(body)


def test_a_connection_that_another_listener_accepted_is_taken_over(real: Site) -> None:
    class Front(asyncio.Protocol):
        """It looks at the first bytes, and hands the connection on."""

        def __init__(self, sockets: Sockets) -> None:
            self.sockets = sockets

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = cast("asyncio.Transport", transport)

        def data_received(self, data: bytes) -> None:
            self.sockets.adopt(self.transport, data)

    async def body(place: Place) -> None:
        ann = await place.listener()
        bob = await place.listener(listen_streams=False)
        front = await asyncio.get_running_loop().create_server(
            lambda: Front(cast("Sockets", bob.transport)), *split_address(bob.address)
        )
        for size in (3, 1_000_000):
            outcome = await ann.transport.exchange(bob.address, bytes(size), 20 * _SECOND)
            assert outcome.frame == b"re: " + bytes(size)
        ann.transport.send(bob.address, b"datagram")
        await eventually(lambda: bob.datagrams, "datagram")
        bob.silent = True
        asking = asyncio.ensure_future(ann.transport.exchange(bob.address, b"?", 20 * _SECOND))
        await eventually(lambda: len(bob.streams) == 3, "a third frame")
        await bob.transport.close()
        assert await asking == Exchanged(None), "adopted streams end with the transport"
        front.close()
        await front.wait_closed()

    real.run(body)


def test_resolved_names_are_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        asked = []

        async def getaddrinfo(host: str, port: int, **more: object) -> list[object]:
            asked.append(host)
            return [(socket.AF_INET, 1, 6, "", (f"10.0.0.{len(asked)}", port))]

        monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
        kept, fleeting = Resolver(kept_s=60), Resolver(kept_s=0)
        both = await asyncio.gather(kept.resolve("node-1:7421"), kept.resolve("node-1:7421"))
        assert list(both) == [("10.0.0.1", 7421)] * 2, "one question at a time"
        assert kept.known("node-1:7421") == ("10.0.0.1", 7421)
        assert await fleeting.resolve("node-1:7421") == ("10.0.0.2", 7421)
        assert await fleeting.resolve("node-1:7421") == ("10.0.0.3", 7421)
        assert kept.known("10.1.1.1:5") == ("10.1.1.1", 5)
        assert kept.known("[::1]:5") == ("::1", 5)

    asyncio.run(body())
