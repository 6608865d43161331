"""Streams between nodes, over real sockets: who is let in, who is not, and what either costs."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from crdtmem import peer_stream
from crdtmem.peer_stream import PeerStream
from gossip.keyring import Keyring
from gossip.stream_seal import EMBEDDER, MESH, SALT_BYTES, StreamSeal
from tests.waiting import eventually

RING = Keyring([b"a" * 32])
OTHER = Keyring([b"b" * 32])
LIMIT_S = 20.0


class Owner:
    """Keeps what streams tell it, in place of a node."""

    def __init__(self, ring: Keyring | None = RING, *, label: str = "here", most: int = 10) -> None:
        self.ring = ring
        self.label = label
        self.most = most
        self.buffer_bytes = 1 << 16
        self.takes_mesh = True
        self.made: list[PeerStream] = []
        self.counted: set[PeerStream] = set()
        self.announced: list[PeerStream] = []
        self.lost_ones: list[PeerStream] = []
        self.bytes: dict[PeerStream, bytes] = {}
        self.adopted: list[tuple[asyncio.Transport, bytes]] = []

    def new(self, dialled: str | None = None) -> PeerStream:
        self.made.append(PeerStream(self, len(self.made), dialled))
        return self.made[-1]

    def seal(self, *, initiator: bool) -> StreamSeal:
        salt = secrets.token_bytes(SALT_BYTES)
        return StreamSeal(self.label, self.ring, salt, initiator=initiator, purpose=EMBEDDER)

    def admits(self, stream: PeerStream) -> bool:
        if len(self.counted) >= self.most:
            return False
        self.counted.add(stream)
        return True

    def opened(self, stream: PeerStream) -> bool:
        self.announced.append(stream)
        return True

    def received(self, stream: PeerStream, data: bytes) -> None:
        self.bytes[stream] = self.bytes.get(stream, b"") + data

    def lost(self, stream: PeerStream) -> None:
        self.counted.discard(stream)
        self.lost_ones.append(stream)

    def adopt(self, transport: asyncio.Transport, received: bytes) -> bool:
        if self.takes_mesh:
            self.adopted.append((transport, received))
        return self.takes_mesh


@asynccontextmanager
async def listening(owner: Owner) -> AsyncIterator[int]:
    """Let a node listen; yield its port."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(owner.new, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for stream in owner.made:
            stream._transport.abort()
            # One that was handed over has ended here, but its socket is still to be closed.
            await stream.ended.wait()
        await server.wait_closed()
        # Sockets close in the next turn of the loop.
        await asyncio.sleep(0)


@asynccontextmanager
async def stranger(
    port: int,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connect with nothing but a socket."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        await end(writer)


async def end(writer: asyncio.StreamWriter) -> None:
    """End a socket for certain."""
    writer.transport.abort()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def dial(owner: Owner, port: int) -> PeerStream:
    loop = asyncio.get_running_loop()
    _, stream = await loop.create_connection(lambda: owner.new("there"), "127.0.0.1", port)
    return stream


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(LIMIT_S):
            await scenario()

    asyncio.run(bounded())


@pytest.mark.parametrize("ring", [RING, None], ids=["sealed", "plain"])
def test_two_nodes_of_one_cluster_exchange_bytes_in_both_directions(ring: Keyring | None) -> None:
    async def play() -> None:
        here, there = Owner(ring), Owner(ring)
        async with listening(here) as port:
            stream = await dial(there, port)
            await eventually(lambda: here.announced and there.announced, "proof on both sides")
            (accepted,) = here.announced
            data = secrets.token_bytes(300_000)
            here.buffer_bytes = there.buffer_bytes = 1 << 20
            for start in range(0, len(data), 10_000):
                stream.send(data[start : start + 10_000])
                accepted.send(data[start : start + 10_000])
                await asyncio.sleep(0)
            await eventually(lambda: here.bytes.get(accepted) == data, "all of it there")
            await eventually(lambda: there.bytes.get(stream) == data, "all of it here")
            assert stream.sent_bytes > len(data)

    run(play)


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        (Owner(RING), Owner(OTHER)),
        (Owner(RING), Owner(None)),
        (Owner(None), Owner(RING)),
        (Owner(RING), Owner(RING, label="elsewhere")),
        (Owner(None), Owner(None, label="elsewhere")),
    ],
    ids=[
        "other key",
        "plain knocks",
        "sealed knocks at plain",
        "other label",
        "plain, other label",
    ],
)
def test_who_does_not_belong_is_never_announced_and_the_listener_says_why(
    mine: Owner, theirs: Owner
) -> None:
    async def play() -> None:
        async with listening(mine) as port:
            stream = await dial(theirs, port)
            await stream.ended.wait()
            await eventually(lambda: mine.lost_ones, "its end")
        assert mine.announced == []
        assert theirs.announced == []
        assert len(mine.lost_ones) == len(theirs.lost_ones) == 1
        assert mine.counted == set()
        errors = f"{mine.lost_ones[0].error} {stream.error}"
        assert "no stream of this cluster" in errors

    run(play)


@pytest.mark.parametrize(
    "words", [b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 64, b"GSP1\x07" + b"x" * 40, b"GSP2" + b"y" * 60]
)
def test_strangers_are_dropped_at_their_first_bytes_and_told_nothing(words: bytes) -> None:
    async def play() -> None:
        owner = Owner()
        async with listening(owner) as port, stranger(port) as (reader, writer):
            writer.write(words)
            try:
                heard = await reader.read()
            except ConnectionResetError:
                heard = b""
            assert heard == b""
            await eventually(lambda: owner.lost_ones, "its end")
            assert owner.announced == []
            assert owner.counted == set()

    run(play)


def test_a_connection_for_the_mesh_is_handed_over_with_all_it_said() -> None:
    async def play() -> None:
        owner = Owner()
        salt = secrets.token_bytes(SALT_BYTES)
        hello = StreamSeal("here", RING, salt, initiator=True, purpose=MESH).hello()
        async with listening(owner) as port, stranger(port) as (_, writer):
            # In two parts: the purpose is not known before the second.
            writer.write(hello[:3])
            await eventually(lambda: owner.made and owner.made[0].received_bytes == 3, "the first")
            writer.write(hello[3:])
            await eventually(lambda: owner.adopted, "the hand-over")
            assert owner.adopted[0][1] == hello
            assert owner.lost_ones == owner.made
            assert owner.counted == set()
            assert owner.announced == []

    run(play)


def test_without_a_mesh_such_a_connection_is_dropped() -> None:
    async def play() -> None:
        owner = Owner()
        owner.takes_mesh = False
        salt = secrets.token_bytes(SALT_BYTES)
        hello = StreamSeal("here", RING, salt, initiator=True, purpose=MESH).hello()
        async with listening(owner) as port, stranger(port) as (reader, writer):
            writer.write(hello)
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await reader.readexactly(1)
            await eventually(lambda: owner.lost_ones, "its end")

    run(play)


@pytest.mark.parametrize("said", ["nothing", "a hello", "a proof"])
def test_who_stays_silent_is_dropped(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_stream, "SILENT_S", 0.1)

    async def play() -> None:
        owner, other = Owner(), Owner()
        async with listening(owner) as port:
            if said == "a proof":
                # It proves itself, and then has nothing to say.
                stream = await dial(other, port)
                await eventually(lambda: owner.announced, "proof")
                await stream.ended.wait()
            else:
                async with stranger(port) as (_, writer):
                    if said == "a hello":
                        writer.write(other.seal(initiator=True).hello())
                    await eventually(lambda: owner.lost_ones, "its end")
            await eventually(lambda: owner.lost_ones, "its end")
            assert "said nothing" in str(owner.made[0].error)
            assert owner.counted == set()

    run(play)


def test_a_connection_too_many_is_refused_and_those_that_are_stay() -> None:
    async def play() -> None:
        owner, other = Owner(most=2), Owner()
        async with listening(owner) as port:
            streams = [await dial(other, port) for _ in range(2)]
            await eventually(lambda: len(owner.announced) == 2, "two")
            third = await dial(other, port)
            await third.ended.wait()
            assert len(owner.announced) == 2
            streams[0].send(b"still here")
            await eventually(lambda: owner.bytes.get(owner.announced[0]) == b"still here", "word")

    run(play)


class Recorder:
    """Somebody on the path: passes everything on, keeps it, and may change a byte."""

    def __init__(self, port: int, harm_at: int | None = None) -> None:
        self.port = port
        self.harm_at = harm_at
        self.seen = b""
        self.carrying: set[asyncio.Task[None]] = set()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.carrying.add(asyncio.get_running_loop().create_task(self.carry(reader, writer)))

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far, onward = await asyncio.open_connection("127.0.0.1", self.port)

        async def back() -> None:
            with contextlib.suppress(ConnectionError):
                while data := await far.read(65_536):
                    writer.write(data)
            writer.close()

        async def forth() -> None:
            with contextlib.suppress(ConnectionError):
                while data := await reader.read(65_536):
                    onward.write(self.harmed(data))
                    self.seen += data
            onward.close()

        try:
            await asyncio.gather(back(), forth())
        finally:
            await end(writer)
            await end(onward)

    def harmed(self, data: bytes) -> bytes:
        at = -1 if self.harm_at is None else self.harm_at - len(self.seen)
        if not 0 <= at < len(data):
            return data
        return data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]


@asynccontextmanager
async def on_the_path(port: int, harm_at: int | None = None) -> AsyncIterator[tuple[int, Recorder]]:
    recorder = Recorder(port, harm_at)
    server = await asyncio.start_server(recorder.accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], recorder
    finally:
        server.close()
        await server.wait_closed()
        for task in recorder.carrying:
            task.cancel()
        await asyncio.gather(*recorder.carrying, return_exceptions=True)


def test_a_recorded_stream_cannot_be_played_again() -> None:
    async def play() -> None:
        owner, other = Owner(), Owner()
        async with listening(owner) as port:
            async with on_the_path(port) as (entry, recorder):
                stream = await dial(other, entry)
                await eventually(lambda: other.announced and owner.announced, "proof")
                stream.send(b"pay 10")
                await eventually(lambda: owner.bytes.get(owner.announced[0]) == b"pay 10", "word")
                stream._transport.close()
                await stream.ended.wait()
            async with stranger(port) as (_, writer):
                writer.write(recorder.seen)
                await eventually(lambda: len(owner.lost_ones) == 2, "its end")
            assert len(owner.announced) == 1
            assert list(owner.bytes.values()) == [b"pay 10"]

    run(play)


@pytest.mark.parametrize("place", ["salt", "proof", "length", "frame"])
def test_a_byte_that_was_changed_on_the_way_ends_the_stream(place: str) -> None:
    async def play() -> None:
        owner, other = Owner(), Owner()
        hello = len(other.seal(initiator=True).hello())
        proof = 4 + 16
        harm_at = {
            "salt": hello - 6,
            "proof": hello + 5,
            "length": hello + proof + 3,
            "frame": hello + proof + 8,
        }[place]
        async with listening(owner) as port, on_the_path(port, harm_at) as (entry, _):
            stream = await dial(other, entry)
            if place in ("length", "frame"):
                await eventually(lambda: other.announced and owner.announced, "proof")
                stream.send(b"pay 10" * 100)
                if place == "length":
                    # One byte more or less than there is: the next record shows it.
                    stream.send(b"pay 20" * 100)
            await stream.ended.wait()
            await eventually(lambda: owner.lost_ones, "its end")
            assert owner.bytes == {}

    run(play)


def test_a_peer_that_takes_nothing_is_dropped_at_the_bound() -> None:
    async def play() -> None:
        owner, other = Owner(), Owner()
        async with listening(owner) as port:
            stream = await dial(other, port)
            await eventually(lambda: owner.announced and other.announced, "proof")
            accepted = owner.announced[0]._transport
            accepted.pause_reading()
            sent = 0
            while not stream._transport.is_closing():
                stream.send(b"x" * 65_536)
                sent += 1
                assert sent < 10_000, "what is untaken is not bounded"
                await asyncio.sleep(0)
            await stream.ended.wait()
            assert "untaken" in str(stream.error)
            accepted.abort()

    run(play)
