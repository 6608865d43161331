"""The runtime: carries out the engine's effects on asyncio, a store and streams.

Problem: the order of effects is the durability contract, and the store blocks;
yet reads and new work must go on while a commit is out.

Idea: one worker thread owns the store. ``Persist`` hands the flight to it; when
the commit is durable the loop tells the engine, which publishes and answers.
Everything that arrives meanwhile queues in the engine and becomes the next
flight: the slower the disk, the larger the group. Inputs of one turn of the
event loop are gathered before the next flight is staged.

Invariants: effects are carried out in list order; a commit that failed is read
back from the reopened store before the engine goes on, so an ambiguous commit
counts as durable exactly when it is; while the store is broken, writes are
refused with its error, reads are served, and reopening is tried again with a
growing pause. An exception from within the machine stops it for good: what a
defect has left half changed is neither served nor written on.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar
from weakref import WeakSet

from crdtmem.batch import Batch
from crdtmem.effects import Alarm, Effect, Notify, Persist, Reply, SetTimer
from crdtmem.engine import Engine
from crdtmem.errors import Closed, CrdtmemError, Defect, StoreError
from crdtmem.flight import Flight
from crdtmem.store import BatchRecord, Store
from crdtmem.wall import now_us

if TYPE_CHECKING:
    from crdtmem.checkpointing import Checkpointer

__all__ = ["Runtime", "Subscription", "tune_garbage_collector"]

T = TypeVar("T")
_log = logging.getLogger("crdtmem")
_ALARMS_KEPT: Final = 1_000
_REOPEN_MAXIMUM_S: Final = 5.0
_FREEZE_EVERY_DELTAS: Final = 100_000


def tune_garbage_collector() -> None:
    """Keep the collector from walking the whole state: a full pass costs hundreds of ms.

    The state holds no reference cycles, so passes over it find nothing. What is
    alive is moved out of the collector's sight, and the oldest generation is
    collected rarely. Affects the whole process, hence the runtime does it only
    when its owner allows it.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 1_000)


class Subscription:
    """A bounded queue of published batches, for one consumer.

    At the bound the oldest are dropped and ``missed`` counts their deltas: the
    consumer must then read the state again, or replay from its last context.
    """

    def __init__(self, limit_batches: int = 10_000) -> None:
        self._queue: deque[Batch] = deque()
        self._limit = limit_batches
        self._event = asyncio.Event()
        self._closed = False
        self.missed = 0

    def close(self) -> None:
        """End it: ``next`` raises ``Closed`` once what is queued has been taken."""
        self._closed = True
        self._event.set()

    def push(self, batches: Iterable[Batch]) -> None:
        """Add published batches."""
        for batch in batches:
            if len(self._queue) >= self._limit:
                self.missed += self._queue.popleft().header.count
            self._queue.append(batch)
        self._event.set()

    async def next(self) -> Batch:
        """Return the next published batch, waiting for it."""
        while not self._queue:
            if self._closed:
                raise Closed("this subscription has ended", hint="open another")
            self._event.clear()
            await self._event.wait()
        return self._queue.popleft()

    def pending(self) -> list[Batch]:
        """Take everything that is queued now."""
        batches = list(self._queue)
        self._queue.clear()
        return batches


class Runtime:
    """Runs one engine on the current event loop."""

    def __init__(self, engine: Engine, store: Store, *, tune_gc: bool = True) -> None:
        self.engine = engine
        self.store = store
        self.alarms: deque[Alarm] = deque(maxlen=_ALARMS_KEPT)
        self.broken: StoreError | None = None
        self.closed = False
        # Set once, by the first exception from within the machine; see ``stop_for``.
        self.defect: Defect | None = None
        self.on_defect: list[Callable[[], None]] = []
        self._tickets: WeakSet[asyncio.Future[Any]] = WeakSet()
        self.subscriptions: list[Subscription] = []
        self.handlers: dict[type, Callable[[Any], None]] = {}
        self._tune_gc = tune_gc
        self._deltas_since_freeze = 0
        self._loop = asyncio.get_running_loop()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="crdtmem-store")
        # How long a commit waits for others to share its fsync with.
        self.linger_s = 0.0
        self._advancing = False
        self._timer: asyncio.TimerHandle | None = None
        self._held = 0
        # One at a time: who holds it may change the engine itself.
        self._quiet = asyncio.Lock()
        self.checkpointer: Checkpointer | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        # Like idle, but also set while a flight that failed waits for the store to be mended.
        self._settled = asyncio.Event()
        self._settled.set()
        self._tasks: set[asyncio.Task[None]] = set()
        if tune_gc:
            tune_garbage_collector()

    # ------------------------------------------------------------------ effects

    def apply(self, effects: Iterable[Effect]) -> None:
        """Carry out effects in order, then let the engine advance soon."""
        if self.defect is not None:
            return
        try:
            for effect in effects:
                kind = type(effect)
                if kind is Reply:
                    _answer(effect)  # type: ignore[arg-type]
                elif kind is Notify:
                    for subscription in self.subscriptions:
                        subscription.push(effect.batches)  # type: ignore[union-attr]
                elif kind is Persist:
                    self._persist(effect.flight)  # type: ignore[union-attr]
                elif kind is SetTimer:
                    pass  # Deadlines are asked for after every turn: see _arm.
                elif kind is Alarm:
                    self.alarm(effect)  # type: ignore[arg-type]
                else:
                    self.handlers[kind](effect)
        except Exception as fault:  # noqa: BLE001 - whatever it is, nothing goes on after it
            self.stop_for(fault)
            return
        if not self._advancing:
            self._advancing = True
            if self.linger_s:
                self._loop.call_later(self.linger_s, self._advance)
            else:
                self._loop.call_soon(self._advance)

    def alarm(self, alarm: Alarm) -> None:
        """Keep an alarm for operators, and log it."""
        self.alarms.append(alarm)
        _log.warning("%s: %s", alarm.name, alarm.message)

    def attempt(self, step: Callable[[], Iterable[Effect]]) -> None:
        """Let the engine take a step that may not fail, and carry out what it asks for."""
        if self.defect is not None:
            return
        try:
            effects = step()
        except Exception as fault:  # noqa: BLE001 - whatever it is, nothing goes on after it
            self.stop_for(fault)
        else:
            self.apply(effects)

    def stop_for(self, fault: BaseException) -> None:
        """Stop for good: the machine broke, and may be anywhere between two states.

        Everyone who waits is told, nothing is written any more, and ``on_defect`` is
        called. What was acknowledged is in the store, from which to start again.
        """
        if self.defect is not None:
            return
        defect = Defect(
            f"a defect of this program: {fault!r:.500}",
            hint="it has stopped; start it again, and please report what its log says",
        )
        self.defect = defect
        _log.critical("stopping for good: the machine failed", exc_info=fault)
        self.alarm(Alarm("defect", str(defect), {"code": defect.code}))
        try:
            engine, flight = self.engine, self.engine.replica.flight
            staged = [] if flight is None else engine.persist_failed(flight, defect)
            for reply in (*engine.refuse_everyone(defect), *staged):
                if type(reply) is Reply:
                    _answer(reply)
        except Exception:  # noqa: BLE001 - see below
            # A broken machine may not even know whom it owes an answer; tickets are kept below.
            _log.exception("not everyone could be told by the machine itself")
        for ticket in list(self._tickets):
            _answer(Reply(ticket, error=defect))
        for subscription in self.subscriptions:
            subscription.close()
        self._idle.set()
        for task in list(self._tasks):
            task.cancel()
        for tell in self.on_defect:
            tell()

    def ticket(self) -> asyncio.Future[Any]:
        """Return a future that is answered in any case, also when the machine breaks."""
        ticket: asyncio.Future[Any] = self._loop.create_future()
        self._tickets.add(ticket)
        return ticket

    def _advance(self) -> None:
        self._advancing = False
        if self.closed or self.defect is not None:
            return
        try:
            if self.broken is None and not self._held:
                effects = self.engine.advance(now_us())
                if effects:
                    self.apply(effects)
            self._arm()
        except Exception as fault:  # noqa: BLE001 - whatever it is, nothing goes on after it
            self.stop_for(fault)

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.closed or self.defect is not None:
            return
        deadline_us = self.engine.next_deadline_us()
        if deadline_us is not None:
            delay_s = max(0.0, (deadline_us - now_us()) / 1e6)
            self._timer = self._loop.call_later(delay_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.attempt(lambda: self.engine.handle_timeout(now_us()))

    # ------------------------------------------------------------------ the store

    def in_store(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Run blocking work on the store's own thread."""
        return self._loop.run_in_executor(self._executor, work)

    @asynccontextmanager
    async def quiet(self) -> AsyncIterator[None]:
        """Hold back new flights, and wait until none is out: log and state then agree.

        One caller at a time; not to be entered again by the one who is inside.
        """
        async with self._quiet:
            self._held += 1
            try:
                await self._idle.wait()
                if self.defect is not None:
                    raise self.defect
                yield
            finally:
                self._held -= 1
                self.apply([])

    def _persist(self, flight: Flight) -> None:
        arrived_at_us = now_us()
        future = self._executor.submit(_write, self.store, flight, arrived_at_us)
        self._idle.clear()
        self._settled.clear()
        future.add_done_callback(
            lambda done: self._loop.call_soon_threadsafe(self._written, flight, done.exception())
        )

    def _written(self, flight: Flight, error: BaseException | None) -> None:
        self._settled.set()
        if self.defect is not None:
            return
        if error is None:
            self._deltas_since_freeze += flight.weight
            if self._tune_gc and self._deltas_since_freeze > _FREEZE_EVERY_DELTAS:
                self._deltas_since_freeze = 0
                gc.freeze()
            self.attempt(lambda: self.engine.persisted(flight, now_us()))
            # Idle only now, when what the log holds has been published too.
            self._idle.set()
            if self.checkpointer is not None:
                self.checkpointer.note_written(sum(len(batch.data) for batch in flight.batches))
            return
        if not isinstance(error, StoreError):
            error = StoreError(f"the store failed unexpectedly: {error!r}")
        self.broken = error
        self.alarm(Alarm("store", str(error), {"code": error.code}))
        self.spawn(self._mend(flight, error))

    async def _mend(self, flight: Flight, error: StoreError) -> None:
        """Reopen the store, read back whether the flight survived, and go on accordingly."""
        pause_s = 0.05
        refused = False
        while not self.closed:
            try:
                await self.in_store(self.store.reopen)
                heads = await self.in_store(self.store.heads)
                break
            except CrdtmemError as again:
                if not refused:
                    refused = True
                    self.apply(self.engine.refuse_queued(error))
                self.broken = again if isinstance(again, StoreError) else error
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _REOPEN_MAXIMUM_S)
        else:
            return
        self.broken = None
        survived = all(
            heads.get(batch.header.replica, 0) >= batch.header.last for batch in flight.batches
        )
        self.alarm(Alarm("store mended", "the store accepts writes again", {"kept": survived}))
        if survived and flight.batches:
            self.attempt(lambda: self.engine.persisted(flight, now_us()))
        else:
            self.attempt(lambda: self.engine.persist_failed(flight, error))
        self._idle.set()
        if not self.store.boot.continuous:
            # Part of what was acknowledged is gone: nobody may write on under this id.
            own = self.engine.identity.replica
            reason = f"the store lost what it had acknowledged: {self.store.boot.reason}"
            self.apply(self.engine.membership.retire(reason, {own: heads.get(own, 0)}))

    # ------------------------------------------------------------------ life

    def spawn(self, work: Any) -> None:
        """Run a coroutine in the background, kept until it ends."""
        task: asyncio.Task[None] = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        fault = None if task.cancelled() else task.exception()
        if fault is None:
            return
        if self.closed:
            _log.error("a background task failed", exc_info=fault)
        else:
            self.stop_for(fault)

    def check_open(self) -> None:
        """Raise ``Closed`` after ``close``, ``Defect``, or the store's error while it is broken."""
        self.check_alive()
        if self.broken is not None:
            raise self.broken

    def check_alive(self) -> None:
        """Raise ``Closed`` after ``close``, and ``Defect`` after the machine broke."""
        if self.defect is not None:
            raise self.defect
        if self.closed:
            raise Closed("this memory is closed", hint="open it again")

    async def close(self) -> None:
        """Let the flight that is out land, refuse what is queued, close the store.

        A flight that the store failed is answered with that failure: whether it
        survived is found out at the next open.
        """
        if self.closed:
            return
        self.closed = True
        error = Closed("this memory was closed", hint="open it again")
        self.attempt(lambda: self.engine.refuse_everyone(error))
        await self._settled.wait()
        if self._timer is not None:
            self._timer.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        stranded = self.engine.replica.flight
        if stranded is not None and self.defect is None:
            self.apply(self.engine.persist_failed(stranded, self.broken or error))
        for subscription in self.subscriptions:
            subscription.close()
        await self.in_store(self.store.close)
        self._executor.shutdown()


def _answer(reply: Reply) -> None:
    ticket = reply.ticket
    if ticket is None or ticket.done():
        return
    if reply.error is not None:
        ticket.set_exception(reply.error)
    else:
        ticket.set_result(reply.result)


def _write(store: Store, flight: Flight, arrived_at_us: int) -> None:
    """Make a flight durable, on the store's thread."""
    if flight.batches:
        store.append(
            [
                BatchRecord(
                    batch.header.replica,
                    batch.header.first,
                    batch.header.last,
                    batch.hash,
                    batch.data,
                )
                for batch in flight.batches
            ],
            arrived_at_us=arrived_at_us,
        )
    for marker in flight.markers:
        store.append_marker(marker, arrived_at_us=arrived_at_us)
    if flight.metadata:
        store.put_metadata(flight.metadata)
    store.sync()
