"""Replicas with synchronisation, over real (in-memory) stores, in virtual time.

``Cluster`` plays the network, the disks and the clock: streams deliver in order,
late, in pieces; links break and heal; a node's commits take their time. All
chance comes from one seed. ``SyncNode`` is the smallest possible host: a replica,
its synchronisation and a store, with none of the engine's membership.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from random import Random
from typing import Any

from crdtmem.batch import Batch, decode_batch
from crdtmem.causality import VersionVector
from crdtmem.crdt import DATATYPES, NESTED, SHAPES
from crdtmem.effects import Alarm, Disconnect, Effect, Persist, ReadLog, Reply, Send
from crdtmem.errors import CrdtmemError
from crdtmem.flight import Flight
from crdtmem.inbox import Verdict
from crdtmem.install import Assembler, Installation
from crdtmem.limits import Limits
from crdtmem.messages import Hello
from crdtmem.replica import Identity, Replica
from crdtmem.snapshot import SnapshotHeader
from crdtmem.store import BatchRecord, Store, open_store
from crdtmem.sync import Sync
from crdtmem.sync_host import PROTOCOL_VERSIONS, SyncConfig
from crdtmem.table import State
from crdtmem.transaction import Operation, Transaction

__all__ = [
    "CONFIG",
    "LIMITS",
    "SPACE",
    "START_US",
    "TIGHT",
    "Cluster",
    "Stream",
    "SyncNode",
    "dump",
]

SPACE = ("notes",)
START_US = 1_700_000_000_000_000
LIMITS = Limits(key_bytes=256, value_bytes=1 << 16, batch_bytes=1 << 17, frame_bytes=1 << 20)
# A window of a few batches, so that transfers and catching up take many round trips.
TIGHT = Limits(key_bytes=256, value_bytes=1 << 13, batch_bytes=1 << 14, frame_bytes=1 << 20)
CONFIG = SyncConfig(credit_bytes=1 << 18, read_bytes=1 << 15, capture_bytes=1 << 18)
UNBOUND = (1 << 64) - 1
_STEPS = 200_000


class SyncNode:
    """A replica, its synchronisation and its store; also the host that ``Sync`` sees."""

    def __init__(
        self,
        cluster: Cluster,
        replica_id: int,
        config: SyncConfig = CONFIG,
        name: str = "cluster",
        limits: Limits = LIMITS,
    ) -> None:
        self.cluster = cluster
        self.name = name
        self.replica = Replica(Identity(replica_id, f"region-{replica_id}"), limits)
        self.store: Store = open_store("memory:")
        self.sync = Sync(self, config)
        self.versions = PROTOCOL_VERSIONS
        self.founded = 0
        self.boot = 1
        self.disk_us = 1_000
        self.alarms: list[Alarm] = []
        self.questioned: list[tuple[int, int, str]] = []
        self.disconnects: list[CrdtmemError] = []
        self.reads: list[ReadLog] = []
        self.known: dict[int, VersionVector] = {}
        self.evicted_from: dict[int, int] = {}
        self.halts: list[int] = []
        self.lost_forks: list[tuple[int, int]] = []
        self.installed: list[Installation] = []
        self.sent: list[tuple[Any, bytes]] = []
        self._tickets = count(1)
        self.replies: dict[Any, Reply] = {}

    # ------------------------------------------------------------------ SyncHost

    @property
    def limits(self) -> Limits:
        return self.replica.limits

    @property
    def state(self) -> State:
        return self.replica.state

    @property
    def replica_id(self) -> int:
        return self.replica.identity.replica

    @property
    def tips(self) -> Mapping[int, tuple[int, bytes]]:
        return self.replica.tips

    @property
    def fenced(self) -> Mapping[int, str]:
        return self.replica.inbox.fenced

    def yields_to(self, peer: int, less: bool) -> bool:
        return less

    def fork_lost(self, replica: int, peer: int) -> list[Effect]:
        self.lost_forks.append((replica, peer))
        return []

    @property
    def cluster_id(self) -> int:
        return self.founded

    @property
    def newcomer(self) -> bool:
        return False

    def hello(self, credit_bytes: int) -> Hello:
        return Hello(
            self.name,
            self.founded,
            self.versions,
            self.replica_id,
            f"node-{self.replica_id}",
            self.replica.identity.region,
            self.boot,
            self.state.vector.copy(),
            {replica: tip[1] for replica, tip in self.tips.items()},
            credit_bytes,
        )

    def decode(self, data: bytes) -> Batch:
        return decode_batch(data, known_fields=NESTED)

    def offer(self, batch: Batch) -> tuple[Verdict, list[Effect]]:
        return self.replica.offer(batch)

    def take_through(self, replica: int) -> int:
        if replica in self.replica.inbox.fenced:
            return self.state.vector.get(replica, 0)
        return self.replica.inbox.cuts.get(replica, UNBOUND)

    def acknowledge(self, replica: int, vector: Mapping[int, int], now_us: int) -> list[Effect]:
        self.known.setdefault(replica, VersionVector()).join(vector)
        return []

    def acknowledged(self) -> Mapping[int, VersionVector]:
        return self.known

    def eviction_cut(self, replica: int) -> int | None:
        return self.evicted_from.get(replica)

    def greeted(self, hello: Hello, now_us: int, *, dialled: bool) -> list[Effect]:
        return []

    def identity_questioned(self, peer: int, sequence: int, reason: str) -> list[Effect]:
        self.questioned.append((peer, sequence, reason))
        return [Alarm("identity", reason, {"peer": peer})]

    def told_evicted(self, peer: int, cut: int) -> list[Effect]:
        self.halts.append(cut)
        return self.replica.halt("evicted")

    def snapshot_header(self) -> SnapshotHeader:
        return SnapshotHeader(
            self.state.vector.copy(), dict(self.tips), (self.replica.clock.order, 0)
        )

    def install(self, installation: Installation, now_us: int) -> list[Effect]:
        self.installed.append(installation)
        return self.replica.install(installation)

    def rederive(self, request: Any) -> list[Effect]:
        self.cluster.later(1_000, lambda: self.run(self._rederived(request)))
        return []

    def _rederived(self, request: Any) -> list[Effect]:
        rebuilt = self.recovered()
        sound = rebuilt.digest() == self.state.digest() or rebuilt.vector != self.state.vector
        if not sound:
            self.replica.state.tables = rebuilt.tables
            self.replica.state.digests = rebuilt.digests
        return self.sync.rederived(request, sound, self.now_us)

    def find_evidence(self, request: Any, dots: Iterable[int]) -> list[Effect]:
        wanted = set(dots)
        self.cluster.later(1_000, lambda: self.run(self._evidence(request, wanted)))
        return []

    def _evidence(self, request: Any, wanted: set[int]) -> list[Effect]:
        found = []
        for record in self.store.replay(after_ordinal=0):
            if record.kind == 0:
                batch = self.decode(record.data)
                gone = {
                    dot for part in batch.segments for *_, dots in part.deltas() for dot in dots
                }
                if gone & wanted:
                    found.append(record.data)
        return self.sync.evidence_found(request, found, self.now_us)

    # ------------------------------------------------------------------ the runtime

    @property
    def now_us(self) -> int:
        return self.cluster.now_us

    def put(self, **values: Any) -> int:
        """Write registers in one transaction."""
        transaction = Transaction(author=f"agent-{self.replica_id}")
        for key, value in values.items():
            transaction.put(SPACE, DATATYPES["register"].code, key, value)
        return self.submit(transaction)

    def operate(self, datatype: str, key: str, name: str, *arguments: Any) -> int:
        """Carry out one operation."""
        transaction = Transaction()
        code = DATATYPES[datatype].code
        transaction.add(Operation(SPACE, code, key, name, arguments))
        return self.submit(transaction)

    def submit(self, transaction: Transaction) -> int:
        ticket = next(self._tickets)
        transaction.seal(self.limits)
        self.run(self.replica.submit(ticket, transaction, self.now_us))
        return ticket

    def value(self, key: str, datatype: str = "register") -> Any:
        return self.replica.read(SPACE, DATATYPES[datatype].code, key, self.now_us).value

    def run(self, effects: Iterable[Effect]) -> None:
        """Carry out effects in order, then stage what is ready."""
        for effect in effects:
            if isinstance(effect, Persist):
                flight = effect.flight
                self.cluster.later(self.disk_us, partial(self._land, flight))
            elif isinstance(effect, Send):
                self.sent.append((effect.peer, effect.frame))
                self.cluster.send(self, effect.peer, effect.frame)
            elif isinstance(effect, Disconnect):
                self.disconnects.append(effect.error)
                self.cluster.hang_up(self, effect.peer)
            elif isinstance(effect, ReadLog):
                self.reads.append(effect)
                self.cluster.later(200, partial(self._read, effect))
            elif isinstance(effect, Alarm):
                self.alarms.append(effect)
            elif isinstance(effect, Reply) and effect.ticket is not None:
                self.replies[effect.ticket] = effect
        if self.replica.has_work:
            staged = self.replica.stage(self.now_us)
            if staged:
                self.run(staged)

    def _land(self, flight: Flight) -> None:
        store = self.store
        if flight.batches:
            records = [
                BatchRecord.of(b.header.replica, b.header.first, b.header.last, b.data)
                for b in flight.batches
            ]
            store.append(records, arrived_at_us=self.now_us)
        for marker in flight.markers:
            store.append_marker(marker, arrived_at_us=self.now_us)
        store.sync()
        effects = self.replica.persisted(flight, self.now_us)
        self.run([*effects, *self.sync.published(flight.batches, self.now_us)])

    def _read(self, read: ReadLog) -> None:
        try:
            result: Any = self.store.read(
                read.replica,
                read.first,
                limit_bytes=read.limit_bytes,
                through_sequence=read.last,
            )
        except CrdtmemError as error:
            result = error
        self.run(self.sync.log_read(read.request, result, self.now_us))

    def recovered(self) -> State:
        """Return the state as a restart would rebuild it from the log."""
        replica = Replica(self.replica.identity, self.limits)
        assembler = Assembler(SHAPES, NESTED)
        for record in self.store.replay(after_ordinal=0):
            if record.kind == 0:
                replica.recover_batch(self.decode(record.data))
            else:
                installation = assembler.feed(record.data)
                if installation is not None:
                    replica.recover_installation(installation)
        replica.state.rebuild_derived()
        return replica.state

    def cut_log(self) -> None:
        """Throw the sync log away as far as the store allows."""
        writer = self.store.begin_checkpoint(b"")
        writer.commit()
        for replica, head in self.store.heads().items():
            self.store.cut_sync_log(replica, head + 1)


@dataclass(slots=True, eq=False)
class Stream:
    """A stream between two nodes: bytes in flight, in order, per direction."""

    initiator: SyncNode
    acceptor: SyncNode
    open: bool = True
    arrives_us: dict[int, int] = field(default_factory=dict)
    carried: int = 0

    def other(self, node: SyncNode) -> SyncNode:
        return self.acceptor if node is self.initiator else self.initiator


class Cluster:
    """The network, the disks and the clock."""

    def __init__(self, seed: int = 0) -> None:
        self.random = Random(seed)
        self.now_us = START_US
        self.nodes: list[SyncNode] = []
        self.streams: list[Stream] = []
        self.latency_us = (1_000, 5_000)
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._serial = count()

    def node(self, replica_id: int, **settings: Any) -> SyncNode:
        node = SyncNode(self, replica_id, **settings)
        self.nodes.append(node)
        return node

    def later(self, delay_us: int, work: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now_us + delay_us, next(self._serial), work))

    # ------------------------------------------------------------------ the network

    def connect(self, initiator: SyncNode, acceptor: SyncNode) -> Stream:
        stream = Stream(initiator, acceptor)
        self.streams.append(stream)
        for node in (initiator, acceptor):
            node.run(node.sync.connected(stream, self.now_us, initiator=node is initiator))
        return stream

    def mesh(self) -> None:
        for index, node in enumerate(self.nodes):
            for other in self.nodes[index + 1 :]:
                self.connect(node, other)

    def cut(self, stream: Stream) -> None:
        """Break a stream; what was on its way is lost."""
        if stream.open:
            stream.open = False
            self.streams.remove(stream)
            for node in (stream.initiator, stream.acceptor):
                node.run(node.sync.disconnected(stream, self.now_us))

    def cut_all(self) -> None:
        for stream in list(self.streams):
            self.cut(stream)

    def hang_up(self, node: SyncNode, stream: Stream) -> None:
        """Close a stream in order: what was sent before still arrives."""
        other = stream.other(node)

        def closed() -> None:
            if stream.open:
                stream.open = False
                self.streams.remove(stream)
                other.run(other.sync.disconnected(stream, self.now_us))

        self.later(max(0, stream.arrives_us.get(id(node), 0) - self.now_us), closed)

    def send(self, node: SyncNode, stream: Stream, data: bytes) -> None:
        if not stream.open:
            return
        stream.carried += len(data)
        other = stream.other(node)
        at_us = self.now_us + self.random.randint(*self.latency_us)
        at_us = max(at_us, stream.arrives_us.get(id(node), 0))
        stream.arrives_us[id(node)] = at_us
        self.later(at_us - self.now_us, lambda: self._deliver(stream, other, data))

    def _deliver(self, stream: Stream, node: SyncNode, data: bytes) -> None:
        pieces = [data]
        if len(data) > 1 and self.random.random() < 0.2:
            middle = self.random.randrange(1, len(data))
            pieces = [data[:middle], data[middle:]]
        for piece in pieces:
            if stream.open:
                node.run(node.sync.receive(stream, piece, self.now_us))

    # ------------------------------------------------------------------ time

    def step(self) -> None:
        """Do the next thing: an event or somebody's timer."""
        timers = [
            (deadline_us, node)
            for node in self.nodes
            if (deadline_us := node.sync.next_deadline_us()) is not None
        ]
        due = min(timers, key=lambda item: item[0], default=None)
        if self._events and (due is None or self._events[0][0] <= due[0]):
            self.now_us, _, work = heapq.heappop(self._events)
            work()
        elif due is not None:
            deadline_us, node = due
            self.now_us = max(self.now_us, deadline_us)
            node.run(node.sync.handle_timeout(self.now_us))
            again_us = node.sync.next_deadline_us()
            assert again_us is None or again_us > deadline_us or again_us > self.now_us, (
                "a timer that does nothing"
            )

    def run(
        self, until: Callable[[], bool], *, limit_s: float = 60.0, steps: int = 200_000
    ) -> None:
        """Let time pass until a condition holds; fails when it does not within the limit."""
        end_us = self.now_us + int(limit_s * 1e6)
        for _ in range(_STEPS):
            if until():
                return
            assert self.now_us <= end_us, self.describe()
            self.step()
        raise AssertionError(f"no end after {_STEPS} steps\n{self.describe()}")

    def pass_s(self, seconds: float) -> None:
        """Let that much time pass."""
        end_us = self.now_us + int(seconds * 1e6)
        self.later(int(seconds * 1e6), lambda: None)
        self.run(lambda: self.now_us >= end_us, limit_s=seconds + 1)

    def converged(self) -> bool:
        first = self.nodes[0].state
        return all(
            node.state.vector == first.vector and node.replica.flight is None for node in self.nodes
        ) and all(node.state.digest() == first.digest() for node in self.nodes)

    def settle(self, *, limit_s: float = 60.0) -> None:
        """Run until all nodes hold the same, then check that they really do."""
        self.run(self.converged, limit_s=limit_s)
        contents = [dump(node.state) for node in self.nodes]
        assert all(content == contents[0] for content in contents)

    def describe(self) -> str:
        return "\n".join(
            f"{node.replica_id}: {dict(node.state.vector)} "
            f"lacking {dict(node.sync.requests.lacking)} {node.alarms} "
            f"disconnects {node.disconnects}"
            for node in self.nodes
        )


def dump(state: State) -> dict[Any, Any]:
    """Return everything live: place to dots with values."""
    return {
        (table.space, table.datatype, key, name, entry[0]): (entry[1], entry[2])
        for table, key, name, entry in state.entries()
    }
