"""Chains: what a store has set aside of an origin, sorted by what became of it.

Problem: the quarantine holds whatever was set aside, in several rounds perhaps: writes
that nobody else has, writes that came back from peers since, and writes whose very
dots belong to another history now, because an old copy of a store went on under its
id.

Idea: batches are hash-chained, so what was set aside of one origin falls into chains,
and one comparison settles all that lies before it. What the log holds again, byte for
byte, has *arrived*. What follows is *lost* where its dots are free, and a *fork* where
they are taken. A fork is given an origin id of its own, made of the hash of its first
batch, so that nobody takes its dots for the others': the same rules then rescue it
(see ``rescue``). Where a snapshot brought the others' history, and no batch is left to
compare, it is *unclear*: listed, but written only when it is named.

Invariants: the quarantine is only read; equal content gives equal chains and ids.

What a fork's resets took from counters that it shares with the other history is not
taken again: its increments are counted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from crdtmem.batch import Batch, Segment, decode_batch, hash_of, superseded_dots
from crdtmem.crdt import DATATYPES_BY_CODE, NESTED
from crdtmem.crdt.map import Map
from crdtmem.crdt.totals import RunningTotals
from crdtmem.entries import SEQUENCE_BITS, SEQUENCE_MASK
from crdtmem.epoch import Epoch
from crdtmem.errors import HistoryGap, MalformedFrame
from crdtmem.rescue import LostTransaction, Rescue
from crdtmem.store import Store
from crdtmem.store.base import KIND_BATCH

__all__ = ["Chain", "sort_out"]

_READ_BYTES: Final = 4 << 20

Tips = Mapping[int, tuple[int, bytes]]


@dataclass(frozen=True, slots=True)
class Chain:
    """A run of batches that were set aside, and what can be rescued of it.

    ``origin`` wrote them. ``unclear`` if its dots are taken and nothing tells by what.
    """

    origin: int
    unclear: bool
    rescue: Rescue

    def rescuer(self, epoch: Epoch, lost: LostTransaction) -> int | None:
        """Return the one replica that may rescue a transaction, ``None`` while nobody knows.

        A fork is rescued by whoever holds it: no claim tells of two stores with one id which
        wrote it, and in every store that holds it it has the same origin dots, by whose
        marks it is written once.
        """
        if self.rescue.origin != self.origin:
            return epoch.own if epoch.own in epoch.established() else None
        return epoch.successor(self.origin, lost.last)


def sort_out(
    store: Store, given_up: Collection[int], vector: Mapping[int, int], tips: Tips
) -> list[Chain]:
    """Return what a store has set aside of the given origins, as chains. Raises ``StoreError``s.

    ``vector`` and ``tips`` are what was joined. Of other origins nothing is lost: what
    was set aside of them, with what it followed, comes back from peers. Records that
    are damaged are passed over.
    """
    kept: dict[int, dict[bytes, Batch]] = {}
    for record in store.quarantined():
        if record.kind != KIND_BATCH or record.replica not in given_up:
            continue
        try:
            batch = decode_batch(record.data, known_fields=NESTED)
        except (MalformedFrame, TypeError):
            # Set aside because it was damaged: there is nothing in it to rescue.
            continue
        if hash_of(record.data) == record.digest:
            kept.setdefault(batch.header.replica, {})[batch.hash] = batch
    found: list[Chain] = []
    for origin, batches in sorted(kept.items()):
        logged = _Logged(store, origin)
        for chain in _chained(batches.values()):
            found += _sort_chain(chain, logged, vector.get(origin, 0), tips.get(origin))
    return found


def _chained(batches: Iterable[Batch]) -> list[list[Batch]]:
    """Return batches of one origin as chains, each batch after the one whose hash it names."""
    chains: list[list[Batch]] = []
    ends: dict[tuple[int, bytes], list[Batch]] = {}
    for batch in sorted(batches, key=lambda batch: (batch.header.first, batch.hash)):
        header = batch.header
        chain = ends.pop((header.first - 1, header.previous_hash), None)
        if chain is None:
            chain = []
            chains.append(chain)
        chain.append(batch)
        ends[header.last, batch.hash] = chain
    return chains


class _Logged:
    """What the log holds of one origin: hashes to compare, and counters to continue."""

    def __init__(self, store: Store, origin: int) -> None:
        self.hashes: dict[int, tuple[int, bytes]] = {}
        self.counting: list[Batch] = []
        sequence = 1
        while True:
            try:
                records = store.read_history(origin, sequence, limit_bytes=_READ_BYTES)
            except HistoryGap as gap:
                sequence = gap.details["resume"]
                continue
            if not records:
                return
            for record in records:
                self.hashes[record.first_sequence] = (record.last_sequence, record.digest)
                batch = decode_batch(record.data, known_fields=NESTED)
                if any(_may_count(segment) for segment in batch.segments):
                    self.counting.append(batch)
            sequence = records[-1].last_sequence + 1

    def holds_other(self, first: int, last: int) -> bool:
        """Tell whether a batch in the log overlaps these sequences."""
        return any(begin <= last and end >= first for begin, (end, _) in self.hashes.items())


def _may_count(segment: Segment) -> bool:
    kind = DATATYPES_BY_CODE[segment.datatype]
    return isinstance(kind, RunningTotals | Map)


def _sort_chain(
    chain: list[Batch], logged: _Logged, joined: int, tip: tuple[int, bytes] | None
) -> list[Chain]:
    """Part one chain into what has arrived, and what is lost or a fork."""
    origin = chain[0].header.replica
    arrived = 0
    for number, batch in enumerate(chain, 1):
        header = batch.header
        same = logged.hashes.get(header.first) == (header.last, batch.hash)
        if same or tip == (header.last, batch.hash):
            arrived = number
    found: list[Chain] = []
    if arrived:
        found.append(Chain(origin, False, Rescue(origin, 0, chain[:arrived])))
    rest = chain[arrived:]
    if not rest:
        return found
    first, last = rest[0].header.first, rest[-1].header.last
    before = [batch for batch in logged.counting if batch.header.last < first]
    known = {batch.hash: batch for batch in [*before, *chain]}.values()
    if joined < first:
        return [*found, Chain(origin, False, Rescue(origin, first - 1, known))]
    differs = logged.holds_other(first, last) or (tip is not None and first <= tip[0] <= last)
    fork = int.from_bytes(rest[0].hash[:8], "big") | 1
    renamed = [_renamed(batch, fork, first - 1) for batch in known]
    return [*found, Chain(origin, not differs, Rescue(fork, first - 1, renamed))]


def _renamed(batch: Batch, fork: int, common: int) -> Batch:
    """Return a batch whose origin's dots beyond ``common`` bear another id."""
    origin = batch.header.replica

    def dot_of(dot: int) -> int:
        if dot >> SEQUENCE_BITS == origin and dot & SEQUENCE_MASK > common:
            return fork << SEQUENCE_BITS | dot & SEQUENCE_MASK
        return dot

    def value_of(segment: Segment, value: Any) -> Any:
        # A baseline names the field that it covers by replica and birth.
        kind = DATATYPES_BY_CODE[segment.datatype]
        if (
            isinstance(kind, RunningTotals)
            and type(value) is tuple
            and len(value) > kind.width + 1
            and value[0] == origin
            and value[1] > common
        ):
            return (fork, *value[1:])
        return value

    segments = []
    for segment in batch.segments:
        fields, superseded, values = segment.fields, segment.superseded, segment.values
        if fields is not None:
            fields = [dot_of(field) if type(field) is int and field else field for field in fields]
        if superseded is not None:
            superseded = [
                tuple(map(dot_of, superseded_dots(item, segment.first + index)))
                for index, item in enumerate(superseded)
            ]
        if values is not None:
            values = [value_of(segment, value) for value in values]
        segments.append(
            replace(
                segment,
                first=dot_of(segment.first),
                fields=fields,
                superseded=superseded,
                values=values,
            )
        )
    header = replace(batch.header, replica=fork)
    return replace(batch, header=header, segments=segments)
