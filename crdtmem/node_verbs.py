"""What only a node can be asked: how it fares, whether its store is sound, to copy it, to stop.

Problem: an operator sees a node through its control socket alone, also when it is
halted or its disk has failed; and long work must show progress and not stand in
the way of others.

Idea: a second table of handlers, over the node (those about the cluster: ``mesh_verbs``). What
reads the store runs on the
store's own thread, between commits; progress crosses to the client as events.

=========== ========================= ==================================================
verb        body                      answer
=========== ========================= ==================================================
status      nil                       a map: see ``node_status``
peers       nil                       a list of maps, one per configured or connected peer
verify      deep                      events: [done, total]; a map with problems
backup      path                      events: [done, total]; a map with path and bytes
checkpoint  nil                       a map
rescue_list nil                       events: lists of writes set aside; their number
rescue      a list of dots or nil     a map: written, already, failed
evict       replica, forced           true: the eviction is proposed
rejoin      nil                       true: the node goes on under a new id
stop        nil                       true, and the node ends
=========== ========================= ==================================================
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from crdtmem import __version__
from crdtmem.asking import Handler, Request
from crdtmem.batch import GENESIS_HASH, decode_batch
from crdtmem.causality import VersionVector
from crdtmem.crdt import NESTED
from crdtmem.errors import InvalidValue
from crdtmem.mesh_verbs import mesh_status, mesh_verbs
from crdtmem.operations import require
from crdtmem.parts import in_parts
from crdtmem.quotas import usage
from crdtmem.recovery import rederive
from crdtmem.store import Progress
from crdtmem.verbs import fields
from crdtmem.wall import now_us

if TYPE_CHECKING:
    from crdtmem.node import Node

__all__ = ["node_status", "node_verbs"]

_ALARMS_SHOWN: Final = 20
_PROGRESS_PAUSE_S: Final = 0.1
_WRITES_PER_EVENT: Final = 100


def node_verbs(node: Node) -> Mapping[str, Handler]:
    """Return the handlers that need a node, by verb."""
    verbs = _NodeVerbs(node)
    return {
        "status": verbs.status,
        "peers": verbs.peers,
        "verify": verbs.verify,
        "backup": verbs.backup,
        "checkpoint": verbs.checkpoint,
        "rescue_list": verbs.rescue_list,
        "rescue": verbs.rescue,
        "evict": verbs.evict,
        "rejoin": verbs.rejoin,
        "stop": verbs.stop,
        **mesh_verbs(node),
    }


class _NodeVerbs:
    """The handlers, over one node."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def status(self, request: Request, body: Any) -> None:
        fields(body, 0, "status")
        request.run(node_status(self._node))

    def peers(self, request: Request, body: Any) -> None:
        fields(body, 0, "peers")
        request.set_result(self._node.peers.status())

    def stop(self, request: Request, body: Any) -> None:
        fields(body, 0, "stop")
        request.set_result(True)
        self._node.stopping.set()

    def rescue_list(self, request: Request, body: Any) -> None:
        fields(body, 0, "rescue_list")
        request.run(self._rescue_list(request))

    async def _rescue_list(self, request: Request) -> int:
        found = await self._node.memory.set_aside()
        for part in in_parts(map(asdict, found), _WRITES_PER_EVENT):
            await request.emit(part)
        return len(found)

    def rescue(self, request: Request, body: Any) -> None:
        (dots,) = fields(body, 1, "rescue")
        named = type(dots) is tuple and all(type(dot) is str for dot in dots)
        require(dots is None or named, "the body of rescue")
        request.run(self._node.memory.rescue(dots))

    def evict(self, request: Request, body: Any) -> None:
        replica, forced = fields(body, 2, "evict")
        require(type(replica) is int and replica > 0 and type(forced) is bool, "the body of evict")
        request.run(self._evict(replica, forced=forced))

    async def _evict(self, replica: int, *, forced: bool) -> bool:
        await self._node.memory.evict(replica, forced=forced)
        return True

    def rejoin(self, request: Request, body: Any) -> None:
        fields(body, 0, "rejoin")
        request.run(self._rejoin())

    async def _rejoin(self) -> bool:
        await self._node.memory.rejoin()
        return True

    def checkpoint(self, request: Request, body: Any) -> None:
        fields(body, 0, "checkpoint")
        request.run(self._checkpoint())

    async def _checkpoint(self) -> dict[str, Any]:
        checkpointer = self._node.runtime.checkpointer
        assert checkpointer is not None
        await self._node.runtime.perform(checkpointer.checkpoint())
        return {"written": checkpointer.written}

    def verify(self, request: Request, body: Any) -> None:
        (deep,) = fields(body, 1, "verify")
        require(type(deep) is bool, "the body of verify")
        request.run(self._verify(request, deep=deep))

    async def _verify(self, request: Request, *, deep: bool) -> dict[str, Any]:
        runtime = self._node.runtime
        store = runtime.store
        report = await _with_progress(
            request,
            lambda progress: runtime.in_store(
                lambda: store.verify(previous_of=_previous_hash, progress=progress)
            ),
        )
        problems = list(report.problems)
        if deep:
            problems += await self._compare()
        return {
            "sound": not problems,
            "problems": problems,
            "records": report.records,
            "record_bytes": report.record_bytes,
            "markers": report.markers,
            "chunks": report.chunks,
            "quarantined": report.quarantined,
            "deep": deep,
        }

    async def _compare(self) -> list[str]:
        """Derive the state again from the store, and compare its digests with the living one."""
        runtime = self._node.runtime
        async with runtime.quiet():
            again = await runtime.in_store(lambda: rederive(runtime.store))
            living = runtime.engine.replica.state
            problems = []
            if dict(again.vector) != dict(living.vector):
                problems.append("the store leads to another version vector than the one in memory")
            for space in sorted(living.digests.keys() | again.digests.keys()):
                if again.digest_of(space).value() != living.digest_of(space).value():
                    name = "/".join(space)
                    problems.append(f"space {name}: the store leads to other live dots than memory")
        return problems

    def backup(self, request: Request, body: Any) -> None:
        (path,) = fields(body, 1, "backup")
        require(type(path) is str and bool(path), "the body of backup")
        if not os.path.isabs(path):  # noqa: PTH117 - a question about text, not about a file
            raise InvalidValue(
                f"{path!r:.200} is no absolute path",
                hint="the node runs in another folder than you: name the whole path",
            )
        request.run(self._backup(request, path))

    async def _backup(self, request: Request, path: str) -> dict[str, Any]:
        runtime = self._node.runtime
        await _with_progress(
            request,
            lambda progress: runtime.in_store(
                lambda: runtime.store.backup(path, progress=progress)
            ),
        )
        size = await asyncio.to_thread(lambda: Path(path).stat().st_size)
        return {"path": path, "bytes": size}


def _previous_hash(data: bytes) -> bytes | None:
    previous = decode_batch(data, known_fields=NESTED).header.previous_hash
    return None if previous == GENESIS_HASH else previous


async def _with_progress(request: Request, start: Callable[[Progress], Awaitable[Any]]) -> Any:
    """Run work on the store's thread, and send its progress ten times a second at most."""
    latest: list[int] = []

    def note(done: int, total: int) -> None:
        latest[:] = (done, total)

    work = asyncio.ensure_future(start(note))
    try:
        while True:
            done, _ = await asyncio.wait({work}, timeout=_PROGRESS_PAUSE_S)
            if done:
                return work.result()
            if latest:
                await request.emit(list(latest))
    except asyncio.CancelledError:
        # The store's thread cannot be interrupted; it is let finish, and its result dropped.
        work.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        raise


# ------------------------------------------------------------------ status


async def node_status(node: Node) -> dict[str, Any]:
    """Return how a node fares, as plain values: what ``crdtmem status --json`` prints."""
    runtime, engine, settings = node.runtime, node.memory.engine, node.settings
    replica = engine.replica
    state = replica.state
    first, second = state.digest()
    status: dict[str, Any] = {
        **node.readiness(),
        "node": settings.node_name,
        "cluster": settings.cluster,
        "version": __version__,
        "uptime_s": round((now_us() - node.started_at_us) / 1e6, 3),
        "context": str(replica.context),
        "vector": {f"{origin:016x}": last for origin, last in sorted(state.vector.items())},
        "digest": f"{first:016x}{second:016x}",
        "digests": {
            "/".join(space): digest.hex() for space, digest in sorted(state.digests.items())
        },
        "keys": sum(len(table.slots) for table in state.tables.values()),
        "conflicts": len(await node.memory.conflicts()),
        "member": engine.epoch.is_member,
        "members": {
            f"{member:016x}": engine.epoch.region_of(member)
            for member in sorted(engine.epoch.members)
        },
        "lag": {
            f"{member:016x}": engine.epoch.lag(member, VersionVector(state.vector))
            for member in sorted(engine.epoch.members - {replica.identity.replica})
        },
        # Whether a crash of everyone would lose nothing of what is known of the others.
        "acknowledgements_kept": not engine.epoch.has_news and replica.flight is None,
        "peers": node.peers.status(),
        "mesh": mesh_status(node),
        "halted": replica.halted,
        "broken": _broken(node),
        "alarms": [
            {"name": alarm.name, "message": alarm.message}
            for alarm in list(runtime.alarms)[-_ALARMS_SHOWN:]
        ],
        "queues": {**replica.queues(), "subscriptions": len(runtime.subscriptions)},
        "clients": len(node.service.connections),
        "admission": node.admission.status(),
        "quotas": usage(state, replica.quotas),
        "store": {"url": settings.store, "size_bytes": None},
    }
    if runtime.broken is None:
        status["store"]["size_bytes"] = await runtime.in_store(runtime.store.size_bytes)
    return status


def _broken(node: Node) -> dict[str, Any] | None:
    """Say what is wrong with the store: while it is refused, and while commits fail in a row."""
    refused, trouble = node.runtime.broken, node.runtime.mender.trouble
    if refused is None and (trouble is None or trouble.failures < 2):
        return None
    error = refused or trouble.error  # type: ignore[union-attr]
    return {
        "code": error.code,
        "message": error.message,
        "hint": error.hint,
        "since_us": None if trouble is None else trouble.since_us,
        "failures": 0 if trouble is None else trouble.failures,
    }
