"""The node: one region's process. Settings in, a replica that serves, a clean end.

Problem: a replica must be reachable by its peers and its clients, tell when it is
ready, survive being killed at any moment, and stop without losing what was asked
of it in the last millisecond.

Idea: a node only composes: settings, a store, a ``Memory`` over its runtime, the
streams to its peers, and the control socket. Everything that decides lives below.

The order of starting is: store (whose lock keeps a second process out), recovery,
control socket, peers, readiness. The order of stopping is the reverse: accept
nothing new, let the flight that is out land, answer those who wait, close the store,
say farewell, close the streams behind what was written to them.

Invariants: the readiness line is printed only when clients and peers can connect;
after a stop the store says that its end was clean; a node whose machine breaks stops
rather than limp on, and says so (see ``Runtime.stop_for``); nothing listens beyond
loopback unless the settings allow it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from crdtmem.admission import Admission, Bounds
from crdtmem.checkpointing import Checkpointer
from crdtmem.control import ControlServer
from crdtmem.control_path import SocketPath, control_path
from crdtmem.control_service import ControlService
from crdtmem.engine import NodeInfo
from crdtmem.keys import ring_path, settle_ring
from crdtmem.memory import Memory
from crdtmem.meshing import Meshing
from crdtmem.node_verbs import node_verbs
from crdtmem.peers import PeerStreams
from crdtmem.pressure import Pressure
from crdtmem.recovery import open_engine
from crdtmem.runtime import Runtime
from crdtmem.settings import Settings
from crdtmem.store import open_store
from crdtmem.sync_host import SyncConfig
from crdtmem.verbs import memory_verbs, quick_verbs
from crdtmem.wall import now_us

__all__ = ["Face", "Node", "node_info", "run_node"]

_log = logging.getLogger("crdtmem.node")
_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class Face(Protocol):
    """A further way in beside the control socket, such as HTTP, handed in by whoever composes.

    It asks the verbs of ``Node.service``, has its part in the order of starting and stopping,
    and ``url`` is told in the readiness line under ``name``.
    """

    @property
    def name(self) -> str:
        """What it is called."""

    @property
    def url(self) -> str:
        """Where it is reached, once it has been started."""

    async def start(self) -> None:
        """Listen. Raises ``ConfigError``."""

    def stop_accepting(self) -> None:
        """Accept no more clients; those that are connected stay."""

    def end_connections(self) -> None:
        """End what streams: clients come back, and are told the new replica id."""

    async def close(self) -> None:
        """Answer what can be answered, and end every connection. Idempotent."""


class Node:
    """A running node. Made by ``Node.start``; ``stopping`` is set when it was asked to end."""

    def __init__(self, settings: Settings, memory: Memory) -> None:
        self.settings = settings
        self.memory = memory
        self.runtime = memory.runtime
        self.stopping = asyncio.Event()
        memory.runtime.on_defect.append(self.stopping.set)
        self.started_at_us = now_us()
        ring, self.ring_is_new = settle_ring(settings)
        self.peers = PeerStreams(settings, memory.runtime, ring)
        self.meshing = Meshing(settings, memory.runtime, self.peers, ring)
        self.admission = Admission(Bounds(**settings.admission.model_dump()))
        memory.admission = self.admission
        self._say_how_it_speaks()
        memory.services.before_restart.append(self.peers.pause)
        memory.services.after_restart.append(self.peers.resume)
        memory.services.after_restart.append(self.meshing.restart)
        self.service = ControlService(
            {**memory_verbs(memory), **node_verbs(self)},
            greeting=self.greeting,
            frame_bytes=settings.limits.frame_bytes,
            quick=quick_verbs(memory),
            admission=self.admission,
        )
        self.control = ControlServer(SocketPath(control_path(settings)), self.service)
        self.pressure = Pressure(self.admission, self.service.sweep)
        # Clients connect again, and are told the new replica id.
        memory.services.after_restart.append(self.service.end_connections)
        self.faces: list[Face] = []

    @classmethod
    async def start(
        cls,
        settings: Settings,
        *,
        found: bool = False,
        tune_gc: bool = True,
        faces: Sequence[Callable[[Node], Face]] = (),
    ) -> Node:
        """Open the store, recover, and serve. Raises ``StoreError``s and ``ConfigError``.

        ``found`` founds a cluster anew of what the store holds: see ``Engine.start``.
        ``faces`` make the further ways in: they lie above, and are handed in.
        """
        store = open_store(settings.store)
        try:
            engine = open_engine(
                store,
                region=settings.region,
                node=node_info(settings),
                limits=settings.limits,
                sync=SyncConfig(credit_bytes=settings.streams.credit_window_bytes),
            )
        except BaseException:
            store.close()
            raise
        runtime = Runtime(engine, store, tune_gc=tune_gc)
        runtime.checkpointer = Checkpointer(
            runtime,
            log_bytes=settings.checkpoints.log_bytes,
            sync_log_bytes=settings.sync_log.budget_bytes,
            retention_us=settings.history.retention_days * 24 * 3_600 * 1_000_000,
        )
        runtime.linger_us = int(settings.group_commit.linger_ms * 1_000)
        node = cls(settings, Memory(runtime))
        try:
            node.pressure.start()
            for make in faces:
                node.add_face(make(node))
            await node.control.start()
            for face in node.faces:
                await face.start()
            await node.meshing.open()
            node.peers.start()
            node.meshing.start()
            runtime.apply(engine.start(runtime.now_us(), found=found))
            runtime.checkpointer.note_written(0)
        except BaseException:
            await node.stop()
            raise
        return node

    async def stop(self) -> None:
        """End cleanly. Idempotent."""
        self.stopping.set()
        self.control.stop_accepting()
        for face in self.faces:
            face.stop_accepting()
        self.peers.stop_accepting()
        self.meshing.stop_looking()
        await self.runtime.close()
        await self.meshing.close(leave=True)
        await self.control.close()
        for face in self.faces:
            await face.close()
        await self.peers.close()
        self.pressure.stop()

    def add_face(self, face: Face) -> None:
        """Take on a further way in, not started yet."""
        self.faces.append(face)
        self.memory.services.after_restart.append(face.end_connections)

    def _say_how_it_speaks(self) -> None:
        """Say at the start what an operator must know about the key ring, or the lack of one."""
        path = ring_path(self.settings)
        if self.settings.mesh.plain_text:
            _log.warning("plain text, as asked: whoever is on the path can read, write and join")
        elif self.ring_is_new and path is not None:
            _log.info("made the key ring %s: give each node a copy, and name it: --keyring", path)
        elif self.ring_is_new:
            _log.info("made a key ring in memory: no other node can join; name one: mesh.keyring")

    def greeting(self) -> dict[str, Any]:
        """Return what a client is told when it connects."""
        limits = self.settings.limits
        return {
            "region": self.memory.region,
            "replica": self.memory.replica_id,
            "node": self.settings.node_name,
            "cluster": self.settings.cluster,
            "pid": os.getpid(),
            "limits": {name: getattr(limits, name) for name in type(limits).__slots__},
        }

    def readiness(self) -> dict[str, Any]:
        """Return what the readiness line says."""
        return {
            "region": self.memory.region,
            "replica": f"{self.memory.replica_id:016x}",
            "listen": self.peers.address,
            "control": f"unix://{self.control.path}",
            **{face.name: face.url for face in self.faces},
            "pid": os.getpid(),
        }


def node_info(settings: Settings) -> NodeInfo:
    """Return what the engine is told of the node that it runs in."""
    return NodeInfo(
        name=settings.node_name,
        cluster=settings.cluster,
        peers=len(settings.peers),
        joins=bool(settings.join),
        address=settings.listen,
        skew_alarm_us=settings.clock.skew_alarm_ms * 1_000,
        flight_deltas=settings.group_commit.flight_deltas,
    )


async def _run(
    settings: Settings,
    announce: Callable[[dict[str, Any]], None],
    *,
    found: bool,
    faces: Sequence[Callable[[Node], Face]],
) -> None:
    node = await Node.start(settings, found=found, faces=faces)
    loop = asyncio.get_running_loop()
    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, node.stopping.set)
    try:
        announce(node.readiness())
        await node.stopping.wait()
        _log.info("stopping")
    finally:
        await node.stop()
    if node.runtime.defect is not None:
        raise node.runtime.defect


def run_node(
    settings: Settings,
    *,
    as_json: bool = False,
    found: bool = False,
    faces: Sequence[Callable[[Node], Face]] = (),
) -> None:
    """Run a node until SIGTERM, SIGINT or the ``stop`` verb; prints when it is ready.

    The line is ``ready region=… replica=… listen=… control=… pid=…`` and each face's url, or
    one JSON object. Raises ``StoreError``s and ``ConfigError`` when it cannot start, and ``Defect``
    when the node stopped itself: the command line then exits with 7.
    """

    def announce(ready: dict[str, Any]) -> None:
        if as_json:
            line = json.dumps({"ready": True, **ready})
        else:
            line = "ready " + " ".join(f"{name}={value}" for name, value in ready.items())
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_run(settings, announce, found=found, faces=faces))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's factory where it is installed: it halves the cost of a small frame."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
