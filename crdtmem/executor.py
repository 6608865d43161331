"""The executor: carries out an engine's effects, on whatever plays the world.

Problem: the order of effects is the durability contract, the store blocks, and what
happens when it fails is the subtlest code of all. A simulation that had its own
version of any of this would prove that version.

Idea: all of it is here, and the world is six verbs that a subclass supplies: what its
clocks show (``wall_us``, ``elapsed_us``), draw an id (``draw_id``), call me later
(``after``), do this with the store and tell me (``run_in_store``), and write this down
(``log``). ``runtime`` plays them with asyncio and a thread; the simulator with a heap of
events. One flight is out at a time; what arrives meanwhile queues in the engine and
becomes the next: the slower the disk, the larger the group. What takes several turns is
a *procedure*, a generator of steps, for which the executor waits.

Invariants: effects are carried out in list order; a commit that failed is read back
from the reopened store before the engine goes on, so an ambiguous commit counts as
durable exactly when it is; while the store is broken, writes are refused with its
error, reads are served, and it is tried again with a growing pause (``mending``); an
exception from within the machine stops it for good, and everyone who waits is told.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from inspect import GEN_RUNNING, getgeneratorstate
from typing import TYPE_CHECKING, Any, Final, Protocol

from crdtmem.batch import Batch
from crdtmem.clock import SteadyClock
from crdtmem.effects import Alarm, Effect, Notify, Persist, ReadLog, Reply, SetTimer
from crdtmem.engine import Engine
from crdtmem.errors import Closed, CrdtmemError, Defect, StoreError
from crdtmem.flight import Flight
from crdtmem.mending import Mender
from crdtmem.procedures import Hold, InStore, Pause, Procedure, Step
from crdtmem.store import BatchRecord, Store

if TYPE_CHECKING:
    from crdtmem.checkpointing import Checkpointer

__all__ = ["Executor", "Listener", "Timer", "answer", "write_flight"]

_ALARMS_KEPT: Final = 1_000

Done = Callable[[Any, BaseException | None], None]


class Timer(Protocol):
    """Something that will happen, unless it is cancelled."""

    def cancel(self) -> None:
        """Let it not happen."""


class Listener(Protocol):
    """Somebody who is told what was published."""

    def push(self, batches: Iterable[Batch]) -> None:
        """Take published batches, in order."""

    def close(self) -> None:
        """There will be no more."""


class Executor(ABC):
    """Runs one engine over one store. The methods without a body here are the world's."""

    def __init__(self, engine: Engine, store: Store) -> None:
        self.engine = engine
        self.store = store
        self.alarms: deque[Alarm] = deque(maxlen=_ALARMS_KEPT)
        self.broken: StoreError | None = None
        self.closed = False
        self.mender = Mender(self)
        # Set once, by the first exception from within the machine; see ``stop_for``.
        self.defect: Defect | None = None
        self.on_defect: list[Callable[[], None]] = []
        self.subscriptions: list[Any] = []
        self.handlers: dict[type, Callable[[Any], None]] = {ReadLog: self._read_log}
        self.checkpointer: Checkpointer | None = None
        # How long a commit waits for others to share its fsync with.
        self.linger_us = 0
        self._steady = SteadyClock()
        self._advancing = False
        self._timer: Timer | None = None
        self._armed_us = 0
        self._rushed = False
        self._flying = False
        self._holds: deque[Hold] = deque()
        self._holder: Hold | None = None
        self._procedures: dict[Any, Done | None] = {}

    # ------------------------------------------------------------------ the world

    @abstractmethod
    def wall_us(self) -> int:
        """Return the wall-clock time, in microseconds."""

    @abstractmethod
    def elapsed_us(self) -> int:
        """Return a time in microseconds that only ever rises, whatever it counts from."""

    @abstractmethod
    def draw_id(self) -> int:
        """Return a replica id that nobody has, drawn at random."""

    @abstractmethod
    def after(self, delay_us: int, work: Callable[[], None]) -> Timer:
        """Let something be called later; with no delay, soon, but never at once."""

    @abstractmethod
    def run_in_store(self, work: Callable[[], Any], done: Done) -> None:
        """Do blocking work with the store, one after another; then call ``done``, in a turn."""

    @abstractmethod
    def log(self, alarm: Alarm, fault: BaseException | None = None) -> None:
        """Write an alarm where operators look, with the fault behind it, if there is one."""

    def note_landed(self, flight: Flight) -> None:  # noqa: B027 - most worlds need not know
        """Take note that the store has said what became of a flight."""

    # ------------------------------------------------------------------ effects

    def now_us(self) -> int:
        """Return the engine's time: the wall clock's, but never going back. See ``clock``."""
        return self._steady.read(self.wall_us(), self.elapsed_us)

    def apply(self, effects: Iterable[Effect]) -> None:
        """Carry out effects in order, then let the engine advance soon, if it has to."""
        if self.defect is not None:
            return
        try:
            for effect in effects:
                self.carry_out(effect)
            if not self._advancing:
                if self.engine.idle:
                    self._arm()
                else:
                    self._advancing = True
                    self.after(self.linger_us, self._advance)
        except Exception as fault:  # noqa: BLE001 - whatever it is, nothing goes on after it
            self.stop_for(fault)

    def queued(self, effects: list[Effect]) -> None:
        """Do as ``apply`` does after something was queued to be written.

        While a flight is out there is nothing to do, if the engine asks for nothing: the
        flight's landing lets it advance.
        """
        if effects or not self._flying:
            self.apply(effects)

    def carry_out(self, effect: Effect) -> None:
        """Carry out one effect."""
        kind = type(effect)
        if kind is Reply:
            answer(effect)  # type: ignore[arg-type]
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

    def alarm(self, alarm: Alarm) -> None:
        """Keep an alarm for operators, and log it."""
        self.alarms.append(alarm)
        self.log(alarm)

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
        alarm = Alarm("defect", str(defect), {"code": defect.code})
        self.alarms.append(alarm)
        self.log(alarm, fault)
        self._tell_everyone(defect)
        for subscription in self.subscriptions:
            subscription.close()
        self.give_up_procedures(defect)
        # Whoever waits for a quiet moment finds out now that there is none to come.
        self._flying = False
        self._grant()
        for tell in self.on_defect:
            tell()

    def _tell_everyone(self, defect: Defect) -> None:
        """Answer whoever waits, as far as a broken machine still knows whom."""
        try:
            engine, flight = self.engine, self.engine.replica.flight
            staged = [] if flight is None else engine.persist_failed(flight, defect)
            for reply in (*engine.refuse_everyone(defect), *staged):
                if type(reply) is Reply:
                    answer(reply)
        except Exception as fault:  # noqa: BLE001 - the first fault is the one that counts
            self.log(Alarm("defect", "not everyone could be told", {}), fault)

    def _advance(self) -> None:
        self._advancing = False
        if self.closed or self.defect is not None:
            return
        try:
            if self.broken is None and self._holder is None and not self._holds:
                effects = self.engine.advance(self.now_us())
                if effects:
                    self.apply(effects)
            self._arm()
        except Exception as fault:  # noqa: BLE001 - whatever it is, nothing goes on after it
            self.stop_for(fault)

    def _arm(self) -> None:
        """Let the timer fire at the next deadline, or before: it then looks again.

        Deadlines are put off far more often than they are met, and a timer that is left
        alone costs nothing.
        """
        if self.closed or self.defect is not None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            return
        deadline_us = self.engine.next_deadline_us()
        if deadline_us is None:
            return
        now_us = self.now_us()
        if self._timer is not None:
            # What is overdue by the clock, which may have been set forward, is done now; but one
            # that fires at once is left alone: who is never idle would put it off for ever.
            if self._rushed or self._armed_us <= deadline_us > now_us:
                return
            self._timer.cancel()
        self._armed_us = deadline_us
        self._rushed = deadline_us <= now_us
        self._timer = self.after(max(1, deadline_us - now_us), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        now_us = self.now_us()
        self.attempt(lambda: self._due(now_us))

    def _due(self, now_us: int) -> list[Effect]:
        engine = self.engine
        deadline_us = engine.next_deadline_us()
        if deadline_us is None or now_us < deadline_us:
            return []
        return engine.handle_timeout(now_us)

    # ------------------------------------------------------------------ flights

    def _persist(self, flight: Flight) -> None:
        self._flying = True
        self.run_in_store(
            partial(write_flight, self.store, flight, self.now_us()),
            lambda _, error: self._written(flight, error),
        )

    def _written(self, flight: Flight, error: BaseException | None) -> None:
        self.note_landed(flight)
        if self.defect is not None:
            return
        if error is None:
            self.attempt(lambda: self.engine.persisted(flight, self.now_us()))
            if self.mender.trouble is not None:
                self.mender.succeeded()
            # Idle only now, when what the log holds has been published too.
            self.landed()
            if self.checkpointer is not None:
                self.checkpointer.note_written(sum(len(batch.data) for batch in flight.batches))
            return
        if not isinstance(error, StoreError):
            error = StoreError(f"the store failed unexpectedly: {error!r}")
        self.broken = error
        self.start(self._mend(flight, error))

    def _mend(self, flight: Flight, error: StoreError) -> Procedure[None]:
        """Bring the store back after a commit that failed: see ``mending``."""
        return self.mender.mend(flight, error)

    def landed(self) -> None:
        """Note that it is settled what became of the flight, and that log and state agree."""
        self._flying = False
        self._grant()

    def _read_log(self, effect: ReadLog) -> None:
        read = partial(
            self.store.read,
            effect.replica,
            effect.first,
            limit_bytes=effect.limit_bytes,
            through_sequence=effect.last,
        )
        self.run_in_store(read, partial(self._log_read, self.engine, effect.request))

    def _log_read(
        self, engine: Engine, request: Any, result: Any, error: BaseException | None
    ) -> None:
        if self.closed or engine is not self.engine:
            return
        if error is not None and not isinstance(error, CrdtmemError):
            words = f"reading the log failed unexpectedly: {error!r}"
            self.alarm(Alarm("store", words, {}))
            error = CrdtmemError(words, hint="see the node's log")
        found = result if error is None else error
        self.attempt(lambda: engine.log_read(request, found, self.now_us()))

    # ------------------------------------------------------------------ procedures

    def start(self, procedure: Procedure[Any], done: Done | None = None) -> None:
        """Carry a procedure out, and call ``done`` with what came of it.

        Without ``done``, an error that it does not handle is a defect.
        """
        self._procedures[procedure] = done
        self._resume(procedure, None, None)

    def give_up(self, procedure: Procedure[Any]) -> None:
        """End a procedure where it is; its ``finally`` blocks run, ``done`` is not called."""
        if procedure in self._procedures:
            del self._procedures[procedure]
            if getgeneratorstate(procedure) != GEN_RUNNING:
                procedure.close()

    def give_up_procedures(self, error: CrdtmemError) -> None:
        """End all procedures; who waits for one gets the error."""
        for procedure, done in list(self._procedures.items()):
            self.give_up(procedure)
            if done is not None:
                done(None, error)

    def _resume(self, procedure: Procedure[Any], outcome: Any, error: BaseException | None) -> None:
        if procedure not in self._procedures:
            return
        try:
            step = procedure.send(outcome) if error is None else procedure.throw(error)
        except StopIteration as stop:
            self._finish(procedure, stop.value, None)
        except Exception as fault:  # noqa: BLE001 - handed to whoever waits, else a defect
            self._finish(procedure, None, fault)
        else:
            if procedure in self._procedures:
                self._wait_for(procedure, step)
            else:
                # Given up by what it did itself.
                procedure.close()

    def _finish(self, procedure: Procedure[Any], value: Any, fault: BaseException | None) -> None:
        done = self._procedures.pop(procedure, None)
        if done is not None:
            done(value, fault)
        elif fault is not None:
            self.stop_for(fault)

    def _wait_for(self, procedure: Procedure[Any], step: Step) -> None:
        if type(step) is InStore:
            self.run_in_store(step.work, partial(self._resume, procedure))
        elif type(step) is Pause:
            self.after(step.delay_us, partial(self._resume, procedure, None, None))
        else:
            self.hold(partial(self._granted, procedure))

    def _granted(self, procedure: Procedure[Any], hold: Hold) -> None:
        if procedure in self._procedures:
            self._resume(procedure, hold, None)
        else:
            self.release(hold)

    # ------------------------------------------------------------------ quiet

    def hold(self, granted: Callable[[Hold], None]) -> Hold:
        """Hold back new flights; ``granted`` is called when none is out, one holder at a time."""
        hold = Hold(granted)
        self._holds.append(hold)
        self._grant()
        return hold

    def release(self, hold: Hold) -> None:
        """Let flights go again; also before the hold was granted. Harmless when repeated."""
        if self._holder is hold:
            self._holder = None
        elif hold in self._holds:
            self._holds.remove(hold)
        else:
            return
        self._grant()
        self.apply([])

    def _grant(self) -> None:
        if self._holder is None and self._holds and not self._flying:
            self._holder = hold = self._holds.popleft()
            hold.granted(hold)

    # ------------------------------------------------------------------ life

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


def answer(reply: Reply) -> None:
    """Give a ticket its answer, unless it has one, or nobody asked."""
    ticket = reply.ticket
    if ticket is None or ticket.done():
        return
    if reply.error is not None:
        ticket.set_exception(reply.error)
    else:
        ticket.set_result(reply.result)


def write_flight(store: Store, flight: Flight, arrived_at_us: int) -> None:
    """Make a flight durable: one transaction, one fsync. Raises ``StoreError``s."""
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
