"""Frames: any split gives the same messages, anything malformed is refused, in bounded memory."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdtmem.causality import VersionVector
from crdtmem.codec import pack
from crdtmem.errors import CrdtmemError, FrameTooLarge, MalformedFrame, RemoteError
from crdtmem.frames import HEADER_BYTES, MESSAGES, FrameReader, decode_payload, encode_frame
from crdtmem.messages import OPTIONAL_FROM, Acknowledge, Batches, Ping
from tests.sync.fuzz_receive import attack, corpus, kinds

LIMIT = 1 << 20
SLOW = (pytest.mark.slow, pytest.mark.timeout(600))


def test_every_message_is_in_the_corpus() -> None:
    assert kinds(corpus()) == set(MESSAGES)


@given(st.integers(0, 1 << 32))
def test_any_split_of_a_stream_gives_the_same_messages(seed: int) -> None:
    draw = Random(seed)
    frames = draw.sample(corpus(), 5)
    stream = b"".join(frames)
    reader, found = FrameReader(LIMIT), []
    start = 0
    while start < len(stream):
        size = draw.choice((1, 3, 17, 1_000))
        found += list(reader.feed(stream[start : start + size]))
        start += size
    assert found == [decode_payload(frame[HEADER_BYTES:]) for frame in frames]
    assert len(reader) == 0


@pytest.mark.parametrize("code", sorted(MESSAGES))
def test_messages_survive_the_round_trip_to_the_byte(code: int) -> None:
    for frame in corpus():
        message = decode_payload(frame[HEADER_BYTES:])
        assert message is not None
        if code == message.CODE:
            assert encode_frame(message) == frame
            assert type(message) is MESSAGES[code]


@given(st.binary(max_size=200))
def test_noise_is_refused_or_waits(noise: bytes) -> None:
    reader = FrameReader(64)
    try:
        list(reader.feed(noise))
    except RemoteError:
        assert len(reader) == 0
    else:
        assert len(reader) <= 64 + HEADER_BYTES


def test_a_length_over_the_limit_is_refused_before_its_payload_comes() -> None:
    reader = FrameReader(100)
    with pytest.raises(FrameTooLarge):
        list(reader.feed((101).to_bytes(4, "big") + bytes(4)))
    assert len(reader) == 0
    with pytest.raises(MalformedFrame):
        list(reader.feed(encode_frame(Ping(1))))


def test_a_flipped_bit_is_noticed_wherever_it_is() -> None:
    frame = encode_frame(Acknowledge(VersionVector({7: 9}), {}))
    for bit in range(len(frame) * 8):
        flipped = bytearray(frame)
        flipped[bit // 8] ^= 1 << bit % 8
        reader = FrameReader(1 << 10)
        try:
            assert list(reader.feed(bytes(flipped))) == [], "a shorter length must not pass"
        except RemoteError:
            continue


def test_messages_before_a_malformed_frame_still_count() -> None:
    messages = FrameReader(LIMIT).feed(encode_frame(Ping(5)) + b"\0\0\0\1\0\0\0\0x")
    assert next(messages) == Ping(5)
    with pytest.raises(MalformedFrame):
        next(messages)


def test_optional_messages_of_a_later_version_are_skipped() -> None:
    assert decode_payload(pack((OPTIONAL_FROM + 63, "news", [1]))) is None
    with pytest.raises(MalformedFrame, match="unknown type"):
        decode_payload(pack((OPTIONAL_FROM - 1, "news")))


@pytest.mark.parametrize(
    "body",
    [(), 5, ["x"], [3, 5], [3, [5]], [3, [b""], 1], [4, [1], []], [5, [[1, 0, 1]]],
     [5, [[1, 3, 2]]], [9, -1], [9, 1 << 63, 1], [8, b"short", bytes(16)], [9, True]],
)  # fmt: skip
def test_wrong_shapes_are_malformed(body: object) -> None:
    with pytest.raises(MalformedFrame):
        decode_payload(pack(body))


def test_batches_keep_their_very_bytes() -> None:
    (message,) = FrameReader(LIMIT).feed(encode_frame(Batches((b"a", b"", b"\xff" * 300))))
    assert message == Batches((b"a", b"", b"\xff" * 300))


@pytest.mark.parametrize(
    "seeds", [range(600), pytest.param(range(600, 40_000), marks=SLOW)], ids=str
)
def test_hostile_streams_do_no_harm(seeds: range) -> None:
    for seed in seeds:
        try:
            attack(seed)
        except CrdtmemError as error:
            raise AssertionError(f"seed {seed}") from error
