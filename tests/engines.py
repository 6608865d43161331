"""Whole engines over stores in memory, linked in virtual time: all chance from one seed.

``World`` plays the network, the disks and the clocks; an ``EngineNode`` may be killed
(what was not synced is gone) and started again from its disk. Nothing here decides
anything that a runtime would not: effects are carried out in order.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from functools import partial
from itertools import count
from random import Random
from typing import Any

from crdtmem.codec import pack
from crdtmem.crdt import DATATYPES
from crdtmem.effects import Alarm, Disconnect, Effect, Persist, ReadLog, Reply, Retire, Send
from crdtmem.engine import Engine, NodeInfo
from crdtmem.errors import CrdtmemError
from crdtmem.flight import Flight
from crdtmem.limits import DEFAULT_LIMITS, Limits
from crdtmem.recovery import open_engine
from crdtmem.replica import Committed
from crdtmem.store import BatchRecord, MemoryDisk, MemoryStore, open_memory_store
from crdtmem.sync_host import DEFAULT_SYNC, SyncConfig
from crdtmem.transaction import Operation, Transaction

__all__ = ["PATIENCE_US", "SPACE", "START_US", "EngineNode", "World"]

SPACE = ("notes",)
START_US = 1_700_000_000_000_000
PATIENCE_US = 60_000_000
_DISK_US = 1_000
_STEPS = 300_000


class EngineNode:
    """An engine, its disk, and what its runtime would hold."""

    def __init__(
        self,
        world: World,
        name: str,
        replica: int,
        peers: int,
        sync: SyncConfig,
        limits: Limits,
    ) -> None:
        self.world = world
        self.name = name
        self.disk = MemoryDisk()
        self.info = NodeInfo(name=name, peers=peers)
        self.sync_config = sync
        self.limits = limits
        self.engine: Engine
        self.store: MemoryStore
        self.alive = False
        self.disk_us = _DISK_US
        self.alarms: list[Alarm] = []
        self.retired: list[Retire] = []
        self.flights: list[Flight] = []
        self.replies: dict[Any, Reply] = {}
        self._tickets = count(1)
        self._claim(replica)

    def __repr__(self) -> str:
        return f"EngineNode({self.name})"

    def _claim(self, replica: int) -> None:
        """Give the fresh disk an id that a test can foresee."""
        store = open_memory_store(self.disk)
        store.put_metadata({"replica": pack(replica)})
        store.claim_identity()
        store.sync()
        store.close()

    @property
    def id(self) -> int:
        return self.engine.replica_id

    def start(self, *, found: bool = False) -> EngineNode:
        """Begin a life, from what the disk holds."""
        self.store = open_memory_store(self.disk)
        self.engine = open_engine(
            self.store,
            region=self.name,
            node=self.info,
            limits=self.limits,
            sync=self.sync_config,
        )
        self.alive = True
        self.run(self.engine.start(self.world.now_us, found=found))
        return self

    def kill(self) -> None:
        """End it as ``kill -9`` and a power loss do."""
        self.alive = False
        self.world.cut(self)
        self.store.crash()

    # ------------------------------------------------------------------ the runtime

    def run(self, effects: Iterable[Effect]) -> None:
        """Carry out effects in order, then let the engine advance."""
        for effect in effects:
            self._carry_out(effect)
        staged = self.engine.advance(self.world.now_us)
        if staged:
            self.run(staged)

    def _carry_out(self, effect: Effect) -> None:
        if isinstance(effect, Persist):
            self.world.later(self.disk_us, partial(self._land, self.engine, effect.flight))
        elif isinstance(effect, Send):
            self.world.send(self, effect.peer, effect.frame)
        elif isinstance(effect, Disconnect):
            self.world.end(effect.peer)
        elif isinstance(effect, ReadLog):
            self.world.later(200, partial(self._read, self.engine, effect))
        elif isinstance(effect, Reply):
            self.replies[effect.ticket] = effect
        elif isinstance(effect, Alarm):
            self.alarms.append(effect)
        elif isinstance(effect, Retire):
            self.retired.append(effect)

    def _land(self, engine: Engine, flight: Flight) -> None:
        if not self.alive or engine is not self.engine:
            return
        self._write(flight)
        self.flights.append(flight)
        self.run(engine.persisted(flight, self.world.now_us))

    def _write(self, flight: Flight) -> None:
        store, now_us = self.store, self.world.now_us
        if flight.batches:
            records = [
                BatchRecord.of(b.header.replica, b.header.first, b.header.last, b.data)
                for b in flight.batches
            ]
            store.append(records, arrived_at_us=now_us)
        for marker in flight.markers:
            store.append_marker(marker, arrived_at_us=now_us)
        if flight.metadata:
            store.put_metadata(flight.metadata)
        store.sync()

    def _read(self, engine: Engine, read: ReadLog) -> None:
        if not self.alive or engine is not self.engine:
            return
        result: Any
        try:
            result = self.store.read(
                read.replica, read.first, limit_bytes=read.limit_bytes, through_sequence=read.last
            )
        except CrdtmemError as error:
            result = error
        self.run(engine.log_read(read.request, result, self.world.now_us))

    # ------------------------------------------------------------------ commands

    def operate(
        self,
        datatype: str,
        key: str,
        name: str,
        *arguments: Any,
        retry: bytes | None = None,
        after: dict[int, int] | None = None,
    ) -> Any:
        """Queue one operation; returns its ticket."""
        transaction = Transaction(operation_id=retry)
        transaction.add(Operation(SPACE, DATATYPES[datatype].code, key, name, arguments))
        transaction.seal(DEFAULT_LIMITS)
        ticket = next(self._tickets)
        now_us = self.world.now_us
        self.run(
            self.engine.submit(
                ticket, transaction, now_us, after=after, deadline_us=now_us + PATIENCE_US
            )
        )
        return ticket

    def put(self, key: str, value: Any) -> Committed:
        """Write a register, and let time pass until it is durable; raises its refusal."""
        ticket = self.operate("register", key, "set", value)
        self.world.until(lambda: ticket in self.replies, f"answer to {key}")
        reply = self.replies[ticket]
        if reply.error is not None:
            raise reply.error
        assert isinstance(reply.result, Committed)
        return reply.result

    def get(self, key: str, datatype: str = "register") -> Any:
        code = DATATYPES[datatype].code
        return self.engine.replica.read(SPACE, code, key, self.world.now_us).value

    def evict(self, victim: int, *, forced: bool = False) -> None:
        self.run(self.engine.evict(victim, self.world.now_us, forced=forced))


class _Stream:
    """A stream between two nodes: bytes in order, late."""

    def __init__(self, initiator: EngineNode, acceptor: EngineNode) -> None:
        self.ends = (initiator, acceptor)
        self.open = True
        self.arrives_us = {initiator: 0, acceptor: 0}

    def other(self, node: EngineNode) -> EngineNode:
        return self.ends[1] if node is self.ends[0] else self.ends[0]


class World:
    """The network, the disks and the clock."""

    def __init__(self, seed: int = 0) -> None:
        self.random = Random(seed)
        self.now_us = START_US
        self.nodes: dict[str, EngineNode] = {}
        self.streams: list[_Stream] = []
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._serial = count()

    def node(
        self,
        name: str,
        *,
        replica: int = 0,
        peers: int = 1,
        sync: SyncConfig = DEFAULT_SYNC,
        limits: Limits = DEFAULT_LIMITS,
    ) -> EngineNode:
        """Make a node, not yet started; without a ``replica`` id it draws one."""
        chosen = replica or self.random.getrandbits(62) | 1
        self.nodes[name] = EngineNode(self, name, chosen, peers, sync, limits)
        return self.nodes[name]

    def cluster(self, names: str, limits: Limits = DEFAULT_LIMITS) -> list[EngineNode]:
        """Start nodes, the first of which founds, linked each to each, all admitted."""
        made = [self.node(name, peers=index, limits=limits) for index, name in enumerate(names)]
        for node in made:
            node.start()
        for index, node in enumerate(made):
            for earlier in made[:index]:
                self.link(node, earlier)
        self.until(lambda: all(node.engine.epoch.is_member for node in made), "members")
        self.settle()
        return made

    # ------------------------------------------------------------------ the network

    def link(self, initiator: EngineNode, acceptor: EngineNode) -> None:
        """Open a stream."""
        stream = _Stream(initiator, acceptor)
        self.streams.append(stream)
        for node in stream.ends:
            engine = node.engine
            node.run(engine.connected(stream, self.now_us, initiator=node is initiator))

    def cut(self, node: EngineNode, other: EngineNode | None = None) -> None:
        """Break the streams of a node, or those between two."""
        for stream in list(self.streams):
            if node in stream.ends and other in {None, stream.other(node)}:
                self.end(stream)

    def end(self, stream: _Stream) -> None:
        if not stream.open:
            return
        stream.open = False
        self.streams.remove(stream)
        for node in stream.ends:
            if node.alive:
                self.later(0, partial(self._ended, node, node.engine, stream))

    def _ended(self, node: EngineNode, engine: Engine, stream: _Stream) -> None:
        if node.alive and node.engine is engine:
            node.run(engine.disconnected(stream, self.now_us))

    def send(self, node: EngineNode, stream: _Stream, data: bytes) -> None:
        if not stream.open:
            return
        at_us = max(self.now_us + self.random.randint(500, 5_000), stream.arrives_us[node])
        stream.arrives_us[node] = at_us
        self.later(at_us - self.now_us, partial(self._deliver, stream, stream.other(node), data))

    def _deliver(self, stream: _Stream, node: EngineNode, data: bytes) -> None:
        if stream.open and node.alive:
            node.run(node.engine.receive(stream, data, self.now_us))

    # ------------------------------------------------------------------ time

    def later(self, delay_us: int, work: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now_us + delay_us, next(self._serial), work))

    def step(self) -> bool:
        """Do the next thing, an event or somebody's timer; ``False`` if there is nothing."""
        timers = [
            (deadline_us, name)
            for name, node in self.nodes.items()
            if node.alive and (deadline_us := node.engine.next_deadline_us()) is not None
        ]
        due = min(timers, default=None)
        if self._events and (due is None or self._events[0][0] <= due[0]):
            self.now_us, _, work = heapq.heappop(self._events)
            work()
        elif due is not None:
            self.now_us = max(self.now_us, due[0])
            node = self.nodes[due[1]]
            node.run(node.engine.handle_timeout(self.now_us))
        else:
            return False
        return True

    def until(self, condition: Callable[[], Any], what: str, *, limit_s: float = 60.0) -> None:
        """Let time pass until a condition holds; fails when it does not in time."""
        end_us = self.now_us + int(limit_s * 1e6)
        for _ in range(_STEPS):
            if condition():
                return
            assert self.now_us <= end_us, f"after {limit_s} s there was still no {what}"
            assert self.step(), f"all is quiet, without {what}"
        raise AssertionError(f"no end of steps before {what}")

    def spend(self, seconds: float) -> None:
        """Let so much time pass."""
        end_us = self.now_us + int(seconds * 1e6)
        passed: list[bool] = []
        self.later(int(seconds * 1e6), lambda: passed.append(True))
        self.until(lambda: passed, "time", limit_s=seconds + 1)
        assert self.now_us == end_us

    def settle(self) -> None:
        """Let time pass until all who live have the same vector, and say so to each other."""

        def alike() -> bool:
            alive = [node for node in self.nodes.values() if node.alive]
            vectors = [node.engine.state.vector for node in alive]
            return all(vector == vectors[0] for vector in vectors) and all(
                node.engine.epoch.acknowledged(other.id).dominates(vectors[0])
                for node in alive
                for other in alive
                if other is not node
            )

        self.until(alike, "convergence")
