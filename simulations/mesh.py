"""The mesh of a simulated machine: the production ``gossip.Mesh``, driven by a heap of events.

Problem: who finds whom, who is held for dead and who streams with whom decides what replicas
ever hear; it must be attacked together with them, by the same faults and from the same seed.

Idea: ``VirtualMesh`` is to ``gossip.Mesh`` what ``gossip.driver`` and ``crdtmem.meshing`` are in
production: it tells the machine the time and what arrives, wakes it, carries its effects out in
order, and lets ``crdtmem.links`` decide on streams. Datagrams and exchanges go through the
world's network. What the mesh wants remembered is metadata of the simulated store; its
generation is the store's count of starts, raised above a life of a copy; its key ring lies beside
the store.

The steady clock of each life begins at a number of its own, so that nothing can pass that mixes
two machines' clocks; the wall clock is the machine's, wrong as it may be.

Invariants: as for machines, everything enters through ``Machine.enter``; nothing of a life goes
on in the next; a timer that is late lets what has arrived be read first; an exchange is
reported once, or its life is over.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any, Final

from crdtmem.effects import Alarm
from crdtmem.links import MESH_MEMORY, MESH_OFFSET, Links, generation_of, offset_bytes
from crdtmem.sync_repair import vector_hash
from gossip.config import LAN, LOCAL, WAN, Config
from gossip.effects import (
    Annotated,
    Answer,
    Deliver,
    Effect,
    KeyringChanged,
    MemberChanged,
    Outlived,
    Remember,
    SendDatagram,
    Warn,
)
from gossip.effects import Exchange as Asked
from gossip.keyring import Keyring
from gossip.mesh import Mesh
from gossip.messages import Profile, Record, State
from gossip.sealing import SESSION_BYTES, Seal
from gossip.stream_seal import SALT_BYTES, StreamSeal
from gossip.succession import Succession
from simulations.exchanges import Exchange
from simulations.kernel import Event

if TYPE_CHECKING:
    from simulations.node import Machine, VirtualExecutor
    from simulations.world import World

__all__ = ["LABEL", "MESHES", "MeshKind", "VirtualMesh", "address_of", "gathered", "name_of"]

LABEL: Final = "simulated"
"""The cluster's label."""

_PORT: Final = ":7946"
_LATE_US: Final = 10_000
_LOOK_US: Final = 200_000
_ANNOTATION_BYTES: Final = 8
_UNREAD: Final = 256
"""How many datagrams wait for a process that stands still: what a socket's buffer holds."""


@dataclass(frozen=True, slots=True)
class MeshKind:
    """How the machines of a world find each other: the two pools' constants; sealed or not.

    ``settled_us``: within this time whatever began before has taken effect on who is alive.
    """

    near: Config
    wide: Config
    settled_us: int
    sealed: bool = False


_SECOND: Final = 1_000_000
_SWIFT_WIDE: Final = replace(
    LAN,
    probe_timeout_us=_SECOND,
    gossip_to_dead_us=15 * _SECOND,
    push_pull_interval_us=15 * _SECOND,
    rejoin_interval_us=5 * _SECOND,
)
"""As quick as the wide area's round trips let it be, so that much happens in a short world."""

_SWIFT: Final = MeshKind(LOCAL, _SWIFT_WIDE, 30 * _SECOND)
_LAN: Final = MeshKind(LAN, WAN, 240 * _SECOND)

MESHES: Final = {
    "swift": _SWIFT,
    "lan": _LAN,
    "swift sealed": replace(_SWIFT, sealed=True),
    "lan sealed": replace(_LAN, sealed=True),
}
"""The kinds of mesh that a plan may name; none is named where machines have static peers."""


def address_of(name: str) -> str:
    """Return the mesh's address of a machine."""
    return name + _PORT


def name_of(address: str) -> str:
    """Return the name of the machine at an address."""
    return address.removesuffix(_PORT)


class VirtualMesh:
    """One life's part in the mesh."""

    def __init__(self, machine: Machine, executor: VirtualExecutor, kind: MeshKind) -> None:
        self.machine = machine
        self.executor = executor
        self.kind = kind
        self.chance = machine.world.kernel.random(f"mesh/{machine.name}/{machine.lives}")
        self.mesh: Mesh
        self.targets: dict[str, int] = {}
        """Whom to have a stream with, by machine, and the replica that is looked for there."""
        self.largest_datagram = 0
        self.delivered = 0
        self.left = False
        self._steady_us = self.chance.randrange(10**12) - machine.world.kernel.now_us
        self._links: Links
        self._timer: Event | None = None
        self._timer_us = 0
        self._catching_up = False
        self._looking = False
        self._look_event: Event | None = None
        self._unread = 0
        self._due: deque[Effect] = deque()
        self._carrying = False
        self._told: Any = None
        self._succession = Succession(Random(self.chance.getrandbits(64)))
        self._make()

    def _make(self) -> None:
        machine, engine, store = self.machine, self.executor.engine, self.machine.store
        assert store is not None, "a mesh belongs to a life with a store"
        self.ring = None
        if self.kind.sealed:
            held, first = machine.ring, machine.world.mesh_key
            self.ring = Keyring.load(held) if held else Keyring([first])
        metadata = store.metadata()
        generation = generation_of(store.boot.boot, metadata)
        self.mesh = Mesh(
            Record(engine.replica_id, generation, 0, self._profile()),
            self.kind.near,
            self.kind.wide,
            Random(self.chance.getrandbits(64)),
            Seal(LABEL, self.ring, self.chance.randbytes(SESSION_BYTES)),
            metadata.get(MESH_MEMORY, b""),
        )
        self.left = False
        self._succession.cancel()
        self._links = Links(engine.replica_id)
        self._told = None

    def _profile(self) -> Profile:
        machine = self.machine
        address = address_of(machine.name)
        return Profile(
            name=machine.calls_itself or machine.name,
            region=machine.region,
            gossip_address=address,
            stream_address=address,
            software="simulated",
            keys=() if self.ring is None else self.ring.ids,
        )

    # ------------------------------------------------------------------ life

    def start(self) -> None:
        """Take part."""
        self.machine.world.meshed(self.machine)
        seeds = [address_of(name) for name in self.machine.seeds]
        self.command(lambda now, wall: self.mesh.start(now, wall, seeds))
        self._look()

    def leave(self) -> None:
        """Say farewell, and be silent."""
        if not self.left:
            self.left = True
            self.machine.world.left(self.machine)
            self._carry_out(self.mesh.leave(self.now_us(), self.machine.clock.now_us()))

    def broadcast(self, payload: bytes) -> None:
        """Tell all members of the own region."""
        if not self.left:
            self.machine.world.broadcast(self.machine, payload)
            self.command(lambda now, wall: self.mesh.broadcast(payload, now, wall))

    def begin_again(self) -> None:
        """The replica goes on under another id: so does the member."""
        self.leave()
        self._make()
        self.start()

    def _outlived(self, generation: int, *, over: bool = True) -> None:
        before_us = self._succession.due_us
        note = self._succession.heard if over else self._succession.heard_of
        note(generation, self.now_us())
        due_us = self._succession.due_us
        if before_us != due_us and due_us is not None:
            at_us = due_us - self._steady_us
            self.machine.world.kernel.at(at_us, self._fire, self._succeed)

    def _succeed(self) -> None:
        """Begin again above a life of one's own id that is over, once that is durable."""
        mesh, store, executor = self.mesh, self.machine.store, self.executor
        generation = self._succession.take(self.now_us(), mesh.me.generation)
        if generation is None or store is None or self.left:
            return
        if executor.closed or executor.broken is not None:
            return

        def write() -> None:
            offset = offset_bytes(generation, store.boot.boot, store.metadata())
            store.put_metadata({MESH_OFFSET: offset})
            store.sync()

        def written(_: Any, error: BaseException | None) -> None:
            if self.mesh is not mesh or self.left:
                return
            if error is not None:
                self._outlived(generation - 1)
                return
            self.machine.world.sometimes("a copy's life was outbid")
            self.machine.world.outlived(self.machine)
            # No farewell: it lives on, and nobody is to see it go.
            self._make()
            self.start()

        self.command(mesh.remember)
        executor.run_in_store(write, written)

    # ------------------------------------------------------------------ time

    def now_us(self) -> int:
        """Return this life's steady clock."""
        return self.machine.world.kernel.now_us + self._steady_us

    def command(self, run: Callable[[int, int], list[Effect]]) -> None:
        """Make one call into the machine, carry out what it asks for, set the timer."""
        self._carry_out(run(self.now_us(), self.machine.clock.now_us()))
        self._set_timer()

    def _set_timer(self) -> None:
        due_us = None if self._catching_up else self.mesh.next_deadline_us()
        if due_us is None:
            return
        if self._timer is not None:
            if self._timer_us <= due_us:
                return
            self._timer.cancel()
        self._timer_us = due_us
        at_us = due_us - self._steady_us
        self._timer = self.machine.world.kernel.at(at_us, self._fire, self._wake)

    def _fire(self, work: Callable[[], None]) -> None:
        if self.machine.mesh is self:
            self.machine.fire(self.executor, work)

    def _wake(self) -> None:
        self._timer = None
        if self.now_us() - self._timer_us > _LATE_US:
            # What has arrived meanwhile is told first: it must not be found missing.
            self._catching_up = True
            self.machine.world.kernel.after(0, self._fire, self._caught_up)
        else:
            self._timeout()

    def _caught_up(self) -> None:
        self._catching_up = False
        self._timeout()

    def _timeout(self) -> None:
        due_us = self.mesh.next_deadline_us()
        if due_us is not None and due_us <= self.now_us():
            self.command(self.mesh.handle_timeout)
        else:
            self._set_timer()

    # ------------------------------------------------------------------ what arrives

    def datagram(self, source: str, data: bytes) -> None:
        """A datagram came; one too many for a process that stands still is dropped."""
        if self.machine.paused:
            self._unread += 1
            if self._unread > _UNREAD:
                return
        self._fire(partial(self._datagram, address_of(source), data))

    def _datagram(self, source: str, data: bytes) -> None:
        self._unread = 0
        self.command(lambda now, wall: self.mesh.receive_datagram(data, source, now, wall))

    def asked(self, exchange: Exchange, frame: bytes) -> None:
        """A question came."""
        self._fire(partial(self._asked, exchange, frame))

    def _asked(self, exchange: Exchange, frame: bytes) -> None:
        answered = False

        def ask(now: int, wall: int) -> list[Effect]:
            nonlocal answered
            effects = self.mesh.receive_stream(exchange, frame, now, wall)
            answered = any(isinstance(effect, Answer) for effect in effects)
            return effects

        self.command(ask)
        if not answered:
            exchange.refuse()

    def stream_seal(self, *, initiator: bool) -> StreamSeal:
        """Return a fresh seal for one stream."""
        return StreamSeal(
            LABEL, self.ring, self.chance.randbytes(SALT_BYTES), initiator=initiator,
            wall_us=self.machine.clock.now_us(),
        )  # fmt: skip

    # ------------------------------------------------------------------ what it asks for

    def _carry_out(self, effects: Sequence[Effect]) -> None:
        self._due.extend(effects)
        if self._carrying:
            return
        self._carrying = True
        try:
            while self._due:
                self.machine.before_effect()
                self._do(self._due.popleft())
        finally:
            self._carrying = False

    def _do(self, effect: Effect) -> None:
        machine, world = self.machine, self.machine.world
        match effect:
            case SendDatagram(address, data):
                self.largest_datagram = max(self.largest_datagram, len(data))
                there = name_of(address)
                if there in world.network.endpoints:
                    world.network.send_datagram(machine.name, there, data)
            case Asked():
                self._ask(effect)
            case Answer(exchange, frame):
                exchange.answer(frame)
            case MemberChanged():
                world.member_changed(machine, effect)
                self._tell_links()
            case Annotated(member, annotation):
                self._links.heard(member, annotation, self.now_us())
                self.look_soon()
            case Outlived(generation, over):
                self._outlived(generation, over=over)
            case Remember(peers):
                self._keep(peers)
            case KeyringChanged(dump):
                machine.ring = dump
                self.command(lambda now, wall: self.mesh.update(self._profile(), now, wall))
            case Warn(name, message, details):
                world.alarmed(machine, Alarm(f"mesh: {name}", message, dict(details)))
                if name == "doubled" and details["member"] == self.mesh.me.member:
                    self._links.doubled(details["address"], details["other_address"])
                    self.look_soon()
            case Deliver():
                self.delivered += 1
                world.delivered(machine, effect)

    def _ask(self, asked: Asked) -> None:
        machine = self.machine
        seal, mesh = self.stream_seal(initiator=True), self.mesh

        def told(answer: bytes | None, refused: bool) -> None:
            self._fire(partial(report, answer, refused))

        def report(answer: bytes | None, refused: bool) -> None:
            if self.mesh is mesh:
                self.command(
                    lambda now, wall: mesh.exchanged(
                        asked.number, answer, now, wall, refused=refused
                    )
                )

        there = name_of(asked.address)
        exchange = Exchange(machine.world.network, machine.name, there, seal, told)
        exchange.begin(asked.frame, asked.timeout_us)

    def _keep(self, peers: bytes) -> None:
        store, executor = self.machine.store, self.executor
        assert store is not None

        def write() -> None:
            store.put_metadata({MESH_MEMORY: peers})
            store.sync()

        if not executor.closed and executor.broken is None:
            # A store that fails is mended by whoever writes next; this is said again then.
            executor.run_in_store(write, lambda *_: None)

    # ------------------------------------------------------------------ streams

    def _tell_links(self) -> None:
        wanted: dict[int, str] = {}
        others: dict[int, str] = {}
        left: list[int] = []
        duties = self.mesh.peers_to_stream()
        for view in self.mesh.members():
            member, address = view.record.member, view.record.profile.stream_address
            if view.state <= State.SUSPECT:
                (wanted if member in duties else others)[member] = address
            elif view.state is State.LEFT:
                left.append(member)
        self._links.members(wanted, others, left, self.now_us())
        self._look()

    def streams_changed(self) -> None:
        """A stream was greeted, or has ended."""
        self._links.streams(self.executor.engine.sync.by_replica, self.now_us())
        self.look_soon()

    def look_soon(self) -> None:
        """Look at what the links ask for, within a fifth of a second."""
        if not self._looking:
            self._looking = True
            self.machine.world.kernel.after(_LOOK_US, self._fire, self._look_now)

    def _look_now(self) -> None:
        self._looking = False
        self._look()

    def _look(self) -> None:
        """Do what ``Links`` asks for, and look again when it may ask for more."""
        if self.left:
            return
        machine, engine, now_us = self.machine, self.executor.engine, self.now_us()
        vector = engine.state.vector
        if vector is not self._told:
            self._told = vector
            annotation = vector_hash(vector)[:_ANNOTATION_BYTES]
            self.mesh.annotate(annotation)
            self._links.own(annotation, now_us)
        look = self._links.look(now_us)
        self.targets = {name_of(address): replica for replica, address in look.dial.items()}
        for name in self.targets:
            if name in machine.world.machines:
                machine.dial(name)
        machine.hang_up(look.hang_up)
        if look.compare:
            self.executor.attempt(
                lambda: engine.sync.look_into(look.compare, self.executor.now_us())
            )
        self._look_later(self._links.next_deadline_us(now_us))

    def _look_later(self, due_us: int | None) -> None:
        if self._look_event is not None:
            self._look_event.cancel()
        if due_us is not None:
            at_us = due_us - self._steady_us
            self._look_event = self.machine.world.kernel.at(at_us, self._fire, self.look_soon)

    def seeks(self, name: str) -> bool:
        """Tell whether a stream to a machine is wanted, and there is none by now."""
        if name not in self.targets:
            return False
        return self.targets[name] not in self.executor.engine.sync.by_replica


def gathered(world: World) -> bool:
    """Tell whether every node holds for alive exactly those that are up, under their ids of now,
    for suspect nobody; those of its region in that region's pool; and in sealed worlds whether
    all have one key ring; and nobody is about to begin another life.
    """
    lives = [machine.mesh for machine in world.up() if machine.mesh is not None]
    members = {life.mesh.me.member: life.mesh.me.generation for life in lives}
    rings = {life.ring.state_hash for life in lives if life.ring is not None}
    claims = [life for life in lives if life._succession.due_us is not None]
    if claims or len(members) < len(lives) or len(rings) > 1:
        return False
    for life in lives:
        living = [view for view in life.mesh.members() if view.state <= State.SUSPECT]
        known = {view.record.member: view.record.generation for view in living}
        known[life.mesh.me.member] = life.mesh.me.generation
        region = life.mesh.me.profile.region
        near = [view for view in living if view.record.profile.region == region]
        if any(view.tier != "local" for view in near):
            return False
        if known != members or any(view.state is State.SUSPECT for view in living):
            return False
    return True
