"""A simulated machine: a production node on a heap of events.

Problem: the simulator must run what production runs, not something like it, and yet
be able to stop it anywhere, even between two effects.

Idea: what decides is the production engine, carried out by the production executor (see
``executor``) beside the production mesh (see ``mesh``). A ``Machine`` is what a computer
and its operating system add: a disk, a clock, a network card, starting, stopping, dying,
standing still. It dials the peers that it was configured with, or those that the mesh names,
as the node's peer streams do.

Invariants: nothing of a life goes on in the next one; a machine that is down neither
hears nor says anything; everything that enters the executor enters through ``enter``,
where a crash that was asked for "after so many effects" takes place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from crdtmem.checkpointing import Checkpointer
from crdtmem.effects import Disconnect, Send
from crdtmem.engine import Engine, NodeInfo
from crdtmem.errors import CrdtmemError, Overloaded, StoreError
from crdtmem.executor import write_flight
from crdtmem.recovery import open_engine
from crdtmem.replica import Replica
from crdtmem.services import Services
from crdtmem.store.memory import MemoryStore
from crdtmem.sync_greeting import DUPLICATE
from crdtmem.transaction import Transaction
from gossip.stream_seal import StreamSeal
from simulations.clocks import Clock
from simulations.dialects import Interpreter
from simulations.disk import Device
from simulations.exchanges import Exchange
from simulations.executor import Crashed, Ticket, VirtualExecutor
from simulations.mesh import MESHES, VirtualMesh
from simulations.network import Stream

if TYPE_CHECKING:
    from simulations.world import World

__all__ = ["Crashed", "Machine", "Ticket", "VirtualExecutor"]

_REDIAL_US: Final = (250_000, 10_000_000)


class Machine:
    """One machine of a world, its disk, its clock, and the node that runs on it, if it does."""

    def __init__(self, world: World, name: str, region: str, number: int) -> None:
        self.world = world
        self.name = name
        self.region = region
        self.random = world.kernel.random(f"machine/{name}")
        self.clock = Clock(world.kernel)
        self.device = Device(world.kernel.random(f"disk/{name}"), number, world.config.sync_us)
        self.peers: list[str] = []
        # With a mesh: whom it asks for the others; this life's mesh; the ring's file; its alias.
        self.seeds: list[str] = []
        self.mesh: VirtualMesh | None = None
        self.ring = b""
        self.dark = False
        self.calls_itself = ""
        self.executor: VirtualExecutor | None = None
        self.store: MemoryStore | None = None
        self.services: Services | None = None
        self.lives = 0
        self.paused = False
        self.pauses = 0
        self.storing = 0
        self.dies_after_effects: int | None = None
        self.failed_start: CrdtmemError | None = None
        # Whether the next start founds anew; which versions it speaks: see ``dialects``.
        self.founds = False
        self.speaks = (1, 1)
        self._interpreters: dict[int, Interpreter] = {}
        self._streams: dict[int, Stream] = {}
        self._dialling: set[str] = set()
        self._dialled: set[str] = set()
        self._pauses_us: dict[str, int] = {}
        self._waiting: list[Callable[[], None]] = []
        self._seen: Any = None

    # ------------------------------------------------------------------ looking

    @property
    def up(self) -> bool:
        """Whether a node runs here."""
        return self.executor is not None

    @property
    def accepts(self) -> bool:
        """Whether the network may reach it."""
        return self.executor is not None

    @property
    def engine(self) -> Engine:
        """The engine that runs here now. Only while it is up."""
        assert self.executor is not None, f"{self.name} is down"
        return self.executor.engine

    @property
    def replica(self) -> Replica:
        """The replica that runs here now. Only while it is up."""
        return self.engine.replica

    @property
    def life(self) -> object:
        """What is another object in every life."""
        return self.executor

    @property
    def known(self) -> list[str]:
        """Whom it was told of: its peers, or the seeds of its mesh."""
        return self.seeds if self.world.mesh_kind else self.peers

    def meet(self, names: Iterable[str]) -> None:
        """Tell it of others, before its next start."""
        known = [name for name in names if name != self.name]
        if self.world.mesh_kind:
            self.seeds = known
        else:
            self.peers = known

    def draw_id(self) -> int:
        """Return a replica id that nobody has."""
        return self.random.getrandbits(63) | 1

    # ------------------------------------------------------------------ lives

    def start(self) -> None:
        """Start the node: open the store, recover, listen, dial. Harmless while it runs.

        A store that cannot be opened leaves it down, with the reason in ``failed_start``.
        """
        if self.executor is not None:
            return
        config = self.world.config
        self.lives += 1
        self.failed_start = None
        try:
            store = MemoryStore(
                f"memory:{self.name}", self.device.disk, self.device.faults, read_only=False
            )
            self.store = store
            engine = open_engine(
                store,
                region=self.region,
                node=NodeInfo(
                    name=self.name,
                    cluster="simulated",
                    peers=len(self.peers),
                    joins=bool(self.seeds),
                ),
                limits=config.limits,
                sync=config.sync,
                draw_id=self.draw_id,
            )
        except StoreError as error:
            self.failed_start = error
            if self.store is not None:
                self.store.crash()
            self.world.note("start failed", self.name)
            return
        executor = VirtualExecutor(engine, store, self)
        executor.linger_us = config.linger_us
        executor.handlers.update({Send: self._send, Disconnect: self._disconnect})
        executor.checkpointer = Checkpointer(
            executor, log_bytes=config.checkpoint_bytes, sync_log_bytes=config.sync_log_bytes
        )
        self.services = Services(executor)
        self.services.before_restart.append(self._drop_streams)
        self.services.after_restart.append(self._went_on)
        self.executor = executor
        self.storing = 0
        self.dark = False
        self.world.note("start", self.name, number=self.lives)
        founds = self.founds
        self._watch()
        self.enter(lambda: executor.attempt(lambda: engine.start(executor.now_us(), found=founds)))
        for peer in self.peers:
            self.dial(peer)
        if self.world.mesh_kind and self.executor is executor:
            self.mesh = VirtualMesh(self, executor, MESHES[self.world.mesh_kind])
            self.enter(self.mesh.start)

    def crash(self, *, silent: bool = False) -> None:
        """Die at once: what was not synced is gone. ``silent``: peers are not told.

        What the disk was about to write may have got there, as the seed has it.
        """
        executor, store = self.executor, self.store
        if executor is None or store is None:
            return
        self.world.note("crash", self.name)
        flight = executor.engine.replica.flight
        # A flight that the disk refused is not on its way to the disk any more.
        writing = self.storing and flight is not None and executor.broken is None
        if writing and self.random.random() < 0.3:
            self._finish_write(executor, store)
        self._end(silent=silent)
        store.crash()

    def crash_with(self, last: Callable[[], None]) -> None:
        """Die at once; ``last`` is what the disk does about the write that is under way."""
        store = self.store
        if self.executor is None or store is None:
            return
        self.world.note("crash", self.name)
        self._end(silent=False)
        last()
        store.crash()

    def _finish_write(self, executor: VirtualExecutor, store: MemoryStore) -> None:
        """Let the write that is under way reach the disk, though nobody will learn of it."""
        flight = executor.engine.replica.flight
        assert flight is not None
        try:
            write_flight(store, flight, executor.now_us())
        except StoreError:
            # The disk had a fault of its own for this very write.
            return
        self.world.sometimes("a crash between the commit and its answer")

    def stop(self) -> None:
        """End cleanly: refuse what is queued, close the store."""
        executor, store = self.executor, self.store
        if executor is None or store is None:
            return
        if self.storing or executor.broken is not None:
            # A clean end waits for the disk; one that never comes ends as a crash does.
            self.crash()
            return
        self.world.note("stop", self.name)
        executor.closed = True
        error = Overloaded("this node stops", hint="ask another")
        self.enter(lambda: executor.attempt(lambda: executor.engine.refuse_everyone(error)))
        if self.mesh is not None and self.executor is executor:
            self.enter(self.mesh.leave)
        if self.executor is executor:
            self._end(silent=False)
            store.close()

    def _end(self, *, silent: bool) -> None:
        self.executor = None
        self.services = None
        self.dark = silent
        self.dies_after_effects = None
        self.paused = False
        self._streams.clear()
        self._interpreters.clear()
        self._dialling.clear()
        self._dialled.clear()
        self._waiting.clear()
        self.world.network.reset(self.name, silent=silent)
        self.world.ended(self)
        self.mesh = None

    def pause(self) -> None:
        """Stand still, as a process that is stopped: nothing runs, connections stay."""
        if self.up:
            self.paused = True
            self.pauses += 1
            self.world.note("pause", self.name)

    def resume(self) -> None:
        """Go on; whatever was due meanwhile is due now."""
        if self.paused:
            self.paused = False
            self.world.note("resume", self.name)
            executor = self.executor
            waiting, self._waiting = self._waiting, []
            for work in waiting:
                # What was due in a life that has just ended is never done.
                if self.executor is executor:
                    self.enter(work)

    # ------------------------------------------------------------------ entering

    def fire(self, executor: VirtualExecutor, work: Callable[[], None]) -> None:
        """Do something of a life, if that life still lasts."""
        if self.executor is executor:
            self.enter(work)

    def enter(self, work: Callable[[], None]) -> None:
        """Let the node do something; everything that it does, it does in here."""
        if self.paused:
            self._waiting.append(work)
            return
        try:
            work()
        except Crashed:
            self.world.sometimes("a crash between two effects")
            self.crash()
            return
        executor = self.executor
        if executor is not None:
            vector = executor.engine.replica.state.vector
            if vector is not self._seen:
                self._seen = vector
                self.world.published(self)

    def before_effect(self) -> None:
        """Die here, if that was asked for: before an effect of the mesh."""
        if self.dies_after_effects is not None:
            if self.dies_after_effects == 0:
                raise Crashed
            self.dies_after_effects -= 1

    def _watch(self) -> None:
        self._seen = None
        self.world.started(self)

    # ------------------------------------------------------------------ streams

    def dial(self, peer: str) -> None:
        """Have a stream with a machine, unless there is one; a peer is dialled once in any case."""
        met = peer in self._dialled or peer not in self.peers
        under_way = peer in self._dialling or (met and self._has_stream(peer))
        if self.executor is None or under_way or not self._seeks(peer):
            return
        self._dialling.add(peer)
        executor = self.executor
        self.world.network.connect(
            self.name, peer, lambda: self.fire(executor, partial(self._refused, peer))
        )

    def _seeks(self, peer: str) -> bool:
        return peer in self.peers or (self.mesh is not None and self.mesh.seeks(peer))

    def _has_stream(self, peer: str) -> bool:
        return any(stream.peer_name == peer for stream in self._streams.values())

    def _refused(self, peer: str) -> None:
        self._dialling.discard(peer)
        self._dial_later(peer)

    def _dial_later(self, peer: str) -> None:
        shortest_us, longest_us = _REDIAL_US
        pause_us = self._pauses_us.get(peer, shortest_us)
        self._pauses_us[peer] = min(2 * pause_us, longest_us)
        executor = self.executor
        assert executor is not None
        executor.after(int(pause_us * self.random.uniform(0.5, 1.0)), partial(self.dial, peer))

    def opened(self, stream: Stream, *, initiator: bool) -> None:
        """A stream is open: tell the engine."""
        if initiator:
            self._dialling.discard(stream.peer_name)
            self._dialled.add(stream.peer_name)
        self._pauses_us.pop(stream.peer_name, None)
        self._streams[stream.number] = stream
        if self.speaks != (1, 1):
            self._interpreters[stream.number] = Interpreter(self.speaks[0])
        executor = self.executor
        assert executor is not None
        self.enter(
            lambda: executor.attempt(
                lambda: executor.engine.connected(
                    stream.number, executor.now_us(), initiator=initiator
                )
            )
        )

    def received(self, stream: Stream, data: bytes) -> None:
        """Bytes came: tell the engine."""
        if self.paused:
            self._waiting.append(partial(self._receive, stream.number, data))
        else:
            self.enter(partial(self._receive, stream.number, data))

    def _receive(self, number: int, data: bytes) -> None:
        executor = self.executor
        interpreter = self._interpreters.get(number)
        if interpreter is not None:
            data = interpreter.incoming(data)
        if executor is not None and data:
            engine = executor.engine
            met = len(engine.sync.by_replica)
            executor.attempt(lambda: engine.receive(number, data, executor.now_us()))
            if self.mesh is not None and len(engine.sync.by_replica) != met:
                self._streams_changed()

    def lost(self, stream: Stream) -> None:
        """A stream ended: tell the engine, and seek another."""
        self.enter(partial(self._lost, stream))

    def _lost(self, stream: Stream) -> None:
        if self._streams.pop(stream.number, None) is None:
            return
        interpreter = self._interpreters.pop(stream.number, None)
        if interpreter is not None and interpreter.agreed:
            self.world.sometimes(f"a stream of version {interpreter.agreed}, of two programs")
        executor = self.executor
        if executor is None:
            return
        executor.attempt(lambda: executor.engine.disconnected(stream.number, executor.now_us()))
        peer = stream.peer_name
        if self.executor is executor:
            self._streams_changed()
            if self._seeks(peer) and not self._has_stream(peer):
                self._dial_later(peer)

    def _streams_changed(self) -> None:
        if self.mesh is not None:
            self.mesh.streams_changed()

    def hang_up(self, replicas: Iterable[int]) -> None:
        """End the streams with these replicas."""
        for replica in replicas:
            session = self.engine.sync.by_replica.get(replica)
            stream = None if session is None else self._streams.get(session.peer)
            if stream is not None:
                self._close(stream)

    def datagram(self, source: str, data: bytes) -> None:
        """A datagram came, for the mesh if there is one."""
        if self.mesh is not None:
            self.mesh.datagram(source, data)

    def asked(self, exchange: Exchange, frame: bytes) -> None:
        """A question of another machine's mesh came."""
        assert self.mesh is not None, "only machines with a mesh ask each other"
        self.mesh.asked(exchange, frame)

    def stream_seal(self) -> StreamSeal:
        """Return a fresh seal for a stream that somebody opened for the mesh."""
        assert self.mesh is not None, "only machines with a mesh ask each other"
        return self.mesh.stream_seal(initiator=False)

    def _send(self, effect: Send) -> None:
        stream = self._streams.get(effect.peer)
        if stream is None:
            return
        interpreter = self._interpreters.get(effect.peer)
        stream.send(effect.frame if interpreter is None else interpreter.outgoing(effect.frame))
        if stream.unread_bytes > self.world.config.buffer_bytes:
            self.world.sometimes("a stream dropped for what its peer left untaken")
            self._close(stream)

    def _disconnect(self, effect: Disconnect) -> None:
        stream = self._streams.get(effect.peer)
        if stream is not None:
            if effect.error.details.get("reason") == DUPLICATE:
                self.world.sometimes("two streams crossed")
            self._close(stream)

    def _close(self, stream: Stream) -> None:
        stream.close()
        executor = self.executor
        assert executor is not None
        executor.after(0, partial(self._lost, stream))

    def _drop_streams(self) -> None:
        for stream in list(self._streams.values()):
            self._close(stream)

    def _went_on(self) -> None:
        """The node goes on under a new replica id, in the same process."""
        self.world.sometimes("a node went on under a new id")
        self._watch()
        if self.mesh is not None:
            self.mesh.begin_again()

    # ------------------------------------------------------------------ callers

    def commit(
        self,
        transaction: Transaction,
        answered: Callable[[Any, CrdtmemError | None], None],
        *,
        after: Any = None,
        wait_us: int = 0,
    ) -> None:
        """Ask the node to commit a transaction, as ``Memory.submit`` does."""
        executor = self.executor
        if executor is None:
            answered(None, Overloaded("the node is down"))
            return
        ticket = Ticket(answered)

        def submit() -> None:
            try:
                executor.check_open()
                transaction.seal(executor.engine.limits)
            except CrdtmemError as error:
                ticket.set_exception(error)
                return
            now_us = executor.now_us()
            executor.attempt(
                lambda: executor.engine.submit(
                    ticket, transaction, now_us, after=after, deadline_us=now_us + wait_us
                )
            )

        self.enter(submit)
