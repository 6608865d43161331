"""History: what really happened, known to nobody in the world.

Problem: whether a replica holds what it should can be told only by somebody who knows
every delta that was ever durable anywhere, in which order of cause and effect, and what
each client was told of its operations.

Idea: the history reads the machines' disks, not their words. Whenever a node publishes,
starts or ends, the records that are new on its disk are taken in; each batch is decoded
once, when it is first seen anywhere. So it knows batches whose writer died before it
could tell anyone, and it knows them before any peer joins them through a snapshot.
Beside them stand the ``Call``s: what each client asked of which machine, when, and what
came of it. A transaction is recognised as somebody's by its operation id.

A batch's *context* is the vector that its writer had joined when it staged it: the
batch's dependencies, which are coded as differences, added up along the writer's chain.

Two histories under one id (a copy of a disk that nobody could tell from the original)
make a *fork*: ``forked`` names such ids; where the chains part is told by hashes.

Invariants: the history looks and never touches; ``batches`` only grows; the first batch
seen under a name keeps it, and another with the same name goes to ``conflicts``. It is a
world's first watcher, so that checkers find it up to date.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Final, NamedTuple, TypeVar

from crdtmem.batch import Batch, Segment, decode_batch, superseded_dots
from crdtmem.causality import VersionVector
from crdtmem.codec import unpack
from crdtmem.crdt import NESTED
from crdtmem.entries import SEQUENCE_BITS, SEQUENCE_MASK, Metadata
from crdtmem.errors import CrdtmemError
from crdtmem.snapshot import decode_header
from crdtmem.store.base import KIND_BATCH, LogRecord, content_digest
from crdtmem.store.continuity import Fingerprint, judge
from simulations.node import Machine
from simulations.steps import Step
from simulations.world import Watcher, World

__all__ = ["Call", "Conflict", "History", "Written", "View"]

_NOTHING: Final = VersionVector()

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Call:
    """One thing that a client asked of a machine, and what came of it.

    ``outcome`` is ``unknown`` until the machine answers, for ever if it dies; ``ok``; or
    ``refused``, with the error's ``code``. ``ended_us`` is when it was answered or became
    hopeless, ``given_up_us`` when the client stopped waiting: an answer may come later
    still. ``dots`` (first dot, number of deltas) and ``context`` are what the machine said
    of a write that is durable there, even if it then failed to be durable as widely as
    asked. ``demanded`` is the vector that the client asked to be covered. ``replica`` and
    ``life`` are the machine's when it was asked. Times are the world's, in microseconds.
    """

    number: int
    client: int
    machine: str
    step: Step
    at_us: int
    attempt: int = 0
    operation_id: bytes | None = None
    demanded: Mapping[int, int] = field(default_factory=dict)
    deadline_us: int = 0
    replica: int = 0
    life: int = 0
    ended_us: int | None = None
    given_up_us: int | None = None
    outcome: str = "unknown"
    result: Any = None
    dots: tuple[int, int] | None = None
    context: VersionVector | None = None
    code: str = ""
    error: CrdtmemError | None = None
    died: bool = False
    repeated: bool = False
    observed: frozenset[int] | None = None
    clock_us: int = 0
    was_durable: bool = True
    reached: frozenset[str] = frozenset()
    ended: Callable[[Call], None] | None = None

    @property
    def is_open(self) -> bool:
        """Whether an answer may still come."""
        return self.ended_us is None


@dataclass(slots=True, eq=False)
class View:
    """One node as the history knows it: who it is, what it published, what is durable there.

    ``news`` are the batches that the last publication added, ``durable`` what the disk has
    been seen to hold: it may be ahead of ``vector``.
    """

    machine: str
    life: int
    replica: int
    vector: VersionVector
    tips: Mapping[int, tuple[int, bytes]]
    durable: VersionVector
    news: list[Batch] = field(default_factory=list)
    up: bool = True
    continuous: bool = True
    boot: int = 0
    seen_ordinal: int = 0


class Conflict(NamedTuple):
    """Two batches that share a dot, and the machine on whose disk the second was found."""

    first: Batch
    second: Batch
    machine: str


@dataclass(frozen=True, slots=True)
class Written:
    """One transaction in a batch: its stamps, its metadata, its segments, its dots."""

    batch: Batch
    order: int
    physical_us: int
    metadata: Metadata
    segments: list[Segment]

    @property
    def first(self) -> int:
        """The first dot."""
        return self.segments[0].first

    @property
    def count(self) -> int:
        """How many deltas it has."""
        return sum(segment.count for segment in self.segments)

    @property
    def operation_id(self) -> bytes | None:
        """The client's name for it, if a client or a promise to one asked for it."""
        return self.metadata.get("i")


class History(Watcher):
    """The omniscient record of one world. Registers itself as the world's first watcher."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.calls: list[Call] = []
        self.batches: dict[tuple[int, int], Batch] = {}
        self.by_hash: dict[bytes, Batch] = {}
        # Batches that were found elsewhere although their writer's disk never held them.
        self.unsourced: list[tuple[Batch, str]] = []
        # All batches in the order in which they were first seen.
        self.log: list[Batch] = []
        self.ended_calls: list[Call] = []
        self.conflicts: list[Conflict] = []
        self.forked: set[int] = set()
        # Ids that somebody took up from a copy that nothing on the disk gave away.
        self.copied: set[int] = set()
        # Whether nothing gives it away that a machine's disk was put back.
        self._hidden: dict[str, bool] = {}
        self.machines_of: dict[int, list[str]] = {}
        self.views: dict[str, View] = {}
        self.past: dict[str, View] = {}
        self.harms: dict[str, list[str]] = {}
        self._firsts: dict[int, list[int]] = {}
        # The last sequence of each replica, in whichever of its histories it was written.
        self._furthest = VersionVector()
        self._contexts: dict[bytes, VersionVector] = {}
        self._effects: dict[bytes, tuple[list[int], list[int]]] = {}
        self._open: dict[str, dict[int, Call]] = {}
        self._indexes: dict[type, Any] = {}
        world.watchers.insert(0, self)

    # ------------------------------------------------------------------ watching

    def started(self, machine: Machine) -> None:
        """Take in all that a disk holds, and who has taken it up."""
        engine, store = machine.engine, machine.store
        assert store is not None
        replica = engine.replica_id
        former = self.views.get(machine.name)
        if former is not None:
            self.past[machine.name] = former
        view = View(
            machine.name,
            machine.lives,
            replica,
            engine.state.vector.copy(),
            dict(engine.tips),
            _checkpointed(machine),
            continuous=store.boot.continuous,
            boot=store.boot.boot,
        )
        self.views[machine.name] = view
        names = self.machines_of.setdefault(replica, [])
        if names and view.continuous and self._hidden.pop(machine.name, False):
            self.copied.add(replica)
        if machine.name not in names:
            names.append(machine.name)
        self._absorb(machine, view)

    def ended(self, machine: Machine) -> None:
        """Take in what was durable at the end; whoever waits there will get no answer."""
        view = self.views.get(machine.name)
        if view is not None:
            self._absorb(machine, view)
            view.up = False
        for call in list(self._open.get(machine.name, {}).values()):
            call.died = True
            self._close(call)

    def published(self, machine: Machine) -> None:
        """Take in what is new on a disk, and say what the publication added."""
        view = self.views[machine.name]
        self._absorb(machine, view)
        replica = machine.engine.replica
        vector, tips = replica.state.vector, replica.tips
        view.news = self.between(view.vector, vector, tips)
        view.vector, view.tips = vector, tips

    def harmed(self, machine: Machine, what: str) -> None:
        """Remember that a disk was damaged or put back, and whether anything on it says so."""
        self.harms.setdefault(machine.name, []).append(what)
        if what == "restored":
            disk = machine.device.disk  # Judged here: whether the node sees it is to be checked.
            here = Fingerprint("memory", inode=disk.inode, mark_inode=disk.inode)
            told = judge(disk.state, disk.mark, here, disk.position).reason
            self._hidden[machine.name] = not told

    # ------------------------------------------------------------------ calls

    def begin(self, call: Call) -> None:
        """Note that something is asked; ``call.ended`` is called when no answer will follow."""
        self.calls.append(call)
        self._open.setdefault(call.machine, {})[call.number] = call

    def noted_durable(self, call: Call, first: int, count: int, context: VersionVector) -> None:
        """Note that a machine has called a write durable there, and whether it was."""
        call.dots, call.context = (first, count), context
        view = self.views[call.machine]
        self._absorb(self.world.machines[call.machine], view)
        replica, sequence = first >> SEQUENCE_BITS, first & SEQUENCE_MASK
        if not call.repeated:
            call.was_durable = view.durable.get(replica, 0) >= sequence + count - 1

    def regions_reached(self, vector: Mapping[int, int]) -> frozenset[str]:
        """Return the regions in which some disk has been seen to hold all of a vector."""
        machines = self.world.machines
        return frozenset(
            machines[name].region
            for name, view in self.views.items()
            if view.durable.dominates(vector)
        )

    def answered(self, call: Call, result: Any, error: CrdtmemError | None) -> None:
        """Note an answer."""
        if call.dots is not None and call.step.arguments.get("durability", "local") != "local":
            for name, view in self.views.items():
                if view.up:
                    self._absorb(self.world.machines[name], view)
            assert call.context is not None
            call.reached = self.regions_reached(call.context)
        call.result, call.error = result, error
        call.code = "" if error is None else error.code
        call.outcome = {"": "ok", "store_undecided": "unknown"}.get(call.code, "refused")
        self._close(call)

    def _close(self, call: Call) -> None:
        self._open.get(call.machine, {}).pop(call.number, None)
        call.ended_us = self.world.kernel.now_us
        self.ended_calls.append(call)
        if call.ended is not None:
            call.ended(call)

    def waiting(self) -> list[Call]:
        """Return the calls that may still be answered, in the order of asking."""
        found = (call for calls in self._open.values() for call in calls.values())
        return sorted(found, key=attrgetter("number"))

    def written_calls(self) -> Iterator[Call]:
        """Yield the calls whose write some machine has said to be durable."""
        return (call for call in self.calls if call.dots is not None)

    # ------------------------------------------------------------------ taking in

    def _absorb(self, machine: Machine, view: View) -> None:
        records = machine.device.disk.records
        if not records or records[-1].ordinal <= view.seen_ordinal:
            return
        durable = view.durable
        for record in machine.device.disk.after(view.seen_ordinal):
            if record.kind == KIND_BATCH:
                self._take(record, machine.name)
                if record.last_sequence > durable.get(record.replica, 0):
                    durable[record.replica] = record.last_sequence
            else:
                durable.join(_installed(record))
        view.seen_ordinal = records[-1].ordinal

    def _take(self, record: LogRecord, machine: str) -> None:
        if record.digest in self.by_hash:
            return
        if content_digest(record.data) != record.digest:
            # Rot: what the disk returns is not what was written.
            return
        self._ask_origin(record.replica, machine)
        if record.digest in self.by_hash:
            return
        batch = decode_batch(record.data, known_fields=NESTED)
        self.by_hash[batch.hash] = batch
        self._furthest.join({record.replica: record.last_sequence})
        name = (record.replica, record.first_sequence)
        if machine not in self.machines_of.get(record.replica, ()):
            self.unsourced.append((batch, machine))
        other = self.batches.get(name) or self._overlapping(batch)
        if other is not None:
            self.forked.add(record.replica)
            self.conflicts.append(Conflict(other, batch, machine))
            return
        self.batches[name] = batch
        self.log.append(batch)
        insort(self._firsts.setdefault(record.replica, []), record.first_sequence)

    def _ask_origin(self, replica: int, machine: str) -> None:
        """Look at the disk of whoever writes under an id before others are believed."""
        for name in self.machines_of.get(replica, ()):
            view = self.views[name]
            if name != machine and view.up:
                self._absorb(self.world.machines[name], view)

    def _overlapping(self, batch: Batch) -> Batch | None:
        header = batch.header
        firsts = self._firsts.get(header.replica, [])
        at = bisect_right(firsts, header.first)
        for index in (at - 1, at):
            if 0 <= index < len(firsts):
                other = self.batches[header.replica, firsts[index]]
                if other.header.first <= header.last and header.first <= other.header.last:
                    return other
        return None

    # ------------------------------------------------------------------ looking

    def index(self, kind: Callable[[History], T]) -> T:
        """Return the one index of a class, made when it is first asked for."""
        assert isinstance(kind, type)
        found = self._indexes.get(kind)
        if found is None:
            found = self._indexes[kind] = kind(self)
        made: T = found
        return made

    def chain(self, replica: int) -> list[Batch]:
        """Return the batches of one replica, as they were first seen, by sequence."""
        return [self.batches[replica, first] for first in self._firsts.get(replica, [])]

    def replicas(self) -> list[int]:
        """Return everyone who ever wrote anything durable, sorted."""
        return sorted(self._firsts)

    def last(self, replica: int) -> int:
        """Return the last sequence of a replica that was ever durable, 0 for none."""
        firsts = self._firsts.get(replica)
        return self.batches[replica, firsts[-1]].header.last if firsts else 0

    def batch_of(self, dot: int) -> Batch | None:
        """Return the batch that holds a dot, ``None`` if nobody ever wrote it."""
        replica, sequence = dot >> SEQUENCE_BITS, dot & SEQUENCE_MASK
        firsts = self._firsts.get(replica, [])
        at = bisect_right(firsts, sequence) - 1
        batch = self.batches[replica, firsts[at]] if at >= 0 else None
        return batch if batch is not None and batch.header.last >= sequence else None

    def between(
        self,
        known: Mapping[int, int],
        through: Mapping[int, int],
        tips: Mapping[int, tuple[int, bytes]] | None = None,
    ) -> list[Batch]:
        """Return the batches beyond ``known`` up to ``through``, by replica, in sequence.

        ``tips`` choose the branch of an id that has several histories. What nobody is
        known to have written is left out: see ``unknown``.
        """
        found: list[Batch] = []
        for replica, last in through.items():
            after = known.get(replica, 0)
            if last <= after:
                continue
            if replica in self.forked and tips is not None and replica in tips:
                found += self._branch(tips[replica][1], after)
                continue
            firsts = self._firsts.get(replica, [])
            begin, end = bisect_right(firsts, after), bisect_right(firsts, last)
            found += [self.batches[replica, first] for first in firsts[begin:end]]
        return found

    def _branch(self, tip: bytes, after: int) -> list[Batch]:
        """Return the batches that end in a tip, walked back by their hashes."""
        found: list[Batch] = []
        batch = self.by_hash.get(tip)
        while batch is not None and batch.header.last > after:
            found.append(batch)
            batch = self.by_hash.get(batch.header.previous_hash)
        return found[::-1]

    def unknown(self, vector: Mapping[int, int]) -> dict[int, int]:
        """Return what a vector claims of each replica beyond what was ever durable."""
        known = self._furthest.get
        return {
            replica: last for replica, last in sorted(vector.items()) if last > known(replica, 0)
        }

    def context(self, batch: Batch) -> VersionVector:
        """Return what the writer had joined when it staged a batch, its own before it included."""
        found = self._contexts.get(batch.hash)
        if found is not None:
            return found
        # Walked back to the last one that is known, for chains are longer than stacks.
        pending = [batch]
        while (before := self.by_hash.get(pending[-1].header.previous_hash)) is not None:
            if before.hash in self._contexts:
                break
            pending.append(before)
        base = _NOTHING if before is None else self._contexts[before.hash]
        is_whole = before is not None or pending[-1].header.first == 1
        for item in reversed(pending):
            header = item.header
            base = base.copy()
            base.join(header.dependencies)
            if header.first > 1:
                base[header.replica] = header.first - 1
            if is_whole:
                self._contexts[item.hash] = base
        return base

    def effects(self, batch: Batch) -> tuple[list[int], list[int]]:
        """Return the dots of the entries that a batch adds, and the dots that it supersedes."""
        found = self._effects.get(batch.hash)
        if found is None:
            added: list[int] = []
            gone: list[int] = []
            for segment in batch.segments:
                if segment.values is not None:
                    added += range(segment.first, segment.first + segment.count)
                if segment.superseded is not None:
                    for dot, item in enumerate(segment.superseded, segment.first):
                        if item:
                            gone += superseded_dots(item, dot)
            found = self._effects[batch.hash] = (added, gone)
        return found

    def delta(self, dot: int) -> tuple[Segment, int] | None:
        """Return the segment that holds a dot and the place in it, ``None`` if there is none."""
        batch = self.batch_of(dot)
        if batch is None:
            return None
        at = bisect_right(batch.segments, dot, key=attrgetter("first")) - 1
        return batch.segments[at], dot - batch.segments[at].first

    def ends_whole(self, replica: int, last: int, tip: bytes | None = None) -> bool:
        """Tell whether a sequence is the end of a batch of its replica."""
        if tip is not None and replica in self.forked:
            found = self.by_hash.get(tip)
            return found is not None and found.header.last == last
        firsts = self._firsts.get(replica, [])
        at = bisect_left(firsts, last + 1) - 1
        return at >= 0 and self.batches[replica, firsts[at]].header.last == last

    def transactions(self, batch: Batch) -> Iterator[Written]:
        """Yield the transactions of a batch."""
        ends = [*(item[3] for item in batch.transactions[1:]), len(batch.segments)]
        for item, end in zip(batch.transactions, ends, strict=True):
            yield Written(batch, *item[:3], batch.segments[item[3] : end])


def _installed(record: LogRecord) -> VersionVector:
    """Return what a marker of the log says to be covered, nothing for its parts."""
    body = unpack(record.data)
    return decode_header(body[4]).vector if body[1] == "install" else _NOTHING


def _checkpointed(machine: Machine) -> VersionVector:
    """Return what the newest checkpoint on a disk covers."""
    checkpoints = machine.device.disk.checkpoints
    return decode_header(checkpoints[-1].header).vector.copy() if checkpoints else VersionVector()
