"""Packets and frames as bytes: round trips, one encoding each, and nothing else decodes."""

from __future__ import annotations

import math
import struct

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip.config import Config
from gossip.errors import Malformed, TooLarge
from gossip.frame_wire import (
    decode_announcement,
    decode_frame,
    encode_announcement,
    encode_frame,
    take_records,
)
from gossip.frames import Announcement, Compare, Frame, Records, Summary
from gossip.messages import (
    Ack,
    Alive,
    Coordinate,
    Nack,
    Packet,
    Ping,
    Profile,
    Record,
    Stamp,
    State,
    User,
)
from gossip.shapes import COUNT_MAXIMUM, UINT64
from gossip.wire import (
    check_profile,
    decode_message,
    decode_packet,
    encode_message,
    encode_packet,
    encode_profile,
)
from tests.gossip import shapes_drawn as drawn

_ROOMY = Config(profile_bytes=4_096, packet_bytes=8_192, members=200)
_SENDER = Stamp(7, 1, 0)


@given(drawn.packets)
def test_a_packet_comes_back_as_it_was(packet: Packet) -> None:
    assert decode_packet(encode_packet(packet), _ROOMY) == packet


@given(drawn.frames)
def test_a_frame_comes_back_as_it_was(frame: Frame) -> None:
    assert decode_frame(encode_frame(frame, _ROOMY), _ROOMY) == frame


@given(drawn.packets.map(encode_packet), st.data())
def test_what_decodes_at_all_is_the_one_encoding_of_what_it_says(
    encoded: bytes, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(encoded) - 1))
    altered = bytearray(encoded)
    altered[at] = data.draw(st.integers(0, 255))
    try:
        packet = decode_packet(bytes(altered), _ROOMY)
    except Malformed:
        return
    assert encode_packet(packet) == bytes(altered)


@given(drawn.frames.map(lambda frame: encode_frame(frame, _ROOMY)), st.data())
def test_an_altered_frame_is_refused_or_is_the_one_encoding_of_what_it_says(
    encoded: bytes, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(encoded) - 1))
    altered = bytearray(encoded)
    altered[at] = data.draw(st.integers(0, 255))
    try:
        frame = decode_frame(bytes(altered), _ROOMY)
    except Malformed:
        return
    assert encode_frame(frame, _ROOMY) == bytes(altered)


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_are_malformed(noise: bytes) -> None:
    for decode in (decode_packet, decode_frame, decode_message, decode_announcement):
        try:
            decode(noise)
        except Malformed:
            continue


@given(drawn.packets.map(encode_packet), drawn.frames.map(lambda f: encode_frame(f, _ROOMY)))
def test_every_truncation_is_refused(packet: bytes, frame: bytes) -> None:
    for end in range(0, len(packet), 5):
        with pytest.raises(Malformed):
            decode_packet(packet[:end], _ROOMY)
    for end in range(0, len(frame), 29):
        with pytest.raises(Malformed):
            decode_frame(frame[:end], _ROOMY)


def test_trailing_bytes_are_refused() -> None:
    encoded = encode_packet(Packet("wide", _SENDER, 0, (Nack(1),)))
    with pytest.raises(Malformed):
        decode_packet(encoded + b"\x00")


@pytest.mark.parametrize(
    "value",
    [
        ("wide", 7, 1, 0),
        ("wide", 0, 1, 0, 0),
        ("wide", True, 1, 0, 0),
        ("wide", 7.0, 1, 0, 0),
        ("wide", 7, COUNT_MAXIMUM + 1, 0, 0),
        ("wide", 7, 1, COUNT_MAXIMUM + 1, 0),
        ("wide", 7, -1, 0, 0),
        ("", 7, 1, 0, 0),
        ("w\x1b[2J", 7, 1, 0, 0),
        ("w" * 80, 7, 1, 0, 0),
        (b"wide", 7, 1, 0, 0),
        (None, 7, 1, 0, 0),
    ],
)
def test_a_header_out_of_shape_is_refused(value: object) -> None:
    with pytest.raises(Malformed):
        decode_packet(msgpack.packb([value]))


@pytest.mark.parametrize("member", [0, UINT64 + 0])
def test_member_zero_is_nobody(member: int) -> None:
    encoded = msgpack.packb([["wide", member, 1, 0, 0]])
    if member:
        assert decode_packet(encoded).sender.member == member
    else:
        with pytest.raises(Malformed):
            decode_packet(encoded)


@pytest.mark.parametrize(
    "place",
    ["", "host", ":7000", "host:", "host:0", "host:070", "host:65536", "host:x", "a b:1", "h:٣"],
)
def test_an_address_that_is_none_is_refused(place: str) -> None:
    with pytest.raises(Malformed):
        decode_message(msgpack.packb([4, 1, 2, place, ""]))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_coordinate_that_is_not_finite_is_refused(bad: float) -> None:
    for place in (
        Coordinate((bad, 0.0), 0.0, 1.0),
        Coordinate((0.0,), bad, 1.0),
        Coordinate((0.0,), 0.0, bad),
    ):
        with pytest.raises(Malformed):
            decode_message(encode_message(Ack(1, _SENDER, 0, 0, place)))


def test_numbers_in_a_longer_encoding_are_refused() -> None:
    # Nack(1) as an array of (3, 1), where the 1 takes two bytes.
    assert decode_message(b"\x92\x03\x01") == Nack(1)
    for longer in (b"\x92\x03\xcc\x01", b"\xdc\x00\x02\x03\x01", b"\x92\x03\xcd\x00\x01"):
        with pytest.raises(Malformed):
            decode_message(longer)


def test_floats_of_single_precision_and_extensions_and_maps_are_refused() -> None:
    for value in (b"\xca\x00\x00\x00\x00", b"\x80", b"\xd6\xff\x00\x00\x00\x00", b"\xc1"):
        with pytest.raises(Malformed):
            decode_message(b"\x92\x03" + value)


@pytest.mark.parametrize("header", [b"\xdd", b"\xdf", b"\xdb", b"\xc6", b"\xc9"])
def test_a_length_is_believed_only_as_far_as_there_are_bytes(header: bytes) -> None:
    with pytest.raises(Malformed):
        decode_packet(header + b"\xff\xff\xff\xff")
    with pytest.raises(Malformed):
        decode_packet(header + b"\x7f\xff\xff\xff" + bytes(1_000))


def test_nesting_is_refused_at_any_depth() -> None:
    for depth in (10, 600, 100_000):
        with pytest.raises(Malformed):
            decode_packet(b"\x91" * depth + b"\x00")
        # Arrays of 256 within each other: what is allocated stays small, and is refused.
        with pytest.raises(Malformed):
            decode_packet(b"\xdc\x01\x00" * depth)


def test_sizes_are_checked() -> None:
    config = Config()
    over = config.annotation_bytes + 1
    payload = bytes(config.user_payload_bytes + 1)
    for message in (
        Ping(1, 2, "", 0, bytes(over)),
        Ack(1, _SENDER, 0, 0, None, bytes(over)),
        User(1, 1, 1, payload),
        Alive(Record(1, 1, 1, Profile("a", "r", "h:1", extra=bytes(config.profile_bytes)))),
        Ack(1, _SENDER, 0, 0, Coordinate((0.0,) * 17, 0.0, 0.0)),
    ):
        with pytest.raises(Malformed):
            decode_message(encode_message(message), config)


def test_a_profile_is_checked_before_it_is_told_to_others() -> None:
    check_profile(Profile("a", "eu", "h:1"))
    with pytest.raises(TooLarge):
        check_profile(Profile("a", "eu", "h:1", extra=bytes(512)))
    for profile in (
        Profile("a\n", "eu", "h:1"),
        Profile("a", "eu", "nowhere"),
        Profile("a", "eu", ""),
        Profile("a", "e" * 65, "h:1"),
        Profile("a", "eu", "h:1", protocols=(3, 2)),
        Profile("a", "eu", "h:1", keys=tuple(range(9))),
    ):
        with pytest.raises(Malformed):
            check_profile(profile)


def test_more_messages_than_a_packet_may_have_are_refused() -> None:
    full = Packet("wide", _SENDER, 0, (Nack(1),) * 255)
    assert decode_packet(encode_packet(full)) == full
    with pytest.raises(Malformed):
        decode_packet(encode_packet(Packet("wide", _SENDER, 0, (Nack(1),) * 256)))


def _frame(*body: object) -> bytes:
    packed: bytes = msgpack.packb(["wide", 7, 1, 0, *body])
    return packed


def test_lists_of_frames_ascend_and_end_where_they_end() -> None:
    entry = struct.Struct(">QQQB")
    good = entry.pack(1, 1, 0, 0) + entry.pack(2, 1, 0, 3)
    frame = decode_frame(_frame(2, 5, good, b""))
    assert frame.body == Summary(5, ((Stamp(1, 1, 0), State.ALIVE), (Stamp(2, 1, 0), State.LEFT)))
    for bad in (
        good[:-1],
        entry.pack(2, 1, 0, 0) + entry.pack(1, 1, 0, 0),
        entry.pack(1, 1, 0, 0) * 2,
        entry.pack(0, 1, 0, 0),
        entry.pack(1, 1, 0, 4),
        entry.pack(1, COUNT_MAXIMUM + 1, 0, 0),
    ):
        with pytest.raises(Malformed):
            decode_frame(_frame(2, 5, bad, b""))


def test_a_frame_names_its_profile_sizes_truly() -> None:
    record = struct.Struct(">QQQBH")
    profile = encode_profile(Profile("a", "eu", "h:1"))
    good = record.pack(1, 1, 0, 0, len(profile)) + profile
    assert isinstance(decode_frame(_frame(3, good, b"", b"")).body, Records)
    for bad in (
        record.pack(1, 1, 0, 0, len(profile) + 1) + profile,
        record.pack(1, 1, 0, 0, 65_535) + profile,
        record.pack(1, 1, 0, 0, len(profile) - 1) + profile,
        record.pack(1, 1, 0, 0, 0),
        good + b"\x00",
    ):
        with pytest.raises(Malformed):
            decode_frame(_frame(3, bad, b"", b""))


def test_more_members_than_four_pools_hold_are_refused() -> None:
    config = Config(members=2)
    entry = struct.Struct(">QQQB")
    most = b"".join(entry.pack(member, 1, 0, 0) for member in range(1, 9))
    assert len(decode_frame(_frame(2, 5, most, b""), config).body.entries) == 8  # type: ignore[union-attr]
    with pytest.raises(Malformed):
        decode_frame(_frame(2, 5, most + entry.pack(9, 1, 0, 0), b""), config)


def test_a_frame_over_the_limit_is_neither_sent_nor_taken() -> None:
    config = Config(frame_bytes=65_536, members=10)
    entries = tuple(
        (Record(member, 1, 0, Profile("n", "eu", "h:1", extra=bytes(400))), State.ALIVE)
        for member in range(1, 300)
    )
    with pytest.raises(TooLarge):
        encode_frame(Frame("wide", _SENDER, Records(entries)), config)
    fitting = take_records(entries, config.frame_bytes - 1_000)
    encoded = encode_frame(Frame("wide", _SENDER, Records(fitting)), config)
    assert 60_000 < len(encoded) <= config.frame_bytes
    with pytest.raises(Malformed):
        decode_frame(bytes(config.frame_bytes + 1), config)


def test_frames_of_unknown_kinds_are_refused() -> None:
    assert decode_frame(_frame(1, 5, 6)).body == Compare(5, 6)
    for body in ((0, 5, 6), (9, 5, 6), (1, 5), (1, 5, 6, 7), (True, 5, 6), (4, b"\x92\x03\x01")):
        with pytest.raises(Malformed):
            decode_frame(_frame(*body))


@given(
    st.builds(
        Announcement,
        drawn.names,
        drawn.members,
        drawn.counts,
        drawn.counts,
        drawn.uint64,
    )
)
def test_an_announcement_comes_back_as_it_was(said: Announcement) -> None:
    assert decode_announcement(encode_announcement(said)) == said
