"""A replica small enough to believe: what the laws of the datatypes are tested in.

It has a state, a version vector and the batches that it wrote, and nothing of
the real replica: no store, no queue, no limits, no clock but a step counter.
Every write goes through bytes (it is staged, encoded, decoded, and joined from
what was decoded), so a local delta takes the very path of a remote one.

``Fleet`` holds several of them, delivers batches between them in causal order,
and knows what is stable in exactly the design's sense.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from crdtmem.batch import (
    GENESIS_HASH,
    BatchHeader,
    ReplicaTable,
    Segment,
    array_header,
    decode_batch,
    encode_batch,
    encode_dots_column,
)
from crdtmem.causality import VersionVector
from crdtmem.codec import pack
from crdtmem.crdt import DATATYPES, NESTED, SHAPES, DataType
from crdtmem.entries import (
    NO_METADATA,
    SEQUENCE_BITS,
    Entry,
    Field,
    Metadata,
    Slot,
    Stamp,
    as_siblings,
    as_slot,
    pack_dot,
)
from crdtmem.resolve import DEFAULT_RESOLVER
from crdtmem.table import Overlay, State, Table

__all__ = ["Fleet", "HarnessReader", "HarnessView", "Replica", "join_snapshots"]

SPACE = ("laws",)
Dots = frozenset[int]
Places = dict[tuple[int, str, Any], dict[int, Any]]


class HarnessReader:
    """A ``Reader`` at one moment, with the default resolver."""

    def __init__(self, now_us: int = 0) -> None:
        self.now_us = now_us

    def live(self, slot: Slot | None) -> tuple[Entry, ...]:
        """Return the entries that have not expired."""
        return tuple(
            entry
            for entry in as_siblings(slot)
            if entry[2].expires_at_us is None or entry[2].expires_at_us > self.now_us
        )

    def resolve(self, entries: tuple[Entry, ...]) -> Any:
        """Return the latest value."""
        return DEFAULT_RESOLVER.resolve(entries)


class HarnessView:
    """A ``WriteView`` that keeps its deltas, and shows them to what is staged after them."""

    def __init__(
        self,
        replica: Replica,
        datatype: DataType,
        key: str,
        stamp: Stamp,
        observed: Iterable[int] | None,
        *,
        trust_ordered: bool,
    ) -> None:
        self.replica = replica.replica
        self.key = key
        self.now_us = stamp.physical_us
        self.observed = None if observed is None else frozenset(observed)
        self.deltas: list[tuple[Field | None, Any, tuple[int, ...]]] = []
        self.removals: list[bool] = []
        self._first = pack_dot(self.replica, replica.vector.get(self.replica, 0) + 1)
        self._overlay = Overlay(replica.state)
        self._table = replica.state.table(SPACE, datatype.code)
        self._stamp = stamp
        self._trust_ordered = trust_ordered

    def next_dot(self) -> int:
        return self._first + len(self.deltas)

    def slot(self, field: Field | None = None) -> tuple[Entry, ...]:
        return as_siblings(self._overlay.slot(self._table, self.key, field))

    def fields(self) -> Iterator[tuple[Field, tuple[Entry, ...]]]:
        over, base = self._overlay.fields(self._table, self.key)
        for field in sorted({*over, *base}, key=repr):
            if entries := self.slot(field):
                yield field, entries

    def supersede(self, entries: Iterable[Entry]) -> tuple[int, ...]:
        allowed = self.supersede_all(entries)
        if self.observed is None:
            return allowed
        return tuple(dot for dot in allowed if dot in self.observed)

    def supersede_all(self, entries: Iterable[Entry]) -> tuple[int, ...]:
        return tuple(
            dot
            for dot, _, stamp in entries
            if not self._trust_ordered or stamp.trust <= self._stamp.trust
        )

    def put(self, value: Any, superseded: Iterable[int] = (), field: Field | None = None) -> int:
        return self._stage(field, value, tuple(superseded), removal=False)

    def remove(self, superseded: Iterable[int], field: Field | None = None) -> None:
        if dots := tuple(superseded):
            self._stage(field, None, dots, removal=True)

    def _stage(
        self, field: Field | None, value: Any, superseded: tuple[int, ...], *, removal: bool
    ) -> int:
        assert (field is not None) is self._table.nested, "a field where the datatype has none"
        assert field is None or type(field) is int or field, "a field that says nothing"
        dot = self.next_dot()
        held = {entry[0] for entry in self.slot(dot if field == 0 else field)}
        assert held.issuperset(superseded), "a delta supersedes only what its place holds"
        self.deltas.append((field, value, superseded))
        self.removals.append(removal)
        self._overlay.join(
            Segment(
                SPACE,
                self._table.datatype,
                dot,
                1,
                [self.key],
                None if field is None else [field],
                None if removal else [value],
                [superseded],
                self._stamp,
            )
        )
        return dot

    def encode(self, dependencies: dict[int, int], metadata: Metadata) -> bytes:
        """Return the deltas as a batch of one transaction, a segment for each delta."""
        table = ReplicaTable(self.replica)
        parts = [
            pack(
                (
                    0,
                    self._table.datatype,
                    (self.key,),
                    None if field is None else _wire_field(field, self._first + index, table),
                    None if removal else (value,),
                    encode_dots_column([superseded or 0], table),
                    None,
                )
            )
            for index, ((field, value, superseded), removal) in enumerate(
                zip(self.deltas, self.removals, strict=True)
            )
        ]
        head = pack((0, 0, metadata or None, ()))[:-1]
        body = b"".join((head, array_header(len(parts)), *parts))
        first = self._first & ((1 << SEQUENCE_BITS) - 1)
        header = BatchHeader(self.replica, first, len(self.deltas), GENESIS_HASH, "", dependencies)
        bases = (self._stamp.order, self._stamp.physical_us)
        return encode_batch(header, table, [SPACE], bases, [body])


def _wire_field(field: Field, dot: int, table: ReplicaTable) -> Any:
    """Return a column of one field: text and bytes as they are, dots as distances or pairs."""
    if type(field) is not int:
        return (field,)
    if field == 0:
        return None
    if field >> SEQUENCE_BITS == dot >> SEQUENCE_BITS:
        return (dot - field,)
    return (table.flat((field,)),)


class Replica:
    """A state, its vector, and how to write and join."""

    def __init__(self, replica: int, *, trust_ordered: bool = False) -> None:
        self.replica = replica
        self.state = State(SHAPES)
        self.trust_ordered = trust_ordered

    @property
    def vector(self) -> VersionVector:
        """What this replica has joined."""
        return self.state.vector

    def write(
        self,
        datatype: DataType,
        key: str,
        act: Callable[[HarnessView], Any],
        *,
        at: int,
        observed: Iterable[int] | None = None,
        metadata: Metadata = NO_METADATA,
    ) -> tuple[Any, bytes | None]:
        """Stage what ``act`` does, and join it from its bytes; returns its result and batch."""
        stamp = Stamp(self.replica, at, at, trust=metadata.get("t", 0), metadata=metadata)
        view = HarnessView(self, datatype, key, stamp, observed, trust_ordered=self.trust_ordered)
        result = act(view)
        if not view.deltas:
            return result, None
        dependencies = {r: s for r, s in self.vector.items() if r != self.replica}
        data = view.encode(dependencies, metadata)
        self.receive(data)
        return result, data

    def receive(self, data: bytes) -> bool:
        """Join a batch if it is new; ``False`` when something before it is missing."""
        batch = decode_batch(data, known_fields=NESTED)
        header = batch.header
        if self.vector.get(header.replica, 0) >= header.last:
            return True
        if self.vector.get(header.replica, 0) + 1 != header.first:
            return False
        if not self.vector.dominates(header.dependencies):
            return False
        overlay = Overlay(self.state)
        for segment in batch.segments:
            overlay.join(segment)
        overlay.publish()
        self.state.vector[header.replica] = header.last
        return True

    def place(self, datatype: DataType, key: str) -> Any:
        """Return what a datatype's reading gets: a slot, or fields, or ``None``."""
        table = self.state.find(SPACE, datatype.code)
        return None if table is None else table.slots.get(key)

    def value(self, datatype: DataType, key: str = "k", now_us: int = 0) -> Any:
        """Return what a reader sees."""
        return datatype.value(self.place(datatype, key), HarnessReader(now_us))

    def exists(self, datatype: DataType, key: str = "k", now_us: int = 0) -> bool:
        """Tell whether a reader is shown the key."""
        return datatype.exists(self.place(datatype, key), HarnessReader(now_us))

    def dots(self, datatype: DataType, key: str = "k") -> Dots:
        """Return the dots that a read of the key returns: its ``Observed``."""
        place = self.place(datatype, key)
        slots = [] if place is None else place.values() if datatype.nested else [place]
        return frozenset(entry[0] for slot in slots for entry in as_siblings(slot))

    def places(self) -> Places:
        """Return the whole state in a form that compares: place to dot to value and stamp."""
        found: Places = {}
        for table, key, field, (dot, value, stamp) in self.state.entries():
            place = found.setdefault((table.datatype, key, field), {})
            place[dot] = (pack(value), stamp.order, stamp.trust)
        return found


def join_snapshots(left: Replica, right: Replica) -> Replica:
    """Return the join of two whole states by their vectors, without any delta.

    An entry survives if both have it, or if the side that lacks it never saw it.
    """
    joined = Replica(0)
    joined.state.vector = left.vector.copy()
    joined.state.vector.join(right.vector)
    found: dict[tuple[Table, str, Field | None], dict[int, Entry]] = {}
    for one, other in ((left, right), (right, left)):
        held = {entry[0] for _, _, _, entry in other.state.entries()}
        for table, key, field, entry in one.state.entries():
            if entry[0] in held or not other.vector.covers(entry[0]):
                target = joined.state.table(SPACE, table.datatype)
                found.setdefault((target, key, field), {})[entry[0]] = entry
    for (table, key, field), entries in found.items():
        slot = as_slot(list(entries.values()))
        if table.nested:
            table.slots.setdefault(key, {})[field] = slot
        else:
            table.slots[key] = slot
    joined.state.rebuild_derived()
    return joined


class Fleet:
    """Several replicas, the batches between them, and what each has acknowledged."""

    def __init__(self, size: int = 3, *, trust_ordered: bool = False) -> None:
        self.replicas = [Replica(number + 1, trust_ordered=trust_ordered) for number in range(size)]
        self.batches: dict[int, list[bytes]] = {r.replica: [] for r in self.replicas}
        self.acknowledged = [VersionVector() for _ in self.replicas]
        self.step = 0

    def __getitem__(self, index: int) -> Replica:
        return self.replicas[index]

    def act(
        self,
        index: int,
        type_name: str,
        operation: str,
        *arguments: Any,
        key: str = "k",
        observed: Iterable[int] | None = None,
        trust: int = 0,
        operation_id: bytes | None = None,
    ) -> Any:
        """Carry out one operation at one replica; returns its result."""
        datatype = DATATYPES[type_name]
        metadata: Metadata = {}
        if trust:
            metadata["t"] = trust
        if operation_id:
            metadata["i"] = operation_id
        return self.write(
            index,
            datatype,
            lambda view: datatype.apply(view, operation, arguments),
            key=key,
            observed=observed,
            metadata=metadata,
        )

    def write(
        self,
        index: int,
        datatype: DataType,
        act: Callable[[HarnessView], Any],
        *,
        key: str = "k",
        observed: Iterable[int] | None = None,
        metadata: Metadata = NO_METADATA,
    ) -> Any:
        """Stage what ``act`` does at one replica, and keep its batch for the others."""
        self.step += 1
        replica = self.replicas[index]
        result, data = replica.write(
            datatype, key, act, at=self.step, observed=observed, metadata=metadata
        )
        if data is not None:
            self.batches[replica.replica].append(data)
        return result

    def deliver(self, to: int, origin: int) -> bool:
        """Deliver the next batch of one replica to another; ``False`` if it has to wait."""
        target = self.replicas[to]
        source = self.replicas[origin].replica
        for data in self.batches[source]:
            if decode_batch(data).header.last > target.vector.get(source, 0):
                return target.receive(data)
        return False

    def pull(self, to: int, origin: int) -> None:
        """Deliver to one replica everything that another one has joined."""
        target, wanted = self.replicas[to], self.replicas[origin].vector
        known = [
            data
            for source, batches in self.batches.items()
            for data in batches
            if decode_batch(data).header.last <= wanted.get(source, 0)
        ]
        deliver_all(target, known)
        assert target.vector.dominates(wanted)

    def settle(self) -> None:
        """Deliver everything to everyone, and have everyone acknowledge it."""
        for index, replica in enumerate(self.replicas):
            deliver_all(replica, self.everything())
            self.acknowledge(index)

    def everything(self) -> list[bytes]:
        """Return all batches, by replica."""
        return [data for batches in self.batches.values() for data in batches]

    def acknowledge(self, index: int) -> None:
        """Let everyone know what one replica has durably joined by now."""
        self.acknowledged[index] = self.replicas[index].vector.copy()

    def is_stable(self, index: int) -> Callable[[int], bool]:
        """Return the stability test of one replica, as the design defines it."""
        vector = self.replicas[index].vector
        current = all(
            vector.get(other.replica, 0) >= acknowledged.get(other.replica, 0)
            for other, acknowledged in zip(self.replicas, self.acknowledged, strict=True)
        )
        return lambda dot: current and all(w.covers(dot) for w in self.acknowledged)

    def collect(self, index: int, type_name: str, key: str = "k") -> None:
        """Let one replica collect what is stable for it."""
        datatype = DATATYPES[type_name]
        if datatype.collectible:
            stable = self.is_stable(index)
            self.write(index, datatype, lambda view: datatype.collect(view, stable), key=key)


def deliver_all(target: Replica, batches: Iterable[bytes]) -> None:
    """Deliver batches in whatever order they come, again and again until all are joined."""
    waiting = list(batches)
    while waiting:
        left = [data for data in waiting if not target.receive(data)]
        assert len(left) < len(waiting), "batches that wait for something that is not there"
        waiting = left
