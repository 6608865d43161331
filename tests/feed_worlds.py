"""A memory, two writers elsewhere, and readers of its changes, judged by an oracle.

``World`` does what happens to a memory: it writes, joins what others wrote, or their whole
state, cuts its log, and is closed and opened. A ``Reader`` reads a feed of it and knows, from
the batches alone, what must be told. What a reader is told is checked at once: each dot once,
none before its causes, a cursor that covers exactly what was told, and of a gap that nothing
in it is held.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from crdtmem import feeds
from crdtmem.batch import Batch, decode_batch
from crdtmem.causality import Context, VersionVector
from crdtmem.changes import Lagging, Part
from crdtmem.crdt import NESTED
from crdtmem.entries import pack_dot
from crdtmem.errors import HistoryGap, StoreFailed
from crdtmem.feeds import Feed
from crdtmem.install import Installation, Kind
from crdtmem.memory import Memory
from crdtmem.policy import SYSTEM_SPACE
from crdtmem.snapshot import SnapshotHeader
from crdtmem.store.base import KIND_BATCH
from crdtmem.table import State
from tests.kernel_node import SPACE, KernelNode, puts
from tests.memories import fresh_url, opened
from tests.waiting import eventually

_stumbles: list[StoreFailed] = []

__all__ = ["STEPS", "Reader", "World", "play", "played", "small_feeds", "snapshot_of"]


@contextlib.contextmanager
def small_feeds() -> Iterator[None]:
    """Let every bound of a feed be so small that a few writes reach it."""
    small = {
        "CHANGES_PER_PART": 3,
        "_SLICE_RECORDS": 2,
        "_PROBES": 1,
        "_QUIET_BATCHES": 2,
    }
    usual = {name: getattr(feeds, name) for name in (*small, "_read_slice")}
    read_slice = feeds._read_slice

    def stumbling(*arguments: Any) -> Any:
        if _stumbles:
            raise _stumbles.pop()
        return read_slice(*arguments)

    for name, value in (*small.items(), ("_read_slice", stumbling)):
        setattr(feeds, name, value)
    try:
        yield
    finally:
        for name, value in usual.items():
            setattr(feeds, name, value)


def snapshot_of(node: KernelNode) -> Installation:
    """Return the whole published state of a node, as it would reach a peer."""
    state = State(node.replica.state.shapes)
    for table, key, field, entry in node.replica.state.entries():
        copy = state.table(table.space, table.datatype)
        if copy.nested:
            copy.slots.setdefault(key, {})[field] = entry
        else:
            copy.slots[key] = entry
    state.vector = node.replica.state.vector.copy()
    header = SnapshotHeader(vector=state.vector.copy(), tips=dict(node.replica.tips))
    return Installation(Kind.WHOLE, header, state)


class _Heard:
    """A listener that remembers every batch that was published."""

    def __init__(self, world: World) -> None:
        self._world = world

    def push(self, batches: Any) -> None:
        self._world.note(batches)

    def close(self) -> None:
        pass


class World:
    """The memory under test, and the writers elsewhere."""

    def __init__(self, memory: Memory, url: str) -> None:
        self.memory = memory
        self.url = url
        self.others = [KernelNode(2), KernelNode(3)]
        self.batches: dict[tuple[int, int], Batch] = {}
        self.users: set[int] = set()
        self._written = 0
        memory.runtime.subscriptions.append(_Heard(self))

    @classmethod
    async def open(cls, url: str = "") -> World:
        """Begin a world, on a disk of its own."""
        url = url or fresh_url()
        world = cls(await opened(url), url)
        # What it wrote to found its cluster: who joins anything of it joins that first.
        world.note([decode_batch(data, known_fields=NESTED) for *_, data in await world.held()])
        return world

    def note(self, batches: list[Batch]) -> None:
        """Remember batches, and which of their dots a reader must be told."""
        for batch in batches:
            header = batch.header
            self.batches[header.replica, header.first] = batch
            for segment in batch.segments:
                if segment.space != SYSTEM_SPACE:
                    self.users |= {segment.first + index for index in range(segment.count)}

    @property
    def published(self) -> VersionVector:
        return self.memory.engine.replica.state.vector

    def _items(self, count: int) -> dict[str, int]:
        self._written += 1
        return {f"k{number}": self._written for number in range(count)}

    # ------------------------------------------------------------------ what happens

    async def write(self, count: int = 1) -> None:
        """Write so many keys here, in one transaction."""
        async with self.memory.transaction() as opened_transaction:
            opened_transaction.put_many(SPACE, self._items(count))

    async def elsewhere(self, index: int, count: int = 1) -> None:
        """Let another write, knowing all that is published here; nobody learns of it yet."""
        other = self.others[index]
        for key in sorted(self.batches):
            if self.published.get(key[0], 0) >= self.batches[key].header.last:
                other.offer(self.batches[key])
        other.run()
        known = self.published.copy()
        for elsewhere in self.others:
            known.pop(elsewhere.replica.identity.replica, None)
        assert other.replica.state.vector.dominates(known)
        other.commit(puts(self._items(count)))
        self.note(other.written)

    async def join(self) -> None:
        """Join all that was written elsewhere."""
        replica = self.memory.engine.replica
        wanted = self.published.copy()
        for other in self.others:
            for batch in other.written:
                if batch.header.last > self.published.get(batch.header.replica, 0):
                    _, effects = replica.offer(decode_batch(batch.data, known_fields=NESTED))
                    self.memory.runtime.apply(effects)
            wanted.join({batch.header.replica: batch.header.last for batch in other.written})
        await self.memory.wait_for(Context(wanted))

    async def install(self, index: int) -> None:
        """Join the whole state of another."""
        installation = snapshot_of(self.others[index])
        self.memory.runtime.apply(self.memory.engine.replica.install(installation))
        await self.memory.wait_for(Context(installation.header.vector))

    async def cut(self, *, budget: bool = True, retention: bool = True) -> None:
        """Write a checkpoint, and cut off the log what it covers, for one reason or for both."""
        runtime = self.memory.runtime
        assert runtime.checkpointer is not None
        await runtime.perform(runtime.checkpointer.checkpoint())
        for replica, last in dict(self.published).items():
            cuts = [runtime.store.cut_sync_log] if budget else []
            cuts += [runtime.store.cut_history] if retention else []
            for cut in cuts:
                await runtime.in_store(lambda cut=cut, r=replica, n=last + 1: cut(r, n))  # type: ignore[misc]

    def stumble(self) -> None:
        """Let the next look into the log fail."""
        _stumbles[:] = [StoreFailed("the disk said no, once")]

    async def restart(self) -> None:
        """Close the memory, and open it again."""
        await self.memory.close()
        self.memory = await opened(self.url)
        self.memory.runtime.subscriptions.append(_Heard(self))

    async def held(self) -> list[tuple[int, int, int, bytes]]:
        """Return the batches that the log holds: replica, first and last sequence, bytes."""
        runtime = self.memory.runtime
        records = await runtime.in_store(lambda: list(runtime.store.replay(after_ordinal=0)))
        return [
            (record.replica, record.first_sequence, record.last_sequence, record.data)
            for record in records
            if record.kind == KIND_BATCH
        ]


class Reader:
    """Reads one feed after another, and checks whatever it is told."""

    def __init__(self, world: World, limit_batches: int) -> None:
        self.world = world
        self.limit_batches = limit_batches
        self.cursors = [Context()]
        self.gaps: list[HistoryGap] = []
        self.lagged = 0
        self._feed: Feed | None = None
        self._base = VersionVector()
        self._told: set[int] = set()
        self._was_told_of_lag = False
        self._task: asyncio.Task[Part | Lagging] | None = None

    # ------------------------------------------------------------------ the oracle

    def _covers(self, dot: int) -> bool:
        return self._base.covers(dot) or dot in self._told

    @property
    def outstanding(self) -> bool:
        """Whether there is something that the reader must be told."""
        published = self.world.published
        return any(published.covers(dot) and not self._covers(dot) for dot in self.world.users)

    def _check_change(self, dot: int) -> None:
        world, replica = self.world, dot >> 64
        assert dot in world.users, "told what no user wrote"
        assert not self._covers(dot), "told twice"
        assert world.published.covers(dot), "told before it was published"
        batch = next(
            batch
            for (origin, first), batch in world.batches.items()
            if origin == replica and first <= dot & (1 << 64) - 1 <= batch.header.last
        )
        causes = VersionVector(batch.header.dependencies)
        causes[replica] = (dot & (1 << 64) - 1) - 1
        missing = [
            cause for cause in world.users if causes.covers(cause) and not self._covers(cause)
        ]
        assert not missing, "told before its causes"
        self._told.add(dot)

    def _check_part(self, part: Part) -> None:
        for change in part.changes:
            replica, _, sequence = change.dot.partition(":")
            self._check_change(pack_dot(int(replica, 16), int(sequence)))
        if part.cursor is None:
            assert part.changes
            return
        assert part.cursor == self.feed.cursor
        vector = part.cursor.vector
        for dot in self.world.users:
            assert vector.covers(dot) == self._covers(dot), "a cursor that covers something else"
        self.cursors.append(part.cursor)

    async def _check_gap(self, gap: HistoryGap, cursor: Context) -> Context:
        resume = Context.parse(gap.details["resume"])
        spans = gap.details["missing"]
        assert spans
        assert cursor < resume
        skipped = {
            pack_dot(replica, sequence)
            for replica, first, last in spans
            for sequence in range(first, last + 1)
        }
        for dot in self.world.users:
            covered = cursor.vector.covers(dot) or self._covers(dot) or dot in skipped
            assert resume.vector.covers(dot) == covered, "it resumes elsewhere than after the gap"
        assert self.world.published.dominates({replica: last for replica, _, last in spans}), (
            "a gap in what was not even published"
        )
        held = await self.world.held()
        for replica, first, last in spans:
            assert not [
                record
                for record in held
                if record[0] == replica and record[1] <= last and record[2] >= first
            ], "a gap where something is held"
        self.gaps.append(gap)
        return resume

    # ------------------------------------------------------------------ reading

    @property
    def feed(self) -> Feed:
        assert self._feed is not None
        return self._feed

    async def connect(self, cursor: Context) -> None:
        """Read on after a cursor; after a gap, from where it says."""
        await self.disconnect()
        while True:
            self._base, self._told = cursor.vector.copy(), set()
            try:
                self._feed = await self.world.memory.changes(
                    after=cursor, limit_batches=self.limit_batches
                )
            except HistoryGap as gap:
                cursor = await self._check_gap(gap, cursor)
            else:
                assert self.feed.cursor == cursor
                return

    async def disconnect(self) -> None:
        """Give a feed up, wherever it is."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            self._task = None
        if self._feed is not None:
            await self._feed.close()
            self._feed = None

    def begin_to_read(self) -> None:
        """Ask for the next part, and do not wait for it."""
        if self._task is None:
            self._task = asyncio.ensure_future(self.feed.next())

    @property
    def caught_up(self) -> bool:
        """Whether the next part, asked for, has come, or is waited for live."""
        return self._task is None or self._task.done() or self.feed._live

    async def give_up(self) -> None:
        """Ask no longer for the next part, unless it has come, and keep the feed."""
        if self._task is None:
            return
        if self._task.done():
            await self.take()
            return
        self._task.cancel()
        await asyncio.wait({self._task})
        if self._task.cancelled():
            self._task = None
        else:
            await self.take()

    async def read(self) -> None:
        """Take the next part, if there must be one."""
        if self.outstanding:
            await self.take()

    async def take(self) -> None:
        """Take the next part."""
        self.begin_to_read()
        assert self._task is not None
        task, self._task = self._task, None
        # Of a part that has come the cursor has moved already.
        cursor = self.cursors[-1]
        try:
            part = await task
        except StoreFailed:
            return
        except HistoryGap as gap:
            resume = await self._check_gap(gap, cursor)
            await self.connect(resume)
            return
        if isinstance(part, Lagging):
            assert part.missed > 0
            assert not self._was_told_of_lag, "told twice that it lags"
            self._was_told_of_lag, self.lagged = True, self.lagged + 1
            return
        self._was_told_of_lag = False
        self._check_part(part)

    async def drain(self) -> None:
        """Read until there is nothing left to be told."""
        while self.outstanding:
            await self.read()


# ------------------------------------------------------------------ stories

_Step = Callable[[World, Reader, int], Awaitable[None]]


async def _write(world: World, reader: Reader, number: int) -> None:
    await world.write(1 + number % 5)


async def _elsewhere(world: World, reader: Reader, number: int) -> None:
    await world.elsewhere(number % 2, 1 + number % 4)


async def _join(world: World, reader: Reader, number: int) -> None:
    await world.join()


async def _install(world: World, reader: Reader, number: int) -> None:
    await world.install(number % 2)


async def _cut(world: World, reader: Reader, number: int) -> None:
    await world.cut(budget=number % 3 != 1, retention=number % 3 != 2)


async def _read(world: World, reader: Reader, number: int) -> None:
    await reader.read()


async def _ask(world: World, reader: Reader, number: int) -> None:
    reader.begin_to_read()
    # Let it get somewhere: to the store and back, or not.
    for _ in range(number % 3):
        await asyncio.sleep(0)


async def _catch_up(world: World, reader: Reader, number: int) -> None:
    reader.begin_to_read()
    await eventually(lambda: reader.caught_up, "a reader that is live")


async def _give_up(world: World, reader: Reader, number: int) -> None:
    await reader.give_up()


async def _stumble(world: World, reader: Reader, number: int) -> None:
    world.stumble()


async def _resume(world: World, reader: Reader, number: int) -> None:
    await reader.connect(reader.cursors[-1 - number % len(reader.cursors)])


async def _restart(world: World, reader: Reader, number: int) -> None:
    await reader.disconnect()
    await world.restart()
    await reader.connect(reader.cursors[-1])


STEPS: dict[str, _Step] = {
    "write": _write,
    "elsewhere": _elsewhere,
    "join": _join,
    "install": _install,
    "cut": _cut,
    "read": _read,
    "ask": _ask,
    "catch up": _catch_up,
    "give up": _give_up,
    "stumble": _stumble,
    "resume": _resume,
    "restart": _restart,
}


async def play(limit_batches: int, steps: list[tuple[str, int]], url: str = "") -> Reader:
    """Play a story with one reader, then let it read all; return it."""
    world = await World.open(url)
    reader = Reader(world, limit_batches)
    try:
        await reader.connect(reader.cursors[0])
        for name, number in steps:
            await STEPS[name](world, reader, number)
        await reader.drain()
        assert world.memory.runtime.defect is None
    finally:
        await reader.disconnect()
        await world.memory.close()
    return reader


def played(*names: str, limit_batches: int = 2) -> Reader:
    """Play a story that is told by its steps' names alone."""
    return asyncio.run(play(limit_batches, [(name, 0) for name in names]))
