"""The mesh in a node: finding the others, seeing who is alive, choosing whom to stream with.

Problem: the replica knows members by what they wrote, and streams by their sockets; neither
says where a node is now, or that it died.

Idea: ``gossip.Mesh`` runs beside the engine on the node's own port and key ring. A member's
id is its replica id, its generation the store's count of starts, which is durable before it
is used, and what ``mesh_life`` adds to it. What the mesh finds goes to ``Links``, which decides;
what ``Links`` decides goes to the peers' streams and to the engine. A replica that goes on under
a new id leaves the mesh under the old one and joins it under the new.

Invariants: the mesh changes nothing but streams: membership of the cluster, and everything
that is decided by it, is the epoch's; a mesh that breaks leaves a node that serves, with an
alarm; what the mesh wants remembered is written by the store's own thread, between commits.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any, Final

from crdtmem import __version__
from crdtmem.effects import Alarm
from crdtmem.errors import ConditionFailed, ConfigError
from crdtmem.keys import ring_path, save_ring
from crdtmem.links import MESH_MEMORY, Links
from crdtmem.mesh_life import OwnLife
from crdtmem.settings import Settings, parse_address
from crdtmem.sync_host import PROTOCOL_VERSIONS
from crdtmem.sync_repair import vector_hash
from crdtmem.wall import now_us
from gossip.config import Config
from gossip.driver import Driver, steady_us
from gossip.effects import (
    Annotated,
    Effect,
    KeyringChanged,
    MemberChanged,
    Outlived,
    Remember,
    Warn,
)
from gossip.errors import GossipError, TransportError, UnknownMember
from gossip.keyring import KEYS_MAXIMUM, Keyring
from gossip.members import MemberView
from gossip.mesh import Mesh
from gossip.messages import Profile, Record, State
from gossip.sealing import SESSION_BYTES, Seal
from gossip.stream_seal import SALT_BYTES, StreamSeal
from gossip.transport.sockets import Sockets
from gossip.wire import check_profile

if TYPE_CHECKING:
    from crdtmem.peers import PeerStreams
    from crdtmem.runtime import Runtime

__all__ = ["Meshing"]

_LOOK_S: Final = 0.2
_NOTES_US: Final = 1_000_000
_KEEP_US: Final = 30_000_000
_WATCHED: Final = 1_000
_STRANGE_DATAGRAMS: Final = 10
_STRANGERS_US: Final = 60_000_000
_LONELY_US: Final = 5_000_000
_ANNOTATION_BYTES: Final = 8
_TRIES: Final = 16
_log = logging.getLogger("crdtmem.mesh")


class Meshing:
    """One node's part in the mesh. Belongs to the loop's thread."""

    def __init__(
        self, settings: Settings, runtime: Runtime, peers: PeerStreams, ring: Keyring | None
    ) -> None:
        """``ring`` is ``None`` for plain text, which was asked for."""
        self._settings = settings
        self._runtime = runtime
        self._peers = peers
        self.ring = ring
        self.mesh: Mesh | None = None
        self.driver: Driver | None = None
        self._sockets: Sockets | None = None
        self._links = Links(runtime.engine.replica_id)
        self._forgotten: set[int] = set()
        self._life = OwnLife(runtime)
        self._timer: asyncio.TimerHandle | None = None
        self._again: asyncio.Task[None] | None = None
        self._closing = False
        self._told: Any = None
        self._told_defect = False
        self._notes_us = 0
        self._refused = 0
        self._strangers_us = 0
        self._started_us = 0
        self._lonely = False
        self._stale = False
        self._unkept: bytes | None = None
        self._keep_us = 0
        self._watchers: set[asyncio.Queue[dict[str, Any]]] = set()
        peers.adopter = self._adopt
        peers.on_change = self._streams_changed

    # ------------------------------------------------------------------ life

    async def open(self) -> None:
        """Listen for streams and datagrams at one port. Raises ``ConfigError``."""
        any_port = parse_address(self._settings.listen, lowest_port=0)[1] == 0
        for tries_left in reversed(range(_TRIES)):
            await self._peers.listen()
            try:
                await self._open_datagrams(self._peers.address)
            except TransportError as error:
                await self._peers.unlisten()
                if any_port and tries_left and error.details.get("errno") == errno.EADDRINUSE:
                    continue
                raise ConfigError(
                    f"no datagrams at {self._settings.listen}: {error.args[0]}", hint=error.hint
                ) from error
            return

    async def _open_datagrams(self, address: str) -> None:
        settings = self._settings
        routes = dict(route.split("=", 1) for route in settings.mesh.routes)
        self._sockets = Sockets(self._stream_seal, routes=routes, listen_streams=False)
        self.driver = Driver(self._sockets, on_effect=self._happened, events=0)
        await self.driver.open(address)

    def start(self) -> None:
        """Take part in the mesh, under the replica's id. Raises ``ConfigError``."""
        engine, settings, driver = self._runtime.engine, self._settings, self.driver
        assert driver is not None, "open comes first"
        store = self._runtime.store
        local, wide = settings.mesh.pools(settings.listen)
        self._check_profile(local)
        self._links = Links(engine.replica_id)
        self.mesh = Mesh(
            Record(engine.replica_id, self._life.begin(), 0, self._profile()),
            local,
            wide,
            Random(secrets.randbits(64)),  # noqa: S311 - jitter and turns, not secrets
            Seal(settings.cluster, self.ring, secrets.token_bytes(SESSION_BYTES)),
            store.metadata().get(MESH_MEMORY, b""),
        )
        self._refused, self._told = 0, None
        self._forgotten.clear()
        self._started_us, self._lonely = steady_us(), bool(settings.join)
        driver.start(self.mesh, settings.join)
        self._look()

    def stop_looking(self) -> None:
        """Decide nothing about streams any more: the node is about to stop. What is to be
        remembered is said now, while the store still writes: who leaves is sought by nobody."""
        if not self._closing and self._runs():
            try:
                self.command(lambda mesh, now, wall: mesh.remember(now, wall))
            except Exception:  # noqa: BLE001 - whatever it is, the node ends
                # A mesh that breaks does not keep the node from ending.
                _log.exception("the mesh could not say whom it knows")
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def close(self, *, leave: bool = False) -> None:
        """End it; with ``leave``, say farewell first. Idempotent."""
        self.stop_looking()
        if self._again is not None:
            await asyncio.gather(self._again, return_exceptions=True)
        await self._end(leave=leave)

    async def _end(self, *, leave: bool) -> None:
        """End the driver, whatever its machine makes of that."""
        if self.driver is None:
            return
        try:
            await (self.driver.leave() if leave else self.driver.close())
        except Exception:
            # The farewell is lost: the others will find out by themselves.
            _log.exception("the mesh could not say farewell")
            self._broken()
            if self.driver.defect is None:
                raise
            await self.driver.close()

    def restart(self) -> None:
        """The replica goes on under another id: so does the member."""
        self._restart(leave=True)

    def _restart(self, *, leave: bool) -> None:
        if not self._closing and self.driver is not None:
            start_again = self._start_again(self._again, leave=leave)
            self._again = asyncio.get_running_loop().create_task(start_again)

    async def _start_again(self, before: asyncio.Task[None] | None, *, leave: bool) -> None:
        assert self.driver is not None
        if before is not None:
            await before
        await self._end(leave=leave)
        if self._closing:
            return
        try:
            await self._open_datagrams(self._peers.address)
        except TransportError as error:
            self._alarm("mesh", f"the mesh cannot go on: {error}")
            return
        self.start()

    def _succeed(self, mesh: Mesh, generation: int) -> None:
        """Begin again in a later life, which is durable now."""
        again = self._again is not None and not self._again.done()
        if self.mesh is not mesh or again or not self._runs():
            return
        self._alarm(
            "mesh: outlived",
            f"a copy of this node's store took part under its id, {mesh.me.member:016x}, in a "
            f"later life and is gone; this node goes on in life {generation}",
        )
        self.command(lambda mesh, now, wall: mesh.remember(now, wall))
        # No farewell: it lives on, and nobody is to see it go.
        self._restart(leave=False)

    # ------------------------------------------------------------------ what it is made of

    def _profile(self) -> Profile:
        settings = self._settings
        address = settings.advertise or self._peers.address
        return Profile(
            name=f"{settings.region}/{settings.node_name}",
            region=settings.region,
            gossip_address=address,
            stream_address=address,
            protocols=(min(PROTOCOL_VERSIONS), max(PROTOCOL_VERSIONS)),
            software=__version__,
            keys=() if self.ring is None else self.ring.ids,
        )

    def _check_profile(self, config: Config) -> None:
        """Refuse what could not be told to others, also once the ring is as full as it may be."""
        most = tuple(2**32 - 1 - number for number in range(KEYS_MAXIMUM))
        try:
            check_profile(replace(self._profile(), keys=most), config)
        except GossipError as error:
            raise ConfigError(
                f"what this node would tell others of itself cannot be told: {error.args[0]}",
                hint="advertise a shorter host name, or a number",
            ) from error

    def _stream_seal(self, opener: bool) -> StreamSeal:
        salt = secrets.token_bytes(SALT_BYTES)
        return StreamSeal(
            self._settings.cluster, self.ring, salt, initiator=opener, wall_us=now_us()
        )

    def _adopt(self, transport: asyncio.Transport, received: bytes) -> None:
        if self._sockets is None or self.driver is None or self.driver.closed:
            transport.abort()
            return
        self._sockets.adopt(transport, received)

    # ------------------------------------------------------------------ what it says

    def _happened(self, effect: Effect) -> None:
        match effect:
            case MemberChanged():
                self._members_changed(effect)
            case Annotated(member, annotation):
                self._links.heard(member, annotation, steady_us())
            case Outlived(generation, over):
                self._life.outlived(generation, over=over)
            case Remember(peers):
                self._keep(peers)
            case KeyringChanged(dump):
                self._keep_ring(dump)
            case Warn(name, message, details):
                self._runtime.alarm(Alarm(f"mesh: {name}", message, dict(details)))
                if name == "doubled" and details["member"] == self._runtime.engine.replica_id:
                    self._links.doubled(details["address"], details["other_address"])
                    self._look_soon()
            case _:
                return

    def _members_changed(self, change: MemberChanged) -> None:
        record, previous = change.record, change.previous
        if change.state is State.ALIVE:
            self._lonely = False
        if previous is None or previous != change.state or change.gone:
            state = "forgotten" if change.gone else change.state.name.lower()
            _log.info("%s (%016x) is %s", record.profile.name, record.member, state)
            self._tell_watchers(
                {
                    "node": record.profile.name,
                    "replica": f"{record.member:016x}",
                    "region": record.profile.region,
                    "state": state,
                    "previous": None if previous is None else previous.name.lower(),
                    "generation": record.generation,
                    "time_us": now_us(),
                }
            )
        self._look_soon()

    def _look_soon(self) -> None:
        """Look in the next turn of the loop: many members may change in this one."""
        if not self._stale and not self._closing:
            self._stale = True
            asyncio.get_running_loop().call_soon(self._look)

    def _tell_links(self, mesh: Mesh, views: Sequence[MemberView], at_us: int) -> None:
        wanted: dict[int, str] = {}
        others: dict[int, str] = {}
        left: list[int] = []
        duties = mesh.peers_to_stream()
        for view in views:
            member, address = view.record.member, view.record.profile.stream_address
            if view.state <= State.SUSPECT:
                (wanted if member in duties else others)[member] = address
            elif view.state is State.LEFT:
                left.append(member)
        self._links.members(wanted, others, left, at_us)

    def _keep(self, peers: bytes) -> None:
        store = self._runtime.store
        self._unkept = peers

        def write() -> None:
            store.put_metadata({MESH_MEMORY: peers})
            store.sync()

        def written(_: Any, error: BaseException | None) -> None:
            # A store that fails is mended by whoever writes next; this is tried again then.
            if error is not None:
                _log.info("the mesh's peers could not be kept: %s", error)
            elif self._unkept is peers:
                self._unkept = None

        if not self._runtime.closed and self._runtime.broken is None:
            self._runtime.run_in_store(write, written)

    def _keep_ring(self, dump: bytes) -> None:
        path = ring_path(self._settings)
        if path is not None:
            try:
                save_ring(path, dump)
            except ConfigError as error:
                self._alarm("key ring", str(error))
        self._peers.end_removed_keys()
        mesh, driver = self.mesh, self.driver
        if mesh is not None and driver is not None:
            driver.command(lambda now, wall: mesh.update(self._profile(), now, wall))

    def _alarm(self, name: str, message: str) -> None:
        self._runtime.alarm(Alarm(name, message, {}))

    # ------------------------------------------------------------------ streams

    def _streams_changed(self) -> None:
        self._links.streams(self._runtime.engine.sync.by_replica, steady_us())
        self._look()

    def _look(self) -> None:
        """Do what ``Links`` asks for, and look again when it may ask for more."""
        if self._closing or self.mesh is None or self._broken():
            return
        at_us = steady_us()
        self._annotate(at_us)
        due = at_us >= self._notes_us
        if due or self._stale:
            self._stale = False
            views = self.mesh.members()
            self._tell_links(self.mesh, views, at_us)
            if due and self._runs():
                self._notes_us = at_us + _NOTES_US
                self._exchange_notes(self.mesh, views, at_us)
        look = self._links.look(at_us)
        self._peers.dial(look.dial)
        self._peers.hang_up(look.hang_up)
        if look.compare:
            runtime = self._runtime
            runtime.attempt(lambda: runtime.engine.sync.look_into(look.compare, runtime.now_us()))
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(_LOOK_S, self._look)

    def _runs(self) -> bool:
        return self.mesh is not None and self.driver is not None and not self.driver.closed

    def _broken(self) -> bool:
        """Say once that the mesh stopped on a defect of its own; the streams that are stay."""
        defect = None if self.driver is None else self.driver.defect
        if defect is not None and not self._told_defect:
            self._told_defect = True
            self._alarm("mesh", f"the mesh found a defect of its own and stopped: {defect!r:.300}")
        return defect is not None

    def _exchange_notes(self, mesh: Mesh, views: Sequence[MemberView], at_us: int) -> None:
        """Give the engine the clocks that probes measured; seek the evicted no more."""
        engine = self._runtime.engine
        engine.skew.probed_us = {
            view.record.member: view.clock_offset_us
            for view in views
            if view.state is State.ALIVE and view.clock_offset_us is not None
        }
        living = {view.record.member for view in views if view.state <= State.SUSPECT}
        listed = {view.record.member for view in views}
        gone = engine.epoch.settled.keys() - living
        # Once also whom the mesh lists no more: it would seek them for ever.
        for member in sorted(gone & listed | gone - self._forgotten):
            self._forget(member)
        self._forgotten |= gone

        if self._unkept is not None and at_us >= self._keep_us:
            self._keep_us = at_us + _KEEP_US
            self._keep(self._unkept)
        self._look_for_strangers(mesh, at_us)
        self._life.look(at_us, mesh.me.generation, partial(self._succeed, mesh))

    def _look_for_strangers(self, mesh: Mesh, at_us: int) -> None:
        """Say, at most once a minute, that somebody without a key of ours knocks; and once,
        that nobody answers whom we are to join: each side sees only its own half."""
        sockets = self._sockets
        assert sockets is not None
        refused = sockets.counters["streams dropped: AuthenticationFailed"]
        refused += mesh.counters["datagrams refused: AuthenticationFailed"]
        # Datagrams alone say too little, unless nothing else comes: a stream says who, and why.
        enough = refused - self._refused >= (1 if sockets.refusal else _STRANGE_DATAGRAMS)
        if enough and at_us >= self._strangers_us:
            self._strangers_us = at_us + _STRANGERS_US
            self._alarm(
                "mesh: strangers",
                f"{refused - self._refused} datagrams and streams were refused: of another "
                "cluster, or sealed with a key that this node does not hold; the last stream "
                f"was from {sockets.refusal or 'nobody'}",
            )
            self._refused = refused
        if self._lonely and at_us >= self._started_us + _LONELY_US:
            self._lonely = False
            self._alarm(
                "mesh: alone",
                f"nobody answers at {', '.join(self._settings.join)}: not running, not reachable, "
                "or of another cluster name or key ring, which its log and `crdtmem status` "
                "would tell; this node goes on trying",
            )

    def _forget(self, member: int) -> None:
        # What it never met, or forgot before, the mesh does not know.
        with contextlib.suppress(UnknownMember):
            self.command(lambda mesh, now, wall: mesh.forget(member, now, wall))

    def _annotate(self, at_us: int) -> None:
        """Let probes carry the hash of what is published now."""
        vector = self._runtime.engine.state.vector
        if vector is self._told or self.mesh is None:
            return
        self._told = vector
        annotation = vector_hash(vector)[:_ANNOTATION_BYTES]
        self.mesh.annotate(annotation)
        self._links.own(annotation, at_us)

    # ------------------------------------------------------------------ for operators

    def views(self) -> list[MemberView]:
        """Return everybody else whom the mesh knows."""
        return [] if self.mesh is None else self.mesh.members()

    def watch(self) -> asyncio.Queue[dict[str, Any]]:
        """Return a queue of what becomes of members from now on; of more than a thousand that
        nobody takes the oldest are dropped. To be given to ``unwatch``."""
        queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue(_WATCHED)
        self._watchers.add(queue)
        return queue

    def unwatch(self, queue: asyncio.Queue[dict[str, Any]]) -> None:
        """End what ``watch`` began."""
        self._watchers.discard(queue)

    def _tell_watchers(self, event: dict[str, Any]) -> None:
        for queue in self._watchers:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(event)

    def command(self, run: Callable[[Mesh, int, int], list[Effect] | None]) -> None:
        """Give the mesh a command: ``run(mesh, now_us, wall_us)``. Raises what it raises, and
        ``ConditionFailed`` where it does not run."""
        mesh, driver = self.mesh, self.driver
        if mesh is None or driver is None or driver.closed:
            raise ConditionFailed(
                "the mesh of this node does not run", hint="see its alarms; start the node again"
            )
        driver.command(lambda now, wall: run(mesh, now, wall))
