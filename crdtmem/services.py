"""Services: the rare effects that take the whole store, or the whole engine, in hand.

Problem: an id that was given up must never be used again, though the process may
die at any moment; the people whom this node serves should not have to restart it
by hand; and repair must be able to read the whole log without stopping commits.

Idea: ``Retire`` is carried out in place. No flight is out; the verdict is written
and fsynced; the streams to peers are closed; the store is opened again, exactly as
after a crash, which sets aside what lies beyond the cuts and draws a new id (see
``retirement``); a new engine takes the old one's place. Readers are served from the
old state until then. Whatever waits in the old engine is refused, and
subscriptions end; change feeds begin others, where all that they told still stands (see
``feeds``).

``Rederive`` compares the published state with what the store leads to, and takes
the store's word. ``FindEvidence`` walks the log in slices, between commits.

Invariants: nothing is written between the verdict and the new id; a retirement that
fails is tried again, with a growing pause, until the store obeys or the node stops,
and the next start does the same; answers never reach an engine that did not ask.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import islice
from typing import Final, TypeVar

from crdtmem.batch import SpaceName, decode_batch
from crdtmem.crdt import NESTED, SHAPES
from crdtmem.effects import Alarm, Effect, FindEvidence, Rederive, Retire
from crdtmem.engine import Engine
from crdtmem.errors import CrdtmemError, ReplicaHalted, StoreError
from crdtmem.executor import Executor
from crdtmem.install import Assembler
from crdtmem.procedures import InStore, Pause, Procedure, Quiet
from crdtmem.recovery import open_engine, rederive
from crdtmem.retirement import LOST, RETIRED, Retirement, add_lost
from crdtmem.store import LogRecord, Store
from crdtmem.store.base import KIND_MARKER
from crdtmem.table import State

__all__ = ["Services"]

T = TypeVar("T")
_SLICE_RECORDS: Final = 500
_PAUSE_US: Final = 50_000
_PAUSE_MAXIMUM_US: Final = 5_000_000


class Services:
    """Carries out ``Retire``, ``Rederive`` and ``FindEvidence`` for one executor.

    ``before_restart`` and ``after_restart`` are called around the change of engines:
    an owner of streams closes them, and opens them again.
    """

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.before_restart: list[Callable[[], None]] = []
        self.after_restart: list[Callable[[], None]] = []
        executor.handlers.update(
            {
                Retire: lambda effect: executor.start(self._retire(effect)),
                Rederive: lambda effect: executor.start(self._rederive(effect)),
                FindEvidence: lambda effect: executor.start(self._find_evidence(effect)),
            }
        )

    # ------------------------------------------------------------------ retiring

    def _retire(self, effect: Retire) -> Procedure[None]:
        """Give this replica's id up, and go on under a new one."""
        executor = self._executor
        hold = yield Quiet()
        try:
            old = executor.engine
            if old.replica.halted is None:
                return
            retirement = Retirement(effect.reason, effect.cuts, old.replica.state.vector)
            note = partial(_note_verdict, executor.store, retirement, old.tips)
            yield from self._insist(note)
            for prepare in self.before_restart:
                prepare()
            new = yield from self._insist(
                partial(_open_again, executor.store, old, executor.draw_id)
            )
            self._replace(old, new)
            for resume in self.after_restart:
                resume()
            # Staged when the executor is no longer held.
            executor.apply(new.start(executor.now_us()))
        finally:
            executor.release(hold)

    def _replace(self, old: Engine, new: Engine) -> None:
        """Let a new engine take over; nothing else happens meanwhile."""
        executor = self._executor
        error = ReplicaHalted(
            f"this replica goes on under a new id: {old.replica.halted}",
            hint="ask again; 'crdtmem rescue list' shows what was set aside",
        )
        executor.apply(old.refuse_everyone(error))
        for subscription in executor.subscriptions:
            subscription.close()
        executor.subscriptions.clear()
        _keep_tables(old.replica.state, new.replica.state)
        executor.engine = new
        executor.broken = None

    def _insist(self, work: Callable[[], T]) -> Procedure[T]:
        """Do work with the store, again and again while the store fails."""
        executor = self._executor
        pause_us = _PAUSE_US
        while True:
            try:
                done: T = yield InStore(work)
                return done
            except StoreError as error:
                if executor.broken is None:
                    executor.alarm(Alarm("store", str(error), {"code": error.code}))
                executor.broken = error
            yield Pause(pause_us)
            pause_us = min(2 * pause_us, _PAUSE_MAXIMUM_US)

    # ------------------------------------------------------------------ repair

    def _answer(self, engine: Engine, effects: Callable[[int], list[Effect]]) -> None:
        """Give an engine its answer, if it is still the one that runs."""
        executor = self._executor
        if engine is executor.engine and not executor.closed:
            executor.attempt(lambda: effects(executor.now_us()))

    def _rederive(self, effect: Rederive) -> Procedure[None]:
        executor = self._executor
        hold = yield Quiet()
        try:
            engine = executor.engine
            sound = False
            try:
                again = yield InStore(partial(rederive, executor.store))
            except CrdtmemError as error:
                words = f"the state cannot be derived: {error}"
                executor.alarm(Alarm("rederive", words, {"code": error.code}))
            else:
                sound = self._compare(engine.replica.state, again)
        finally:
            executor.release(hold)
        request = effect.request
        self._answer(engine, lambda now: engine.sync.rederived(request, sound, now))

    def _compare(self, live: State, again: State) -> bool:
        """Tell whether a state is what the store leads to, and make it so where it can be."""
        if again.vector != live.vector:
            words = "the store leads to another version vector than the one in memory"
            self._executor.alarm(Alarm("rederive", words, {}))
            return False
        if _digests(again) == _digests(live):
            return True
        _take_over(live, again)
        return False

    def _find_evidence(self, effect: FindEvidence) -> Procedure[None]:
        executor = self._executor
        engine = executor.engine
        search = _Search(effect.dots)
        try:
            while search.wanted and not search.ended:
                yield InStore(partial(search.step, executor.store))
        except CrdtmemError as error:
            words = f"the search of the log ended early: {error}"
            executor.alarm(Alarm("evidence", words, {"code": error.code}))
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


def _note_verdict(
    store: Store, retirement: Retirement, tips: Mapping[int, tuple[int, bytes]]
) -> None:
    """Make the verdict durable, in a transaction of its own, with where the histories ended."""
    if store.broken is not None:
        store.reopen()
    lost = add_lost(store.metadata().get(LOST), retirement.cuts, tips)
    store.put_metadata({RETIRED: retirement.encode(), LOST: lost})
    store.sync()


def _open_again(store: Store, old: Engine, draw_id: Callable[[], int]) -> Engine:
    store.reopen()
    return open_engine(
        store,
        region=old.identity.region,
        node=old.node,
        limits=old.limits,
        sync=old.sync.config,
        draw_id=draw_id,
    )


def _digests(state: State) -> dict[SpaceName, tuple[int, int]]:
    """Return the digest of every space that is not empty."""
    values = {space: digest.value() for space, digest in state.digests.items()}
    return {space: value for space, value in values.items() if value != (0, 0)}


def _keep_tables(old: State, new: State) -> None:
    """Let the old state's tables hold the new content: quick readers hold on to them."""
    for place, table in old.tables.items():
        fresh = new.table(*place)
        table.slots, table.contested = fresh.slots, fresh.contested
        new.tables[place] = table


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
