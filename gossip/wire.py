"""Packets and their messages as bytes: strict, bounded, canonical.

Problem: a decoder that is lenient accepts two encodings of one thing, and one that believes
lengths allocates what an attacker names.

Idea: MessagePack with arrays, integers, floats of 64 bits, text and bytes only. A packet is
one array: a header and then the messages, so that messages encoded once are joined into
compound packets without encoding them again. What was decoded is encoded again and must
give the same bytes. A profile travels as bytes of its own, so that its size is known before
it is looked into.

    packet  = [header, message, …]                      at most 255 messages
    header  = [pool, member, generation, incarnation, table hash]
    message = [kind, field, …]                          see ``_encode`` and ``_DECODERS``
    profile = [name, region, gossip address, stream address, lowest protocol,
               highest protocol, software, [key id, …], extra]

Invariants: decoding returns a value that encodes to the same bytes, or raises ``Malformed``
and nothing else; no container of more than 256 items is ever allocated, at any depth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from struct import Struct
from typing import Any, Final

import msgpack

from gossip.config import LAN, Config
from gossip.errors import Malformed, TooLarge
from gossip.messages import (
    Ack,
    Alive,
    Channel,
    Coordinate,
    Dead,
    Message,
    Nack,
    Packet,
    Ping,
    PingRequest,
    Profile,
    Record,
    Referral,
    Stamp,
    Suspect,
    User,
)
from gossip.shapes import (
    COUNT_MAXIMUM,
    NAME_BYTES,
    REGION_BYTES,
    UINT32,
    UINT64,
    address,
    integer,
    items,
    number,
    octets,
    text,
)

__all__ = [
    "MESSAGES_MAXIMUM",
    "POOL_BYTES",
    "array_header",
    "check_profile",
    "decode_message",
    "decode_packet",
    "decode_profile",
    "encode_header",
    "encode_message",
    "encode_packet",
    "encode_profile",
    "join_packet",
    "pack",
    "stamp_of",
    "unpack",
]

MESSAGES_MAXIMUM: Final = 255
POOL_BYTES: Final = REGION_BYTES + len("region:")
DIMENSIONS_MAXIMUM: Final = 16
REFERRED_MAXIMUM: Final = 8
KEYS_MAXIMUM: Final = 8

_ITEMS_MAXIMUM: Final = MESSAGES_MAXIMUM + 1
_TEXT_MAXIMUM: Final = 512
_PROFILES_KEPT: Final = 2_048
"""How many profiles are kept decoded: news of one member comes a dozen times."""
_PACKER: Final = msgpack.Packer(use_bin_type=True, autoreset=True)
_ARRAY_16: Final = Struct(">BH")


# ------------------------------------------------------------------ plain values


def pack(value: object) -> bytes:
    """Encode tuples, integers, floats, text, bytes and ``None``."""
    packed: bytes = _PACKER.pack(value)
    return packed


def unpack(data: bytes) -> Any:
    """Decode one canonical value; arrays come as tuples. Raises ``Malformed``."""
    try:
        value = msgpack.unpackb(
            data,
            use_list=False,
            ext_hook=_refuse_extension,
            max_str_len=_TEXT_MAXIMUM,
            max_bin_len=len(data),
            max_array_len=_ITEMS_MAXIMUM,
            max_map_len=0,
            max_ext_len=0,
        )
        again = pack(value)
    except (ValueError, TypeError, msgpack.UnpackException, OverflowError, RecursionError) as error:
        raise Malformed(f"bytes that do not decode: {error or type(error).__name__}") from error
    if again != data:
        raise Malformed("an encoding that no member writes")
    return value


def _refuse_extension(code: int, _data: bytes) -> Any:
    raise ValueError(f"extension type {code} is not part of the format")


def array_header(count: int) -> bytes:
    """Return the bytes that open an array of ``count`` items, 65,535 at most."""
    return bytes((0x90 | count,)) if count < 16 else _ARRAY_16.pack(0xDC, count)


# ------------------------------------------------------------------ profiles


def encode_profile(profile: Profile) -> bytes:
    """Encode what a member says of itself."""
    return pack((
        profile.name,
        profile.region,
        profile.gossip_address,
        profile.stream_address,
        *profile.protocols,
        profile.software,
        profile.keys,
        profile.extra,
    ))  # fmt: skip


@lru_cache(maxsize=_PROFILES_KEPT)
def decode_profile(data: bytes) -> Profile:
    """Decode a profile. Raises ``Malformed``."""
    name, region, gossip_address, stream_address, lowest, highest, software, keys, extra = items(
        unpack(data), 9, 9
    )
    low = integer(lowest, UINT32)
    return Profile(
        text(name, NAME_BYTES),
        text(region, REGION_BYTES),
        address(gossip_address),
        address(stream_address, empty=True),
        (low, integer(highest, UINT32, low)),
        text(software, NAME_BYTES),
        tuple(integer(key, UINT32) for key in items(keys, KEYS_MAXIMUM)),
        octets(extra, len(data)),
    )


def check_profile(profile: Profile, config: Config = LAN) -> None:
    """Make sure that others will take this profile.

    Raises ``TooLarge`` for one over ``profile_bytes``, ``Malformed`` for fields out of shape.
    """
    encoded = encode_profile(profile)
    if len(encoded) > config.profile_bytes:
        raise TooLarge(
            f"the profile is {len(encoded)} bytes",
            hint=f"shorten its name or extra to fit {config.profile_bytes}",
            limit=config.profile_bytes,
        )
    decode_profile(encoded)


# ------------------------------------------------------------------ messages


def encode_message(message: Message) -> bytes:
    """Encode one message, to be joined into packets as it is."""
    return pack(_encode(message))


def decode_message(data: bytes, config: Config = LAN) -> Message:
    """Decode one message. Raises ``Malformed``."""
    return _message(unpack(data), config)


def _encode(message: Message) -> tuple[object, ...]:
    match message:
        case Ping(sequence, target, reply_to, sent_us, annotation):
            return (1, sequence, target, reply_to, sent_us, annotation)
        case Ack(sequence, stamp, heard_us, sent_us, coordinate, annotation):
            place = coordinate and (*coordinate.vector, coordinate.height, coordinate.error)
            return (2, sequence, *stamp, heard_us, sent_us, place, annotation)
        case Nack(sequence):
            return (3, sequence)
        case PingRequest(sequence, target, place, reply_to):
            return (4, sequence, target, place, reply_to)
        case Alive(record):
            return (5, *record.stamp, encode_profile(record.profile))
        case Suspect(stamp, accuser):
            return (6, *stamp, accuser)
        case Dead(stamp, accuser):
            return (7, *stamp, accuser)
        case User(origin, generation, count, payload, channel):
            return (8, origin, generation, count, payload, int(channel))
        case Referral(region, addresses):
            return (9, region, addresses)


def stamp_of(member: object, generation: object, incarnation: object) -> Stamp:
    """Return the stamp of these decoded fields. Raises ``Malformed``."""
    return Stamp(
        integer(member, UINT64, 1),
        integer(generation, COUNT_MAXIMUM),
        integer(incarnation, COUNT_MAXIMUM),
    )


def _ping(fields: tuple[object, ...], config: Config) -> Ping:
    sequence, target, reply_to, sent_us, annotation = fields
    return Ping(
        integer(sequence, UINT64),
        integer(target, UINT64),
        address(reply_to, empty=True),
        integer(sent_us, UINT64),
        octets(annotation, config.annotation_bytes),
    )


def _ack(fields: tuple[object, ...], config: Config) -> Ack:
    sequence, member, generation, incarnation, heard_us, sent_us, place, annotation = fields
    return Ack(
        integer(sequence, UINT64),
        stamp_of(member, generation, incarnation),
        integer(heard_us, UINT64),
        integer(sent_us, UINT64),
        None if place is None else _coordinate(place),
        octets(annotation, config.annotation_bytes),
    )


def _coordinate(place: object) -> Coordinate:
    *vector, height, error = (number(part) for part in items(place, DIMENSIONS_MAXIMUM + 2, 3))
    return Coordinate(tuple(vector), height, error)


def _nack(fields: tuple[object, ...], _config: Config) -> Nack:
    return Nack(integer(fields[0], UINT64))


def _ping_request(fields: tuple[object, ...], _config: Config) -> PingRequest:
    sequence, target, place, reply_to = fields
    return PingRequest(
        integer(sequence, UINT64),
        integer(target, UINT64),
        address(place),
        address(reply_to, empty=True),
    )


def _alive(fields: tuple[object, ...], config: Config) -> Alive:
    member, generation, incarnation, profile = fields
    stamp = stamp_of(member, generation, incarnation)
    return Alive(Record(*stamp, decode_profile(octets(profile, config.profile_bytes))))


def _suspect(fields: tuple[object, ...], _config: Config) -> Suspect:
    member, generation, incarnation, accuser = fields
    return Suspect(stamp_of(member, generation, incarnation), integer(accuser, UINT64, 1))


def _dead(fields: tuple[object, ...], _config: Config) -> Dead:
    member, generation, incarnation, accuser = fields
    return Dead(stamp_of(member, generation, incarnation), integer(accuser, UINT64, 1))


def _user(fields: tuple[object, ...], config: Config) -> User:
    origin, generation, count, payload, channel = fields
    return User(
        integer(origin, UINT64, 1),
        integer(generation, COUNT_MAXIMUM),
        integer(count, COUNT_MAXIMUM, 1),
        octets(payload, config.user_payload_bytes),
        Channel(integer(channel, max(Channel))),
    )


def _referral(fields: tuple[object, ...], _config: Config) -> Referral:
    region, addresses = fields
    return Referral(
        text(region, REGION_BYTES),
        tuple(address(place) for place in items(addresses, REFERRED_MAXIMUM)),
    )


# By kind: how many fields follow it, and what reads them.
_DECODERS: Final[dict[int, tuple[int, Callable[[tuple[object, ...], Config], Message]]]] = {
    1: (5, _ping),
    2: (8, _ack),
    3: (1, _nack),
    4: (4, _ping_request),
    5: (4, _alive),
    6: (4, _suspect),
    7: (4, _dead),
    8: (5, _user),
    9: (2, _referral),
}


def _message(value: object, config: Config) -> Message:
    kind, *fields = items(value, 9, 2)
    # A bool would find the entry of 1 or 0; canonical encoding keeps 1.0 apart as well.
    known = _DECODERS.get(kind) if type(kind) is int else None
    if known is None or len(fields) != known[0]:
        raise Malformed("a message of an unknown kind or shape")
    return known[1](tuple(fields), config)


# ------------------------------------------------------------------ packets


def encode_header(pool: str, sender: Stamp, table_hash: int) -> bytes:
    """Encode the header of a packet."""
    return pack((pool, *sender, table_hash))


def join_packet(header: bytes, messages: Sequence[bytes]) -> bytes:
    """Join an encoded header and at most 255 encoded messages into a packet."""
    return b"".join((array_header(1 + len(messages)), header, *messages))


def encode_packet(packet: Packet) -> bytes:
    """Encode a packet; its size is the caller's concern (see ``packing``)."""
    header = encode_header(packet.pool, packet.sender, packet.table_hash)
    return join_packet(header, [encode_message(message) for message in packet.messages])


def decode_packet(data: bytes, config: Config = LAN) -> Packet:
    """Decode a packet. Raises ``Malformed``; one bad message makes the whole packet bad."""
    header, *messages = items(unpack(data), 1 + MESSAGES_MAXIMUM, 1)
    pool, member, generation, incarnation, table_hash = items(header, 5, 5)
    return Packet(
        text(pool, POOL_BYTES, empty=False),
        stamp_of(member, generation, incarnation),
        integer(table_hash, UINT64),
        tuple(_message(message, config) for message in messages),
    )
