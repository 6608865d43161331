"""Whole states as bytes: a header, then chunks that each stand for themselves.

Problem: a million entries must be written out while transactions go on, read
back in seconds, and sent to a peer whose log starts too late. A state that is
copied first would double the memory; one that is locked would stop writers.

Idea: chunks are captured lazily. Each chunk holds some places of one table as
they are at the moment when the chunk is asked for, column by column, with what
a transaction's entries share (its stamp) written once. A sequence of chunks is
therefore *fuzzy*: it mixes moments. It becomes exact when every batch published
since the capture began is joined in order, after the chunks, or between them in
the order in which things happened: joining is idempotent by dot, an entry that
a chunk shows too early is found again by its batch, and one that a chunk no
longer shows is removed again by the batch that removed it.

Layout (MessagePack)::

    chunk  = [1, space, datatype, origins, stamps, keys, fields | nil, counts | nil,
              sequences, values, stamp of each entry | one stamp for all]
    origin = [replica, region, author, trust]
    stamp  = [origin, order, physical - order] or the same and [expires | nil, metadata | nil]

``keys`` (and ``fields``) name one place per element; ``counts`` how many entries
each place holds, ``nil`` where all hold one. A dot's replica is its stamp's.

Invariants: ``load_chunk`` either loads a whole, checked chunk or raises
``MalformedFrame`` with the state untouched; loading replaces the places that
the chunk names and touches no other; digests and conflict lists are rebuilt by
``State.rebuild_derived`` once all is loaded.

Fuzzy checkpoints are Mohan et al.'s ARIES (1992).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from operator import itemgetter, or_
from typing import Any, Final

from crdtmem.batch import SpaceName
from crdtmem.causality import VersionVector
from crdtmem.codec import pack, unpack
from crdtmem.entries import (
    NO_METADATA,
    SEQUENCE_BITS,
    SEQUENCE_MASK,
    Entry,
    Field,
    Siblings,
    Slot,
    Stamp,
    as_siblings,
    as_slot,
    pack_dot,
    unpack_dot,
)
from crdtmem.errors import MalformedFrame
from crdtmem.table import State, Table

__all__ = [
    "CHUNK_BYTES",
    "ENTRIES_PER_CHUNK",
    "SnapshotHeader",
    "decode_header",
    "encode_beyond",
    "encode_chunks",
    "chosen_entries",
    "encode_header",
    "encode_places",
    "load_chunk",
]

SNAPSHOT_VERSION: Final = 1
ENTRIES_PER_CHUNK: Final = 2_000
CHUNK_BYTES: Final = 1 << 20
"""About how large a chunk may grow; only a single place that is larger exceeds it."""

_INT_ONLY: Final = frozenset({int})
_STR_ONLY: Final = frozenset({str})
_TEXTS: Final = frozenset({str, bytes})
_SMALL: Final = frozenset({int, float, bool, type(None)})
_STAMP_BYTES: Final = 24
_HASH_BYTES: Final = 16
_CHUNK_LENGTH: Final = 11
_HEADER_LENGTH: Final = 10

_value_of: Final = itemgetter(1)
_stamp_of: Final = itemgetter(2)

Place = tuple[str, "Field | None"]


# ------------------------------------------------------------------ the header


@dataclass(frozen=True, slots=True)
class SnapshotHeader:
    """What a snapshot or checkpoint says of itself, apart from its entries.

    ``vector`` is what it covers; ``tips`` the last sequence and batch hash of each
    replica in it; ``clock`` the order and physical stamp (microseconds) of its
    writer; ``acknowledged`` the durable vectors known of members; ``cuts`` the last
    valid sequence of evicted replicas; ``fenced`` replicas with a fork, and why;
    ``operations`` recent operation ids with the first dot and the number of deltas;
    ``digest`` the digest of live dots, where the content is exact at ``vector``;
    ``extra`` plain values of other services, by name.
    """

    vector: VersionVector
    tips: dict[int, tuple[int, bytes]] = field(default_factory=dict)
    clock: tuple[int, int] = (0, 0)
    acknowledged: dict[int, VersionVector] = field(default_factory=dict)
    cuts: dict[int, int] = field(default_factory=dict)
    fenced: dict[int, str] = field(default_factory=dict)
    operations: list[tuple[bytes, int, int]] = field(default_factory=list)
    digest: tuple[int, int] | None = None
    extra: dict[str, Any] = field(default_factory=dict)


def encode_header(header: SnapshotHeader) -> bytes:
    """Return a header's bytes; equal headers have equal bytes."""
    return pack(
        (
            SNAPSHOT_VERSION,
            header.vector.flat(),
            [(replica, *header.tips[replica]) for replica in sorted(header.tips)],
            header.clock,
            [(replica, header.acknowledged[replica].flat())
             for replica in sorted(header.acknowledged)],
            sorted(header.cuts.items()),
            sorted(header.fenced.items()),
            [(identity, *unpack_dot(first), count)
             for identity, first, count in header.operations],
            header.digest,
            {name: header.extra[name] for name in sorted(header.extra)},
        )
    )  # fmt: skip


def decode_header(data: bytes) -> SnapshotHeader:
    """Decode and check a header; raises ``MalformedFrame``."""
    body = unpack(data)
    try:
        return _header(body)
    except (TypeError, ValueError, KeyError, IndexError) as error:
        raise MalformedFrame(f"a snapshot header with the wrong shape: {error}") from error


def _header(body: Any) -> SnapshotHeader:
    _check(type(body) is tuple and len(body) == _HEADER_LENGTH, "the header")
    version, vector, tips, clock, acknowledged, cuts, fenced, operations, digest, extra = body
    _check(version == SNAPSHOT_VERSION, "the version")
    covered = VersionVector.from_flat(vector)
    ends: dict[int, tuple[int, bytes]] = {}
    for replica, last, hashed in tips:
        _check(type(hashed) is bytes and len(hashed) == _HASH_BYTES, "a tip")
        _check(covered.get(_number(replica)) == _number(last), "a tip")
        ends[replica] = (last, hashed)
    order, physical_us = clock
    for identity, replica, sequence, count in operations:
        _check(type(identity) is bytes and _number(replica) > 0, "an operation id")
        _check(_number(sequence) > 0 and _number(count) >= 0, "an operation id")
    _check(all(type(reason) is str for _, reason in fenced), "a fence")
    _check(type(extra) is dict and set(map(type, extra)) <= _STR_ONLY, "the extra values")
    if digest is not None:
        first, second = digest
        digest = (_number(first), _number(second))
    return SnapshotHeader(
        covered,
        ends,
        (_number(order), _number(physical_us)),
        {_number(replica): VersionVector.from_flat(flat) for replica, flat in acknowledged},
        {_number(replica): _number(last) for replica, last in cuts},
        {_number(replica): reason for replica, reason in fenced},
        # Earlier versions listed operations that had changed nothing, and so name no dot.
        [(identity, pack_dot(replica, sequence), count)
         for identity, replica, sequence, count in operations if count],
        digest,
        extra,
    )  # fmt: skip


def _number(item: Any) -> int:
    _check(type(item) is int and 0 <= item <= SEQUENCE_MASK, "a number")
    return item  # type: ignore[no-any-return]


def _check(fine: bool, what: str) -> None:
    if not fine:
        raise ValueError(f"{what} is malformed")


# ------------------------------------------------------------------ writing chunks


def encode_chunks(state: State, *, entries_per_chunk: int = ENTRIES_PER_CHUNK) -> Iterator[bytes]:
    """Yield the chunks of a state, each captured when it is asked for.

    The state may change between two chunks; see the module's idea for what makes
    the whole exact then.
    """
    for table in list(state.tables.values()):
        pending: list[Place] = []
        for key in list(table.slots):
            if table.nested:
                pending += [(key, name) for name in table.slots.get(key, ())]
            else:
                pending.append((key, None))
            if len(pending) >= entries_per_chunk:
                # One key may hold a million fields: it fills many chunks.
                for start in range(0, len(pending), entries_per_chunk):
                    yield from encode_places(table, pending[start : start + entries_per_chunk])
                pending = []
        yield from encode_places(table, pending)


def encode_beyond(
    state: State,
    known: VersionVector,
    through: VersionVector,
    *,
    entries_per_chunk: int = ENTRIES_PER_CHUNK,
) -> Iterator[bytes]:
    """Yield chunks of the entries beyond ``known``, up to ``through``, captured as asked for.

    Yields empty bytes for a stretch of places in which there are none, so that
    the caller can do other work between two stretches.
    """
    for table in list(state.tables.values()):
        keys = list(table.slots)
        for start in range(0, len(keys), entries_per_chunk):
            found = Table(table.space, table.datatype, state.shapes[table.datatype])
            places: list[Place] = []
            for key in keys[start : start + entries_per_chunk]:
                held = table.slots.get(key)
                names: Any = (None,) if not table.nested else tuple(held or ())
                for name in names:
                    slot = table.slot(key, name)
                    fresh = [
                        entry
                        for entry in as_siblings(slot)
                        if not known.covers(entry[0]) and through.covers(entry[0])
                    ]
                    if fresh and table.nested:
                        found.slots.setdefault(key, {})[name] = as_slot(fresh)
                    elif fresh:
                        found.slots[key] = as_slot(fresh)
                    if fresh:
                        places.append((key, name))
            if not places:
                yield b""
            for first in range(0, len(places), entries_per_chunk):
                yield from encode_places(found, places[first : first + entries_per_chunk])


def chosen_entries(state: State, dots: set[int]) -> State:
    """Return a state of only the entries with these dots, as far as they are there."""
    chosen = State(state.shapes)
    if not dots:
        return chosen
    for table in state.tables.values():
        for key, name, slot in table.places():
            if type(slot) is not Siblings and slot[0] not in dots:
                continue
            entries = [entry for entry in as_siblings(slot) if entry[0] in dots]
            if entries:
                slots = chosen.table(table.space, table.datatype).slots
                if table.nested:
                    slots.setdefault(key, {})[name] = as_slot(entries)
                else:
                    slots[key] = as_slot(entries)
    return chosen


def encode_places(table: Table, places: list[Place]) -> Iterator[bytes]:
    """Yield chunks of the named places of a table; places that hold nothing are left out."""
    slots: list[Any]
    if table.nested:
        held = table.slots
        slots = [held.get(key, NO_METADATA).get(name) for key, name in places]
    else:
        slots = [table.slots.get(key) for key, _ in places]
    if None in slots:
        places = [place for place, slot in zip(places, slots, strict=True) if slot is not None]
        slots = [slot for slot in slots if slot is not None]
    if not slots:
        return
    if len(slots) > 1 and _weight_bytes(slots) > CHUNK_BYTES:
        # Read again, half by half: a chunk shows the moment at which it is asked for.
        half = len(places) // 2
        yield from encode_places(table, places[:half])
        yield from encode_places(table, places[half:])
        return
    yield _encode(table, places, slots)


def _weight_bytes(slots: list[Any]) -> int:
    """Return about how many bytes these slots take, without encoding them."""
    if Siblings in set(map(type, slots)):
        slots = [entry for slot in slots for entry in as_siblings(slot)]
    values = list(map(_value_of, slots))
    kinds = set(map(type, values))
    total = _STAMP_BYTES * len(slots)
    if kinds <= _TEXTS:
        total += sum(map(len, values))
    elif not kinds <= _SMALL:
        total += sum(map(_value_bytes, values))
    stamps = {id(stamp): stamp for stamp in map(_stamp_of, slots)}
    return total + sum(_value_bytes(stamp.metadata) for stamp in stamps.values() if stamp.metadata)


def _value_bytes(value: Any) -> int:
    kind = type(value)
    if kind is str or kind is bytes:
        return len(value)
    if kind is tuple:
        return 5 + sum(map(_value_bytes, value))
    if kind is dict:
        return 5 + sum(len(name) + _value_bytes(item) for name, item in value.items())
    return 9


def _encode(table: Table, places: list[Place], slots: list[Any]) -> bytes:
    counts: list[int] | None = None
    entries: list[Entry] = slots
    if Siblings in set(map(type, slots)):
        counts = [len(slot) if type(slot) is Siblings else 1 for slot in slots]
        entries = [entry for slot in slots for entry in as_siblings(slot)]
    index: dict[int, int] = {}
    stamps: list[Stamp] = []
    column: list[int] = []
    for _, _, stamp in entries:
        number = index.get(id(stamp))
        if number is None:
            number = index[id(stamp)] = len(stamps)
            stamps.append(stamp)
        column.append(number)
    origins: dict[tuple[int, str, str, int], int] = {}
    rows = [_stamp_row(stamp, origins) for stamp in stamps]
    return pack(
        (
            SNAPSHOT_VERSION,
            table.space,
            table.datatype,
            tuple(origins),
            rows,
            [key for key, _ in places],
            [_field_out(name) for _, name in places] if table.nested else None,
            counts,
            [entry[0] & SEQUENCE_MASK for entry in entries],
            [entry[1] for entry in entries],
            column if len(stamps) > 1 else 0,
        )
    )


def _stamp_row(stamp: Stamp, origins: dict[tuple[int, str, str, int], int]) -> tuple[Any, ...]:
    origin = (stamp.replica, stamp.region, stamp.author, stamp.trust)
    row = (origins.setdefault(origin, len(origins)), stamp.order, stamp.physical_us - stamp.order)
    if stamp.expires_at_us is None and not stamp.metadata:
        return row
    return (*row, stamp.expires_at_us, stamp.metadata or None)


def _field_out(name: Any) -> Any:
    return tuple(unpack_dot(name)) if type(name) is int else name


# ------------------------------------------------------------------ reading chunks


def load_chunk(state: State, data: bytes) -> int:
    """Load a chunk into a state, replacing the places that it names; returns its entries.

    Raises ``MalformedFrame`` with the state untouched.
    """
    body = unpack(data)
    try:
        space, datatype, keys, fields, slots, count = _decode(state, body)
    except (TypeError, ValueError, KeyError, IndexError, OverflowError) as error:
        raise MalformedFrame(
            f"a snapshot chunk with the wrong shape: {error}",
            hint="a newer version may have written it: upgrade this node",
        ) from error
    table = state.table(space, datatype)
    if fields is None:
        table.slots.update(zip(keys, slots, strict=True))
        return count
    held = table.slots
    for key, name, slot in zip(keys, fields, slots, strict=True):
        names = held.get(key)
        if names is None:
            names = held[key] = {}
        names[name] = slot
    return count


def _decode(
    state: State, body: Any
) -> tuple[SpaceName, int, tuple[str, ...], list[Field] | None, list[Slot], int]:
    _check(type(body) is tuple and len(body) == _CHUNK_LENGTH, "the chunk")
    version, space, datatype, origins, rows, keys, fields, counts, sequences, values, column = body
    _check(version == SNAPSHOT_VERSION, "the version")
    _check(type(space) is tuple and set(map(type, space)) == _STR_ONLY, "the space")
    _check(type(datatype) is int and datatype in state.shapes, "the datatype")
    _check(type(keys) is tuple and set(map(type, keys)) == _STR_ONLY and "" not in keys, "a key")
    stamps = _stamps(origins, rows)
    for part in (sequences, values):
        _check(type(part) is tuple and len(part) == len(sequences) > 0, "a column")
    _check(set(map(type, sequences)) == _INT_ONLY and min(sequences) > 0, "a sequence")
    _check(max(sequences) <= SEQUENCE_MASK, "a sequence")
    if type(column) is int:
        column = (column,) * len(sequences)
    _check(type(column) is tuple and len(column) == len(sequences), "the stamps")
    _check(set(map(type, column)) == _INT_ONLY and min(column) >= 0, "the stamps")
    floors = [stamp.replica << SEQUENCE_BITS for stamp in stamps]
    dots = map(or_, map(floors.__getitem__, column), sequences)
    entries = list(zip(dots, values, map(stamps.__getitem__, column), strict=True))
    slots: list[Any] = entries if counts is None else _group(entries, counts)
    _check(len(slots) == len(keys), "the places")
    names: list[Field] | None = None
    if state.shapes[datatype].nested:
        _check(type(fields) is tuple and len(fields) == len(keys), "the fields")
        names = [_field_in(name) for name in fields]
    else:
        _check(fields is None, "the fields")
    return space, datatype, keys, names, slots, len(entries)


def _stamps(origins: Any, rows: Any) -> list[Stamp]:
    for replica, region, author, trust in origins:
        _check(type(replica) is int and 0 < replica <= SEQUENCE_MASK, "an origin")
        _check(type(region) is str and type(author) is str and type(trust) is int, "an origin")
    stamps: list[Stamp] = []
    for row in rows:
        origin, order, physical_step, *rest = row
        _check(type(origin) is type(order) is type(physical_step) is int, "a stamp")
        _check(origin >= 0 and len(rest) in (0, 2), "a stamp")
        expires_at_us, metadata = rest or (None, None)
        _check(expires_at_us is None or type(expires_at_us) is int, "a stamp")
        _check(metadata is None or type(metadata) is dict, "a stamp")
        _check(set(map(type, metadata or ())) <= _STR_ONLY, "a stamp")
        replica, region, author, trust = origins[origin]
        stamps.append(
            Stamp(
                replica,
                order,
                order + physical_step,
                author,
                region,
                trust,
                expires_at_us,
                metadata or NO_METADATA,
            )
        )
    _check(bool(stamps), "the stamps")
    return stamps


def _group(entries: list[Entry], counts: Any) -> list[Slot]:
    """Return the slots of entries listed one after the other, so many for each place."""
    _check(type(counts) is tuple and set(map(type, counts)) == _INT_ONLY, "the counts")
    _check(min(counts) > 0 and sum(counts) == len(entries), "the counts")
    slots: list[Slot] = []
    start = 0
    for count in counts:
        part = entries[start : start + count]
        start += count
        _check(len({entry[0] for entry in part}) == count, "a dot that comes twice")
        slots.append(as_slot(part))
    return slots


def _field_in(name: Any) -> Field:
    if type(name) is tuple:
        replica, sequence = name
        _check(_number(replica) > 0 and _number(sequence) > 0, "a field")
        return pack_dot(replica, sequence)
    _check(type(name) in (str, bytes), "a field")
    return name  # type: ignore[no-any-return]
