"""Where the executors' suite runs them: one engine, on asyncio or on a heap of events.

Problem: two executors keep one contract, on clocks, threads and disks that have nothing in
common; what is checked on one must be checked on the other, in the same words.

Idea: a ``Site`` opens an executor over a ``ShakyStore``, which passes everything on to a real
store, can hold a commit back, fail it before or after it reached the disk, and refuse to be
opened again. A *journal* takes down what happens, in order: ``persist``, ``synced``, ``publish``,
``notify``, ``send``, ``reply``.
"""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

from crdtmem.batch import Batch
from crdtmem.checkpointing import Checkpointer
from crdtmem.crdt import DATATYPES
from crdtmem.effects import Disconnect, Effect, Persist, Send
from crdtmem.engine import Engine, NodeInfo
from crdtmem.errors import CrdtmemError, StoreFailed, StoreFull
from crdtmem.executor import Executor
from crdtmem.flight import Flight
from crdtmem.frames import encode_frame
from crdtmem.messages import Hello
from crdtmem.recovery import open_engine
from crdtmem.runtime import Runtime
from crdtmem.services import Services
from crdtmem.store import Store, open_store
from crdtmem.transaction import Transaction
from simulations.node import Machine, Ticket, VirtualExecutor
from simulations.world import World
from tests.conformance.store_places import place_of
from tests.waiting import eventually

__all__ = ["SITES", "SPACE", "Answer", "Body", "Listening", "On", "Site", "listen"]

SPACE: Final = ("suite",)
REGISTER: Final = DATATYPES["register"].code
PEER: Final = 99


class ShakyStore:
    """A store that does what a test tells it, and otherwise what the store behind it does."""

    def __init__(self, inner: Store, journal: list[str]) -> None:
        self._inner = inner
        self._journal = journal
        self._failures: list[bool] = []
        self.sick = False
        self.full = False
        self.reopens = 0
        self.broken: CrdtmemError | None = None
        self.syncs = 0
        self.may_sync = threading.Event()
        self.may_sync.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def fail_sync(self, *, survives: bool) -> None:
        """Let the next sync fail; ``survives`` says whether all of it reached the disk."""
        self._failures.append(survives)

    def sync(self) -> None:
        assert self.may_sync.wait(20), "a commit was held back, and never let go"
        if self.full:
            self.broken = StoreFull("planted: no space left")
            raise StoreFull("planted: no space left")
        if self.sick or self._failures:
            if not self.sick and self._failures.pop(0):
                self._inner.sync()
            self.broken = StoreFailed("planted: EIO")
            raise StoreFailed("planted: EIO")
        self._inner.sync()
        self.syncs += 1
        self._journal.append("synced")

    def reopen(self) -> None:
        self.reopens += 1
        if self.sick:
            raise StoreFailed("planted: still sick")
        self._inner.reopen()
        self.broken = None


class Answer:
    """Where the answer to a command is put; it counts how often."""

    def __init__(self, journal: list[str]) -> None:
        self._journal = journal
        self.result: Any = None
        self.error: CrdtmemError | None = None
        self.count = 0
        self.ticket = Ticket(self._answered)

    def _answered(self, result: Any, error: CrdtmemError | None) -> None:
        self.result, self.error = result, error
        self.count += 1
        self._journal.append("reply")

    @property
    def ok(self) -> bool:
        """Whether it was acknowledged."""
        return self.count == 1 and self.error is None


class Listening:
    """A listener for what is published."""

    def __init__(self, journal: list[str]) -> None:
        self._journal = journal
        self.batches: list[Batch] = []
        self.closed = False

    def push(self, batches: Iterable[Batch]) -> None:
        self.batches += batches
        self._journal.append("notify")

    def close(self) -> None:
        self.closed = True


class Site(ABC):
    """One executor, its engine and its store, and the verbs of the suite."""

    executor: Executor

    def __init__(self, url: str) -> None:
        self.url = url
        self.journal: list[str] = []
        self.flights: list[Flight] = []
        self.frames: list[bytes] = []
        self.shaky = ShakyStore(open_store(url), self.journal)
        self.store = cast("Store", self.shaky)

    @property
    def engine(self) -> Engine:
        return self.executor.engine

    # -- what an executor of each kind needs its own way ------------------------

    @abstractmethod
    def build(self, engine: Engine) -> Executor:
        """Make the executor."""

    @abstractmethod
    def enter(self, work: Callable[[], None]) -> None:
        """Let something be done in a turn of its own."""

    @abstractmethod
    async def until(self, condition: Callable[[], Any], what: str) -> None:
        """Let time pass until something is so."""

    @abstractmethod
    async def meanwhile(self) -> None:
        """Let whatever can happen without the disk happen."""

    @abstractmethod
    async def a_turn(self) -> None:
        """Let a millisecond pass, or less."""

    @abstractmethod
    def hold_disk(self) -> None:
        """Let no commit end from now on."""

    @abstractmethod
    def free_disk(self) -> None:
        """Let commits end again."""

    @abstractmethod
    async def close(self) -> None:
        """End it, and let go of the store."""

    # -- what they have in common -----------------------------------------------

    def open_engine(self) -> Engine:
        return open_engine(self.store, region="eu-west", node=NodeInfo(name="site"))

    async def open(self) -> None:
        """Open the engine, watch it, and let it found its cluster."""
        engine = self.open_engine()
        self.executor = executor = self.build(engine)
        executor.checkpointer = Checkpointer(executor)
        Services(executor)
        executor.handlers.update({Send: self._sent, Disconnect: lambda _: None})
        self._watch(executor)
        self.enter(lambda: executor.apply(engine.start(executor.now_us())))
        await self.until(lambda: engine.state.vector and not executor._flying, "founding")
        self.journal.clear()
        self.flights.clear()

    def _watch(self, executor: Executor) -> None:
        carry_out, engine = executor.carry_out, executor.engine
        persisted = engine.persisted

        def watched(effect: Effect) -> None:
            if type(effect) is Persist:
                self.flights.append(effect.flight)
                self.journal.append("persist")
            carry_out(effect)

        def publish(flight: Flight, now_us: int) -> list[Effect]:
            self.journal.append("publish")
            return persisted(flight, now_us)

        executor.carry_out = watched  # type: ignore[method-assign]
        engine.persisted = publish  # type: ignore[method-assign]

    def _sent(self, effect: Send) -> None:
        self.frames.append(effect.frame)
        self.journal.append("send")

    def put(self, key: str, value: Any, *, within_us: int = 0) -> Answer:
        """Ask for a write, to be answered within some time, or whenever that may be."""
        answer = Answer(self.journal)
        executor = self.executor
        transaction = Transaction()
        transaction.put(SPACE, REGISTER, key, value)
        transaction.seal(self.engine.limits)
        now_us = executor.now_us()
        until_us = now_us + within_us if within_us else 0
        self.enter(
            lambda: executor.attempt(
                lambda: executor.engine.submit(
                    answer.ticket, transaction, now_us, deadline_us=until_us
                )
            )
        )
        return answer

    async def put_all(self, **items: Any) -> None:
        """Write, and wait until all of it is acknowledged."""
        answers = [self.put(key, value) for key, value in items.items()]
        await self.until(lambda: all(answer.ok for answer in answers), "acknowledgement")

    def read(self, engine: Engine | None = None) -> dict[str, Any]:
        """Return what a reader sees now."""
        table = (engine or self.engine).state.find(SPACE, REGISTER)
        return {} if table is None else {key: slot[1] for key, slot in table.slots.items()}

    async def greet(self) -> None:
        """Connect a peer that has everything so far and plenty of credit, and admit it."""
        executor, engine = self.executor, self.engine
        hashes = {name: tip[1] for name, tip in engine.tips.items()}
        hello = Hello(
            engine.node.cluster, engine.cluster_id, (1, 1), PEER, "peer", "us-east", 1,
            engine.state.vector.copy(), hashes, 1 << 24,
        )  # fmt: skip

        def meet() -> None:
            executor.attempt(lambda: engine.connected("peer", executor.now_us(), initiator=True))
            data = encode_frame(hello)
            executor.attempt(lambda: engine.receive("peer", data, executor.now_us()))

        self.enter(meet)
        await self.until(
            lambda: PEER in engine.epoch.members and not self.executor._flying, "admission"
        )
        await self.meanwhile()
        self.journal.clear()


class AsyncSite(Site):
    """The runtime, on the event loop that runs the test."""

    def build(self, engine: Engine) -> Executor:
        return Runtime(engine, self.store, tune_gc=False)

    def enter(self, work: Callable[[], None]) -> None:
        work()

    async def until(self, condition: Callable[[], Any], what: str) -> None:
        await eventually(condition, what)

    async def meanwhile(self) -> None:
        for _ in range(50):
            await asyncio.sleep(0)

    async def a_turn(self) -> None:
        for _ in range(3):
            await asyncio.sleep(0)

    def hold_disk(self) -> None:
        self.shaky.may_sync.clear()

    def free_disk(self) -> None:
        self.shaky.may_sync.set()

    async def close(self) -> None:
        self.free_disk()
        self.shaky.sick = False
        assert isinstance(self.executor, Runtime)
        await self.executor.close()


class VirtualSite(Site):
    """The simulator's executor, on a machine of a world of its own."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.world = World(1)
        self.machine: Machine = self.world.add("site", "eu-west")

    def build(self, engine: Engine) -> Executor:
        executor = VirtualExecutor(engine, self.store, self.machine)
        self.machine.executor = executor
        return executor

    def enter(self, work: Callable[[], None]) -> None:
        self.machine.enter(work)

    async def until(self, condition: Callable[[], Any], what: str) -> None:
        self.world.run_until(condition, what, within_s=60, step_s=0.001)

    async def meanwhile(self) -> None:
        self.world.run(0.2)

    async def a_turn(self) -> None:
        self.world.run(0.001)

    def hold_disk(self) -> None:
        self.machine.device.free_at_us = self.world.kernel.now_us + 1_000_000

    def free_disk(self) -> None:
        """It is free again after a second: what is on its way to it cannot be hurried."""

    async def close(self) -> None:
        self.machine.executor = None
        self.store.close()


def _sites() -> Iterator[tuple[str, Callable[[Path], Site]]]:
    for world, kind in (("asyncio", AsyncSite), ("virtual", VirtualSite)):
        for engine in ("memory", "sqlite"):
            yield f"{world}-{engine}", partial(_site, kind, engine)


def _site(kind: type[AsyncSite | VirtualSite], engine: str, folder: Path) -> Site:
    return kind(place_of(engine, folder).url)


SITES: Final[dict[str, Callable[[Path], Site]]] = dict(_sites())
"""Every executor over every engine: a name, and how to make it in a folder."""

Body = Callable[[Site], Awaitable[None]]
On = Callable[[Body], None]
"""Runs a body on one site."""


def listen(site: Site) -> Listening:
    listening = Listening(site.journal)
    site.executor.subscriptions.append(listening)
    return listening
