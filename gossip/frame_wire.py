"""Frames of streams as bytes: strict, bounded, canonical.

Problem: a frame may hold a thousand members, and must not be able to claim more memory than
it brings.

Idea: a frame is one small array (see ``wire``) whose lists are packed into bytes of fixed
layout, read one by one; so nothing is allocated that was not received.

    frame   = [pool, member, generation, incarnation, kind, field, …]
    summary = (member u64, generation u64, incarnation u64, state u8)*        big-endian
    records = (member u64, generation u64, incarnation u64, state u8,
               length u16, profile)*
    members = (member u64)*

Invariants: as in ``wire``; members within a list ascend, so that one list has one encoding
and no member is in it twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from struct import Struct
from typing import Final

from gossip.config import LAN, Config
from gossip.errors import Malformed, TooLarge
from gossip.frames import (
    AckFrame,
    Announcement,
    Body,
    Compare,
    Frame,
    PingFrame,
    Records,
    Summary,
    View,
    ViewRequest,
)
from gossip.messages import Ack, Alive, Ping, Record, Referral, Stamp, State
from gossip.shapes import COUNT_MAXIMUM, REGION_BYTES, UINT64, integer, items, octets, text
from gossip.wire import (
    POOL_BYTES,
    decode_message,
    decode_profile,
    encode_message,
    encode_profile,
    pack,
    stamp_of,
    unpack,
)

__all__ = [
    "RECORD_OVERHEAD",
    "RING_BYTES",
    "decode_announcement",
    "decode_frame",
    "encode_announcement",
    "encode_frame",
    "take_records",
]

RING_BYTES: Final = 16_384
"""The largest key ring, removed keys included."""

_ENTRY: Final = Struct(">QQQB")
_RECORD: Final = Struct(">QQQBH")
_MEMBER: Final = Struct(">Q")
RECORD_OVERHEAD: Final = _RECORD.size
_HEADER_ITEMS: Final = 5

Said = tuple[Record, State]


# ------------------------------------------------------------------ lists


def _pack_entries(entries: Iterable[tuple[Stamp, State]]) -> bytes:
    return b"".join(_ENTRY.pack(*stamp, state) for stamp, state in sorted(entries))


def _most(config: Config) -> int:
    """How many members a list may have: those of a full pool, and thrice as many dead or gone."""
    return 4 * config.members


def _entries(data: object, config: Config) -> tuple[tuple[Stamp, State], ...]:
    packed = octets(data, _ENTRY.size * _most(config))
    if len(packed) % _ENTRY.size:
        raise Malformed("a summary that ends within an entry")
    found = []
    last = 0
    for member, generation, incarnation, state in _ENTRY.iter_unpack(packed):
        last = _ascends(member, last)
        found.append((stamp_of(member, generation, incarnation), _state(state)))
    return tuple(found)


def _pack_records(entries: Iterable[Said]) -> bytes:
    parts: list[bytes] = []
    for record, state in sorted(entries, key=lambda said: said[0].member):
        profile = encode_profile(record.profile)
        parts += (_RECORD.pack(*record.stamp, state, len(profile)), profile)
    return b"".join(parts)


def _records(data: object, config: Config) -> tuple[Said, ...]:
    packed = octets(data, config.frame_bytes)
    found: list[Said] = []
    last = at = 0
    most = _most(config)
    while at < len(packed):
        if len(found) == most:
            raise Malformed("more records than there may be members")
        if len(packed) - at < _RECORD.size:
            raise Malformed("records that end within a stamp")
        member, generation, incarnation, state, size = _RECORD.unpack_from(packed, at)
        at += _RECORD.size
        if size > config.profile_bytes or size > len(packed) - at:
            raise Malformed("a profile that is too large or cut off")
        last = _ascends(member, last)
        profile = decode_profile(packed[at : at + size])
        at += size
        stamp = stamp_of(member, generation, incarnation)
        found.append((Record(*stamp, profile), _state(state)))
    return tuple(found)


def _pack_members(members: Iterable[int]) -> bytes:
    return b"".join(_MEMBER.pack(member) for member in sorted(members))


def _members(data: object, config: Config) -> tuple[int, ...]:
    packed = octets(data, _MEMBER.size * _most(config))
    if len(packed) % _MEMBER.size:
        raise Malformed("a list of members that ends within one")
    last = 0
    for (member,) in _MEMBER.iter_unpack(packed):
        last = _ascends(member, last)
    return tuple(member for (member,) in _MEMBER.iter_unpack(packed))


def _ascends(member: int, last: int) -> int:
    if member <= last:
        raise Malformed("members are not in ascending order")
    return member


def _state(value: int) -> State:
    if value > State.LEFT:
        raise Malformed("a state that does not exist")
    return State(value)


# ------------------------------------------------------------------ frames


def encode_frame(frame: Frame, config: Config = LAN) -> bytes:
    """Encode a frame. Raises ``TooLarge`` where it is over ``frame_bytes``.

    Lists come back in ascending order of members, whatever order they had.
    """
    encoded = pack((frame.pool, *frame.sender, *_encode(frame.body)))
    if len(encoded) > config.frame_bytes:
        raise TooLarge(
            f"a frame of {len(encoded)} bytes",
            hint="send fewer records (take_records), or raise frame_bytes everywhere",
            limit=config.frame_bytes,
        )
    return encoded


def take_records(entries: Iterable[Said], room: int) -> tuple[Said, ...]:
    """Return the first of these that fit into ``room`` bytes when encoded; the next comparison
    of tables brings the rest."""
    taken = []
    for said in entries:
        room -= _RECORD.size + len(encode_profile(said[0].profile))
        if room < 0:
            break
        taken.append(said)
    return tuple(taken)


def _encode(body: Body) -> tuple[object, ...]:
    match body:
        case Compare(table_hash, ring_hash):
            return (1, table_hash, ring_hash)
        case Summary(table_hash, entries, ring):
            return (2, table_hash, _pack_entries(entries), ring)
        case Records(said, wants, ring):
            return (3, _pack_records(said), _pack_members(wants), ring)
        case PingFrame(ping):
            return (4, encode_message(ping))
        case AckFrame(ack, record):
            return (5, encode_message(ack), encode_message(Alive(record)))
        case ViewRequest(region, author, generation, since):
            return (6, region, author, generation, since)
        case View():
            return (
                7,
                body.region,
                body.author,
                body.generation,
                body.number,
                body.since,
                body.view_hash,
                _pack_records(body.entries),
                _pack_members(body.gone),
            )
        case Referral():
            return (8, encode_message(body))


def decode_frame(data: bytes, config: Config = LAN) -> Frame:
    """Decode a frame. Raises ``Malformed``."""
    if len(data) > config.frame_bytes:
        raise Malformed("a frame that is too large")
    pool, member, generation, incarnation, kind, *fields = items(unpack(data), 14, 6)
    known = _DECODERS.get(kind) if type(kind) is int else None
    if known is None or len(fields) != known[0]:
        raise Malformed("a frame of an unknown kind or shape")
    return Frame(
        text(pool, POOL_BYTES, empty=False),
        stamp_of(member, generation, incarnation),
        known[1](tuple(fields), config),
    )


def _compare(fields: tuple[object, ...], _config: Config) -> Compare:
    table_hash, ring_hash = fields
    return Compare(integer(table_hash, UINT64), integer(ring_hash, UINT64))


def _summary(fields: tuple[object, ...], config: Config) -> Summary:
    table_hash, entries, ring = fields
    return Summary(
        integer(table_hash, UINT64),
        _entries(entries, config),
        octets(ring, RING_BYTES),
    )


def _records_frame(fields: tuple[object, ...], config: Config) -> Records:
    entries, wants, ring = fields
    return Records(
        _records(entries, config),
        _members(wants, config),
        octets(ring, RING_BYTES),
    )


def _ping_frame(fields: tuple[object, ...], config: Config) -> PingFrame:
    ping = decode_message(octets(fields[0], config.frame_bytes), config)
    if not isinstance(ping, Ping):
        raise Malformed("a probe's frame without a probe")
    return PingFrame(ping)


def _ack_frame(fields: tuple[object, ...], config: Config) -> AckFrame:
    ack, alive = (decode_message(octets(field, config.frame_bytes), config) for field in fields)
    if not (isinstance(ack, Ack) and isinstance(alive, Alive)):
        raise Malformed("an answer's frame without an answer and a record")
    return AckFrame(ack, alive.record)


def _view_request(fields: tuple[object, ...], _config: Config) -> ViewRequest:
    region, author, generation, since = fields
    return ViewRequest(
        text(region, REGION_BYTES, empty=False),
        integer(author, UINT64),
        integer(generation, COUNT_MAXIMUM),
        integer(since, COUNT_MAXIMUM),
    )


def _view(fields: tuple[object, ...], config: Config) -> View:
    region, author, generation, count, since, view_hash, entries, gone = fields
    reached = integer(count, COUNT_MAXIMUM)
    return View(
        text(region, REGION_BYTES, empty=False),
        integer(author, UINT64, 1),
        integer(generation, COUNT_MAXIMUM),
        reached,
        integer(since, reached),
        integer(view_hash, UINT64),
        _records(entries, config),
        _members(gone, config),
    )


def _referral(fields: tuple[object, ...], config: Config) -> Referral:
    referral = decode_message(octets(fields[0], config.frame_bytes), config)
    if not isinstance(referral, Referral):
        raise Malformed("a referral's frame without a referral")
    return referral


_DECODERS: Final[dict[int, tuple[int, Callable[[tuple[object, ...], Config], Body]]]] = {
    1: (2, _compare),
    2: (3, _summary),
    3: (3, _records_frame),
    4: (1, _ping_frame),
    5: (2, _ack_frame),
    6: (4, _view_request),
    7: (8, _view),
    8: (1, _referral),
}


# ------------------------------------------------------------------ announcements


def encode_announcement(said: Announcement) -> bytes:
    """Encode the payload of a broadcast on channel ``VIEWS``."""
    return pack((said.region, said.author, said.generation, said.number, said.view_hash))


def decode_announcement(data: bytes) -> Announcement:
    """Decode the payload of a broadcast on channel ``VIEWS``. Raises ``Malformed``."""
    region, author, generation, count, view_hash = items(unpack(data), 5, 5)
    return Announcement(
        text(region, REGION_BYTES, empty=False),
        integer(author, UINT64, 1),
        integer(generation, COUNT_MAXIMUM),
        integer(count, COUNT_MAXIMUM),
        integer(view_hash, UINT64),
    )
