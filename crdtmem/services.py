"""Services: the rare effects that take the whole store, or the whole engine, in hand.

Problem: an id that was given up must never be used again, though the process may
die at any moment; the people whom this node serves should not have to restart it
by hand; and repair must be able to read the whole log without stopping commits.

Idea: ``Retire`` is carried out in place. No flight is out; the verdict is written
and fsynced; the streams to peers are closed; the store is opened again, exactly as
after a crash, which sets aside what lies beyond the cuts and draws a new id (see
``retirement``); a new engine takes the old one's place. Readers are served from the
old state until then. Whatever waits in the old engine is refused, and change feeds
end: what they would have to say is not a change.

``Rederive`` compares the published state with what the store leads to, and takes
the store's word. ``FindEvidence`` walks the log in slices, between commits.

Invariants: nothing is written between the verdict and the new id; a retirement that
fails is tried again, with a growing pause, until the store obeys or the node stops,
and the next start does the same; answers never reach an engine that did not ask.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Final, TypeVar

from crdtmem.batch import SpaceName, decode_batch
from crdtmem.crdt import NESTED, SHAPES
from crdtmem.effects import Alarm, Effect, FindEvidence, Rederive, Retire
from crdtmem.engine import Engine
from crdtmem.errors import CrdtmemError, ReplicaHalted, StoreError
from crdtmem.install import Assembler
from crdtmem.recovery import open_engine, rederive
from crdtmem.retirement import RETIRED, Retirement
from crdtmem.runtime import Runtime
from crdtmem.store import LogRecord, Store
from crdtmem.store.base import KIND_MARKER
from crdtmem.table import State
from crdtmem.wall import now_us

__all__ = ["Services"]

T = TypeVar("T")
_SLICE_RECORDS: Final = 500
_PAUSE_S: Final = 0.05
_PAUSE_MAXIMUM_S: Final = 5.0


class Services:
    """Carries out ``Retire``, ``Rederive`` and ``FindEvidence`` for one runtime.

    ``before_restart`` and ``after_restart`` are called around the change of engines:
    an owner of streams closes them, and opens them again.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.before_restart: list[Callable[[], None]] = []
        self.after_restart: list[Callable[[], None]] = []
        runtime.handlers.update(
            {
                Retire: lambda effect: runtime.spawn(self._retire(effect)),
                Rederive: lambda effect: runtime.spawn(self._rederive(effect)),
                FindEvidence: lambda effect: runtime.spawn(self._find_evidence(effect)),
            }
        )

    # ------------------------------------------------------------------ retiring

    async def _retire(self, effect: Retire) -> None:
        """Give this replica's id up, and go on under a new one."""
        runtime = self._runtime
        async with runtime.quiet():
            old = runtime.engine
            if old.replica.halted is None:
                return
            retirement = Retirement(effect.reason, effect.cuts, old.replica.state.vector)
            await self._insist(partial(_note_verdict, runtime.store, retirement))
            for prepare in self.before_restart:
                prepare()
            new = await self._insist(partial(_open_again, runtime.store, old))
            self._replace(old, new)
            for resume in self.after_restart:
                resume()
            # Staged when the runtime is no longer held.
            runtime.apply(new.start(now_us()))

    def _replace(self, old: Engine, new: Engine) -> None:
        """Let a new engine take over; nothing else happens meanwhile."""
        runtime = self._runtime
        error = ReplicaHalted(
            f"this replica goes on under a new id: {old.replica.halted}",
            hint="ask again; 'crdtmem rescue list' shows what was set aside",
        )
        runtime.apply(old.refuse_everyone(error))
        for subscription in runtime.subscriptions:
            subscription.close()
        runtime.subscriptions.clear()
        _keep_dictionaries(old.replica.state, new.replica.state)
        runtime.engine = new
        runtime.broken = None

    async def _insist(self, work: Callable[[], T]) -> T:
        """Do work on the store's thread, again and again while the store fails."""
        runtime = self._runtime
        pause_s = _PAUSE_S
        while True:
            try:
                return await runtime.in_store(work)
            except StoreError as error:
                if runtime.broken is None:
                    runtime.alarm(Alarm("store", str(error), {"code": error.code}))
                runtime.broken = error
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _PAUSE_MAXIMUM_S)

    # ------------------------------------------------------------------ repair

    def _answer(self, engine: Engine, effects: Callable[[int], list[Effect]]) -> None:
        """Give an engine its answer, if it is still the one that runs."""
        if engine is self._runtime.engine and not self._runtime.closed:
            self._runtime.attempt(lambda: effects(now_us()))

    async def _rederive(self, effect: Rederive) -> None:
        runtime = self._runtime
        async with runtime.quiet():
            engine = runtime.engine
            live = engine.replica.state
            sound = False
            try:
                again = await runtime.in_store(partial(rederive, runtime.store))
            except CrdtmemError as error:
                runtime.alarm(
                    Alarm("rederive", f"the state cannot be derived: {error}", {"code": error.code})
                )
            else:
                if again.vector != live.vector:
                    words = "the store leads to another version vector than the one in memory"
                    runtime.alarm(Alarm("rederive", words, {}))
                else:
                    sound = _digests(again) == _digests(live)
                    if not sound:
                        _take_over(live, again)
        request = effect.request
        self._answer(engine, lambda now: engine.sync.rederived(request, sound, now))

    async def _find_evidence(self, effect: FindEvidence) -> None:
        runtime, engine = self._runtime, self._runtime.engine
        search = _Search(effect.dots)
        try:
            while search.wanted and not search.ended:
                await runtime.in_store(partial(search.step, runtime.store))
        except CrdtmemError as error:
            words = f"the search of the log ended early: {error}"
            runtime.alarm(Alarm("evidence", words, {"code": error.code}))
        request = effect.request
        self._answer(engine, lambda now: engine.sync.evidence_found(request, search.found, now))


class _Search:
    """Looks for stored batches that supersede some dots, a slice of the log at a time."""

    def __init__(self, dots: frozenset[int]) -> None:
        self.wanted = set(dots)
        self.found: list[bytes] = []
        self.ended = False
        self._after = 0
        self._assembler = Assembler(SHAPES, NESTED)

    def step(self, store: Store) -> None:
        """Look at the next records. Raises ``StoreError``s and ``MalformedFrame``."""
        records = list(islice(store.replay(after_ordinal=self._after), _SLICE_RECORDS))
        self.ended = len(records) < _SLICE_RECORDS
        for record in records:
            self._after = record.ordinal
            for data in self._batches(record):
                self._look_at(data)

    def _batches(self, record: LogRecord) -> list[bytes]:
        if record.kind != KIND_MARKER:
            return [record.data]
        installation = self._assembler.feed(record.data)
        return [] if installation is None else [batch.data for batch in installation.batches]

    def _look_at(self, data: bytes) -> None:
        gone = {
            dot
            for segment in decode_batch(data, known_fields=NESTED).segments
            if segment.superseded is not None
            for delta in segment.deltas()
            for dot in delta[4]
        }
        if self.wanted & gone:
            self.wanted -= gone
            self.found.append(data)


def _note_verdict(store: Store, retirement: Retirement) -> None:
    """Make the verdict durable, in a transaction of its own."""
    if store.broken is not None:
        store.reopen()
    store.put_metadata({RETIRED: retirement.encode()})
    store.sync()


def _open_again(store: Store, old: Engine) -> Engine:
    store.reopen()
    return open_engine(
        store,
        region=old.identity.region,
        node=old.node,
        limits=old.limits,
        sync=old.sync.config,
    )


def _digests(state: State) -> dict[SpaceName, tuple[int, int]]:
    """Return the digest of every space that is not empty."""
    values = {space: digest.value() for space, digest in state.digests.items()}
    return {space: value for space, value in values.items() if value != (0, 0)}


def _keep_dictionaries(old: State, new: State) -> None:
    """Fill the old state's dictionaries with the new content: quick readers hold on to them."""
    for (space, datatype), table in old.tables.items():
        fresh = new.table(space, datatype)
        held, content = table.slots, fresh.slots
        held.clear()
        held.update(content)
        fresh.slots = held


def _take_over(live: State, again: State) -> None:
    """Replace the content of a state by another's, in place."""
    for space, datatype in again.tables:
        live.table(space, datatype)
    for key, table in live.tables.items():
        other = again.find(*key)
        table.slots.clear()
        table.contested = {}
        if other is not None:
            table.slots.update(other.slots)
            table.contested = other.contested
    live.digests = again.digests
