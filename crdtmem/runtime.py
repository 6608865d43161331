"""The runtime: the executor on asyncio, with a thread for the store.

Problem: the store blocks; yet reads and new work must go on while a commit is out.

Idea: one worker thread owns the store. A flight is handed to it; when the commit is
durable the loop is told, and the engine publishes and answers. Inputs of one turn of
the event loop are gathered before the next flight is staged. What is done in which
order, and what happens when it fails, is the executor's; this module only plays the
world for it.

Invariants: the engine is touched on the loop only, the store on its thread only; a
future handed out as a ticket is answered in any case, also when the machine breaks.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar
from weakref import ref

from crdtmem.batch import Batch
from crdtmem.effects import Alarm, Reply
from crdtmem.engine import Engine
from crdtmem.errors import Closed
from crdtmem.executor import Done, Executor, Timer, answer
from crdtmem.flight import Flight
from crdtmem.procedures import Procedure
from crdtmem.recovery import draw_replica_id
from crdtmem.store import Store
from crdtmem.wall import elapsed_us, now_us

__all__ = ["Runtime", "Subscription", "tune_garbage_collector"]

T = TypeVar("T")
_log = logging.getLogger("crdtmem")
_FREEZE_EVERY_DELTAS: Final = 100_000
_TICKETS_KEPT: Final = 1_000
_FREEZE_IDLE_DELTAS: Final = 10_000
_IDLE_S: Final = 0.05
"""So long after the last flight a runtime is idle."""


def tune_garbage_collector() -> None:
    """Keep the collector from walking the whole state: a full pass costs hundreds of ms.

    The state holds no reference cycles, so passes over it find nothing. What is
    alive is moved out of the collector's sight, and the oldest generation is
    collected rarely. Affects the whole process, hence the runtime does it only
    when its owner allows it.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 1_000)


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


class Runtime(Executor):
    """Runs one engine on the current event loop."""

    def __init__(self, engine: Engine, store: Store, *, tune_gc: bool = True) -> None:
        super().__init__(engine, store)
        # Weakly held, so that one whose command was refused at once is forgotten by itself.
        self._tickets: list[ref[asyncio.Future[Any]]] = []
        self._tickets_kept = _TICKETS_KEPT
        self._tune_gc = tune_gc
        self._deltas_since_freeze = 0
        self._landed_at_s = 0.0
        self._idling: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="crdtmem-store")
        # Set unless a flight is out of which the store has not said what became of it.
        self._landed = asyncio.Event()
        self._landed.set()
        self._aside = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        if tune_gc:
            tune_garbage_collector()

    # ------------------------------------------------------------------ the world

    def wall_us(self) -> int:
        """Return the wall-clock time, in microseconds."""
        return now_us()

    def elapsed_us(self) -> int:
        """Return the time since some moment, in microseconds."""
        return elapsed_us()

    def draw_id(self) -> int:
        """Return a replica id that nobody has, drawn at random."""
        return draw_replica_id()

    def after(self, delay_us: int, work: Callable[[], None]) -> Timer:
        """Let something be called later; with no delay, in the next turn of the loop."""
        if delay_us <= 0:
            return self._loop.call_soon(work)
        return self._loop.call_later(delay_us / 1e6, work)

    def run_in_store(self, work: Callable[[], Any], done: Done) -> None:
        """Do blocking work on the store's own thread; ``done`` is called on the loop."""
        self._thread.submit(work).add_done_callback(
            lambda future: self._loop.call_soon_threadsafe(_tell, future, done)
        )

    def log(self, alarm: Alarm, fault: BaseException | None = None) -> None:
        """Write an alarm to the log."""
        if fault is None:
            _log.warning("%s: %s", alarm.name, alarm.message)
        else:
            _log.critical("%s: %s", alarm.name, alarm.message, exc_info=fault)

    def note_landed(self, flight: Flight) -> None:
        """Keep the collector from walking what the flight is about to add to the state."""
        self._landed.set()
        self._landed_at_s = self._loop.time()
        self._deltas_since_freeze += flight.weight
        if self._tune_gc and self._deltas_since_freeze > _FREEZE_EVERY_DELTAS:
            self._deltas_since_freeze = 0
            gc.freeze()
        if self._idling is None and not self.closed:
            self._idling = self._loop.call_later(_IDLE_S, self._tidy)

    def _tidy(self) -> None:
        """Do, while nothing is written, what would otherwise be done while something is."""
        self._idling = None
        if self.closed or self.broken is not None or self.defect is not None:
            return
        busy = not self._landed.is_set()
        pause_s = self._landed_at_s + _IDLE_S - self._loop.time()
        if busy or pause_s > 0:
            self._idling = self._loop.call_later(_IDLE_S if busy else pause_s, self._tidy)
            return
        if self._tune_gc and self._deltas_since_freeze > _FREEZE_IDLE_DELTAS:
            self._deltas_since_freeze = 0
            # What is garbage is collected first: what is frozen stays for good.
            gc.collect(0)
            gc.freeze()
        self.run_in_store(self.store.tidy, self._tidied)

    def _tidied(self, _: Any, error: BaseException | None) -> None:
        if error is not None and not self.closed:
            self.alarm(Alarm("store", f"tidying the store failed: {error!r:.500}", {}))

    def _persist(self, flight: Flight) -> None:
        super()._persist(flight)
        self._landed.clear()

    # ------------------------------------------------------------------ for coroutines

    def in_store(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Run blocking work on the store's own thread."""
        return self._loop.run_in_executor(self._thread, work)

    @asynccontextmanager
    async def aside(self) -> AsyncIterator[None]:
        """Do a piece of work that can wait: one at a time, and after the flight that is out.

        However many ask, a commit then waits for one piece at most, be it on the loop or on
        the store's thread; and each of them still gets its turn, one per commit.
        """
        async with self._aside:
            await asyncio.sleep(0)
            await self._landed.wait()
            yield

    @asynccontextmanager
    async def quiet(self) -> AsyncIterator[None]:
        """Hold back new flights, and wait until none is out: log and state then agree.

        One caller at a time; not to be entered again by the one who is inside.
        """
        granted = asyncio.Event()
        hold = self.hold(lambda _: granted.set())
        try:
            await granted.wait()
            if self.defect is not None:
                raise self.defect
            yield
        finally:
            self.release(hold)

    async def perform(self, procedure: Procedure[T]) -> T:
        """Carry a procedure out, and return or raise what comes of it."""
        outcome: asyncio.Future[T] = self._loop.create_future()

        def done(value: T, error: BaseException | None) -> None:
            if outcome.done():
                return
            if error is not None:
                outcome.set_exception(error)
            else:
                outcome.set_result(value)

        self.start(procedure, done)
        try:
            return await outcome
        finally:
            self.give_up(procedure)

    def ticket(self) -> asyncio.Future[Any]:
        """Return a future that is answered in any case, also when the machine breaks."""
        ticket: asyncio.Future[Any] = self._loop.create_future()
        self._tickets.append(ref(ticket))
        if len(self._tickets) > self._tickets_kept:
            # Those that were answered are let go now and then, not one by one.
            self._tickets = [ref(waiting) for waiting in self._unanswered()]
            self._tickets_kept = _TICKETS_KEPT + 2 * len(self._tickets)
        return ticket

    def _unanswered(self) -> list[asyncio.Future[Any]]:
        """Return the tickets that somebody still waits for."""
        held = (held() for held in self._tickets)
        return [ticket for ticket in held if ticket is not None and not ticket.done()]

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

    # ------------------------------------------------------------------ life

    def stop_for(self, fault: BaseException) -> None:
        """Stop for good, answering also the tickets that the machine no longer knows of."""
        if self.defect is not None:
            return
        super().stop_for(fault)
        for ticket in self._unanswered():
            answer(Reply(ticket, error=self.defect))
        for task in list(self._tasks):
            task.cancel()

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
        await self._landed.wait()
        for timer in (self._timer, self._idling):
            if timer is not None:
                timer.cancel()
        self.give_up_procedures(error)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        stranded = self.engine.replica.flight
        if stranded is not None and self.defect is None:
            self.apply(self.engine.persist_failed(stranded, self.broken or error))
        for subscription in self.subscriptions:
            subscription.close()
        await self.in_store(self.store.close)
        self._thread.shutdown()


def _tell(future: Future[Any], done: Done) -> None:
    error = future.exception()
    done(None if error is not None else future.result(), error)
