"""Runs one machine of the mesh on asyncio: its clocks, its timer, its effects.

Problem: the protocol is a pure machine; somebody has to tell it the time and what arrives, wake
it when it asks for it, and carry out what it wants, in order. And an event loop that was busy
or a process that was stopped must not make others look dead.

Idea: one timer, set anew where the machine's next deadline came nearer. The machine sees by the
clock how late it was woken, which is how the lag of the loop is measured; but before a late
timer is told, what has arrived meanwhile is read: the answers that lie in the socket must not
be found missing. Effects that are not about the network go to the embedding program, by
callback at once and through a bounded queue.

Invariants: effects are carried out in list order; an exchange is reported back exactly once,
unless the driver was closed; a defect of the machine stops the driver and is kept in
``defect``, because a member that acts on a broken table is worse than one that is silent; after
``close`` nothing is told to the machine.

Source: memberlist's and foca's runtimes; "a late timer voids the probe" is Lifeguard's spirit.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final, Protocol

from gossip.effects import (
    Answer,
    Effect,
    Exchange,
    SendDatagram,
    Warn,
)
from gossip.errors import TransportError
from gossip.transport.base import Transport

__all__ = ["Driver", "Machine", "steady_us", "wall_us"]

_EVENTS: Final = 10_000
_LATE_US: Final = 10_000
_CATCH_UP_TURNS: Final = 64
_log = logging.getLogger("gossip.driver")


def steady_us() -> int:
    """Return elapsed microseconds, which only rise."""
    return time.monotonic_ns() // 1_000


def wall_us() -> int:
    """Return the wall clock in microseconds."""
    return time.time_ns() // 1_000


class Machine(Protocol):
    """What can be driven: a ``Mesh``, or one pool that opens its own packets."""

    def start(self, now_us: int, wall_us: int, seeds: Sequence[str]) -> list[Effect]:
        """Begin."""

    def receive_datagram(self, data: bytes, source: str, now_us: int, wall_us: int) -> list[Effect]:
        """Take a datagram."""

    def receive_stream(self, stream: Any, frame: bytes, now_us: int, wall_us: int) -> list[Effect]:
        """Take a stream's frame."""

    def exchanged(
        self, number: int, frame: bytes | None, now_us: int, wall_us: int, *, refused: bool = False
    ) -> list[Effect]:
        """Take how an exchange ended."""

    def handle_timeout(self, now_us: int, wall_us: int) -> list[Effect]:
        """Do what is due."""

    def next_deadline_us(self) -> int | None:
        """Return when something is due."""

    def leave(self, now_us: int, wall_us: int) -> list[Effect]:
        """Say farewell."""


class Driver:
    """One member's life on one event loop. Belongs to that loop's thread.

    ``open`` binds, so that the address can be written into the member's record; ``start``
    begins. ``on_effect`` is called with every effect that is not about the network; what it
    raises is a defect like the machine's own. It may give commands. ``events`` is how many of
    them wait for the reader of ``events()``; 0 where there is none.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        on_effect: Callable[[Effect], None] | None = None,
        events: int = _EVENTS,
        steady: Callable[[], int] = steady_us,
        wall: Callable[[], int] = wall_us,
    ) -> None:
        self.transport = transport
        self.counters: Counter[str] = Counter()
        self.address = ""
        self.defect: BaseException | None = None
        self.lag_us = 0
        """How late the last timer was."""
        self.lag_maximum_us = 0
        """How late any timer was."""
        self._on_effect = on_effect
        self._steady = steady
        self._wall = wall
        self._machine: Machine | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_us = 0
        self._arrived = 0
        self._catching_up = False
        self._due: deque[Effect] = deque()
        self._carrying = False
        self._exchanges: set[asyncio.Task[None]] = set()
        self._events: deque[Effect] = deque(maxlen=events)
        self._news = asyncio.Event()
        self._ended = asyncio.Event()
        self._closed = False

    # ------------------------------------------------------------------ life

    async def open(self, listen: str) -> str:
        """Listen at ``host:port`` (port 0: any); return the address. Raises ``TransportError``."""
        self.address = await self.transport.start(listen, self)
        return self.address

    def start(self, machine: Machine, seeds: Sequence[str] = ()) -> None:
        """Begin to run the machine."""
        assert self._machine is None, "a driver runs one machine, once"
        if not self.address:
            raise TransportError("the driver was not opened", hint="await open() first")
        self._machine = machine
        self.command(lambda now, wall: machine.start(now, wall, seeds))

    async def leave(self) -> None:
        """Say farewell, and close."""
        machine = self._machine
        if machine is not None and not self._closed:
            self._step(machine.leave)
        await self.close()

    async def close(self) -> None:
        """Stop, without a word to anybody. Idempotent."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        exchanges = list(self._exchanges)
        for task in exchanges:
            task.cancel()
        await asyncio.gather(*exchanges, return_exceptions=True)
        await self.transport.close()
        self._news.set()
        self._ended.set()

    async def wait_closed(self) -> None:
        """Return when the driver was closed. Raises the defect that stopped it."""
        await self._ended.wait()
        if self.defect is not None:
            raise self.defect

    @property
    def closed(self) -> bool:
        """Whether it was closed, or stopped by a defect."""
        return self._closed

    # ------------------------------------------------------------------ commands and events

    def command(self, run: Callable[[int, int], list[Effect] | None]) -> None:
        """Give the machine a command: ``run(now_us, wall_us)``, whose effects are carried out.

        What ``run`` raises is the caller's: ``driver.command(lambda now, wall:
        mesh.broadcast(payload, now))``.
        """
        if not self._closed:
            effects = run(self._steady(), self._wall()) or []
            self._step(lambda _now, _wall: effects)

    async def events(self) -> AsyncIterator[Effect]:
        """Yield what is not about the network, until the driver is closed; for one reader.

        Whoever reads too slowly loses the oldest; how many is in ``counters``. Raises the
        defect that stopped the driver.
        """
        while True:
            while self._events:
                yield self._events.popleft()
            if self._closed:
                if self.defect is not None:
                    raise self.defect
                return
            self._news.clear()
            await self._news.wait()

    # ------------------------------------------------------------------ the transport's side

    def on_datagram(self, data: bytes, source: str) -> None:
        """Tell the machine what arrived."""
        machine = self._machine
        if machine is None or self._closed:
            self.counters["datagrams ignored"] += 1
            return
        self._arrived += 1
        self._step(lambda now, wall: machine.receive_datagram(data, source, now, wall))

    def on_frame(self, stream: Any, frame: bytes) -> None:
        """Tell the machine what arrived; a frame that it does not answer is refused."""
        machine = self._machine
        if machine is None or self._closed:
            self.transport.refuse(stream)
            return
        self._arrived += 1
        effects = self._step(lambda now, wall: machine.receive_stream(stream, frame, now, wall))
        if not any(isinstance(effect, Answer) for effect in effects):
            self.transport.refuse(stream)

    # ------------------------------------------------------------------ the machine's side

    def _step(self, call: Callable[[int, int], list[Effect]]) -> list[Effect]:
        """Make one call into the machine, carry out what it asks for, and set the timer."""
        try:
            effects = call(self._steady(), self._wall())
            self._carry_out(effects)
            self._set_timer()
        except BaseException as error:
            self._fail(error)
            raise
        return effects

    def _carry_out(self, effects: Sequence[Effect]) -> None:
        """Carry effects out in order; those of a command that a callback gives come after."""
        self._due.extend(effects)
        if self._carrying:
            return
        self._carrying = True
        try:
            while self._due:
                self._do(self._due.popleft())
        finally:
            self._carrying = False

    def _do(self, effect: Effect) -> None:
        match effect:
            case SendDatagram(address, data):
                self.transport.send(address, data)
            case Exchange():
                task = asyncio.get_running_loop().create_task(self._exchange(effect))
                self._exchanges.add(task)
                task.add_done_callback(self._exchanges.discard)
            case Answer(stream, frame):
                self.transport.answer(stream, frame)
            case _:
                self._report(effect)

    def _report(self, effect: Effect) -> None:
        if isinstance(effect, Warn) and self._on_effect is None:
            # Whoever embeds the mesh says it in its own words.
            _log.warning("%s: %s %s", effect.name, effect.message, effect.details)
        if self._events.maxlen:
            if len(self._events) == self._events.maxlen:
                self.counters["events dropped"] += 1
            self._events.append(effect)
            self._news.set()
        if self._on_effect is not None:
            self._on_effect(effect)

    async def _exchange(self, asked: Exchange) -> None:
        answer = await self.transport.exchange(asked.address, asked.frame, asked.timeout_us)
        machine = self._machine
        if machine is not None and not self._closed:
            self._step(
                lambda now, wall: machine.exchanged(
                    asked.number, answer.frame, now, wall, refused=answer.refused
                )
            )

    def _fail(self, error: BaseException) -> None:
        """The machine has a defect: nothing more is told to it, and nobody is answered."""
        if self.defect is None and not self._closed:
            _log.critical("the mesh stops on a defect of its own", exc_info=error)
            self.defect = error
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._news.set()
        self._ended.set()

    # ------------------------------------------------------------------ the timer

    def _set_timer(self) -> None:
        """Wake when the machine asks to be. A timer that is set for sooner is left as it is:
        it costs one early look, and cancelling costs more."""
        machine = self._machine
        if machine is None or self._closed or self._catching_up:
            return
        due_us = machine.next_deadline_us()
        if due_us is None:
            return
        if self._timer is not None:
            if self._timer_us <= due_us:
                return
            self._timer.cancel()
        self._timer_us = due_us
        wait_s = max(0, due_us - self._steady()) / 1_000_000
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._wake)

    def _wake(self) -> None:
        self._timer = None
        late_us = self._steady() - self._timer_us
        self.lag_us = max(0, late_us)
        self.lag_maximum_us = max(self.lag_maximum_us, late_us)
        if late_us > _LATE_US:
            self.counters["late timers"] += 1
            self._catching_up = True
            self._catch_up(_CATCH_UP_TURNS, -1)
        else:
            self._timeout()

    def _catch_up(self, turns: int, arrived: int) -> None:
        """Let the loop read what has arrived, for as long as a turn brings something."""
        if self._closed:
            return
        if turns and arrived != self._arrived:
            loop = asyncio.get_running_loop()
            # Two turns: one for the loop to see that a socket is readable, one to read it.
            loop.call_soon(loop.call_soon, self._catch_up, turns - 1, self._arrived)
            return
        self._catching_up = False
        self._timeout()

    def _timeout(self) -> None:
        machine = self._machine
        if machine is None or self._closed:
            return
        due_us = machine.next_deadline_us()
        if due_us is not None and due_us <= self._steady():
            self._step(machine.handle_timeout)
        else:
            self._set_timer()
