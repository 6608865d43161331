"""What an operator asks about the cluster: who is alive, which keys are held, how to go.

Problem: whether a member answers, holds what this node holds, and has the new key is known
in three places: the mesh, the epoch, and the streams.

Idea: a third table of handlers, over the node, that put the three together. What has to come
about at other nodes is waited for, within the client's time, so that a script may go from
one step of a rotation to the next.

============== ============================ ================================================
verb           body                         answer
============== ============================ ================================================
members        nil                          a list of maps, this node first: ``members_of``
member_changes nil                          events: lists of what becomes of members
keyring        nil                          a map: see ``ring_of``
rotate         action, key, timeout_ms      the same map, afterwards, with the key's number;
                                            ``action`` is install (``key`` is bytes, or nil
                                            for a fresh one), use, remove or
                                            remove_compromised (its number)
leave          forced, timeout_ms           a map: who holds all that this node held; the
                                            node ends
============== ============================ ================================================
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from crdtmem import __version__
from crdtmem.asking import Handler, Request
from crdtmem.causality import VersionVector
from crdtmem.errors import ConditionFailed, NotCovered
from crdtmem.keys import KEY_BYTES
from crdtmem.operations import require
from crdtmem.verbs import fields
from gossip.driver import steady_us
from gossip.effects import Effect
from gossip.errors import GossipError
from gossip.keyring import Keyring, key_id
from gossip.members import MemberView
from gossip.mesh import Mesh
from gossip.messages import State

if TYPE_CHECKING:
    from crdtmem.node import Node

__all__ = ["members_of", "mesh_status", "mesh_verbs", "ring_of"]

_LOOK_S: Final = 0.05
_LONGEST_MS: Final = 24 * 3_600_000
_UINT32: Final = 1 << 32
_ACTIONS: Final = ("install", "use", "remove", "remove_compromised")


def mesh_verbs(node: Node) -> Mapping[str, Handler]:
    """Return the handlers, by verb."""
    verbs = _MeshVerbs(node)
    return {
        "members": verbs.members,
        "member_changes": verbs.member_changes,
        "keyring": verbs.keyring,
        "rotate": verbs.rotate,
        "leave": verbs.leave,
    }


class _MeshVerbs:
    """The handlers, over one node."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def members(self, request: Request, body: Any) -> None:
        fields(body, 0, "members")
        request.set_result(members_of(self._node))

    def member_changes(self, request: Request, body: Any) -> None:
        fields(body, 0, "member_changes")
        request.run(self._changes(request))

    async def _changes(self, request: Request) -> None:
        queue = self._node.meshing.watch()
        try:
            await request.emit([])
            while True:
                await request.emit([await queue.get()])
        finally:
            self._node.meshing.unwatch(queue)

    def keyring(self, request: Request, body: Any) -> None:
        fields(body, 0, "keyring")
        request.set_result(ring_of(self._node))

    def rotate(self, request: Request, body: Any) -> None:
        action, key, timeout_ms = fields(body, 3, "rotate")
        named = type(key) is int and 0 <= key < _UINT32
        given = key is None or type(key) is bytes
        require(action in _ACTIONS, "the body of rotate")
        require(given if action == "install" else named, "the body of rotate")
        request.run(self._rotate(action, key, _milliseconds(timeout_ms)))

    async def _rotate(self, action: str, key: Any, timeout_ms: int) -> dict[str, Any]:
        node = self._node
        if action == "install":
            material = secrets.token_bytes(KEY_BYTES) if key is None else key
            _command(node, lambda mesh, now, wall: mesh.install_key(material, now, wall))
            key = key_id(material)
            await _until(lambda: all(key in held for held in _held(node)), timeout_ms)
        elif action == "use":
            _command(node, lambda mesh, now, wall: mesh.use_key(key, now, wall))
            await _until(lambda: all(first == key for first in _sealing(node)), timeout_ms)
        else:
            compromised = action != "remove"
            _command(
                node,
                lambda mesh, now, wall: mesh.remove_key(key, now, wall, compromised=compromised),
            )
            await _until(lambda: all(key not in held for held in _held(node)), timeout_ms)
        return {**ring_of(node), "key": f"{key:08x}"}

    def leave(self, request: Request, body: Any) -> None:
        forced, timeout_ms = fields(body, 2, "leave")
        require(type(forced) is bool, "the body of leave")
        request.run(self._leave(_milliseconds(timeout_ms), forced=forced))

    async def _leave(self, timeout_ms: int, *, forced: bool) -> dict[str, Any]:
        node = self._node
        if not forced:
            await self._hand_over(timeout_ms)
        holders = _holders(node)
        node.stopping.set()
        return {
            "replica": node.readiness()["replica"],
            "node": _name(node),
            "holders": [f"{replica:016x}" for replica in sorted(holders)],
        }

    async def _hand_over(self, timeout_ms: int) -> None:
        """Wait until whoever can be reached has acknowledged all that this node holds."""
        node = self._node
        if not _in_reach(node):
            raise ConditionFailed(
                "no other member can be reached: what only this node holds would go with it",
                hint="wait until one is back, or leave all the same: --forced",
            )

        def handed_over() -> bool:
            reached = _in_reach(node)
            under_way = node.memory.engine.replica.flight is not None
            return bool(reached) and not under_way and reached <= _holders(node)

        if not await _until(handed_over, timeout_ms):
            lacking = ", ".join(f"{one:016x}" for one in _in_reach(node) - _holders(node))
            raise NotCovered(
                f"not acknowledged by all yet: {lacking or 'nobody can be reached'}",
                hint="stop whoever writes here, allow more time, or leave all the same: --forced",
            )


def _milliseconds(number: Any) -> int:
    require(type(number) is int and 0 <= number <= _LONGEST_MS, "a timeout in milliseconds")
    return int(number)


async def _until(condition: Callable[[], bool], timeout_ms: int) -> bool:
    """Wait for something that other nodes do; tells whether it came about."""
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + timeout_ms / 1_000
    while not condition():
        if loop.time() >= deadline_s:
            return False
        await asyncio.sleep(_LOOK_S)
    return True


def _command(node: Node, run: Callable[[Mesh, int, int], list[Effect]]) -> None:
    try:
        node.meshing.command(run)
    except GossipError as error:
        raise ConditionFailed(str(error.args[0]), hint=error.hint) from error


# ------------------------------------------------------------------ who is here


def _live(node: Node) -> list[MemberView]:
    return [view for view in node.meshing.views() if view.state <= State.SUSPECT]


def _held(node: Node) -> list[set[int]]:
    """Return which keys each living member says that it holds."""
    return [set(view.record.profile.keys) for view in _live(node)]


def _sealing(node: Node) -> list[int]:
    """Return which key each living member says that it seals with; 0 for none."""
    return [next(iter(view.record.profile.keys), 0) for view in _live(node)]


def _in_reach(node: Node) -> frozenset[int]:
    """Return the other members of the cluster that are alive, or have a stream with us."""
    alive = {view.record.member for view in _live(node)}
    engine = node.memory.engine
    return (engine.epoch.members & (alive | engine.sync.by_replica.keys())) - {engine.replica_id}


def _holders(node: Node) -> set[int]:
    """Return the other members that acknowledged all that is published here."""
    engine = node.memory.engine
    vector = VersionVector(engine.state.vector)
    others = engine.epoch.members - {engine.replica_id}
    return {member for member in others if engine.epoch.lag(member, vector) == 0}


def _name(node: Node) -> str:
    return f"{node.settings.region}/{node.settings.node_name}"


# ------------------------------------------------------------------ what is told


def members_of(node: Node) -> list[dict[str, Any]]:
    """Return one plain map per member, this node first.

    ``state`` is alive, suspect, dead or left by the mesh, or unknown; ``member`` whether the
    cluster counts it (see ``crdtmem evict``); ``lag`` how many deltas it has not acknowledged
    yet, as far as this node knows. Times are microseconds; what is not known is nil.
    """
    engine, mesh = node.memory.engine, node.meshing.mesh
    own, epoch = engine.replica_id, engine.epoch
    met = {info.replica: info for info in engine.sync.info() if info.replica}
    vector = VersionVector(engine.state.vector)
    views = {view.record.member: view for view in node.meshing.views()}
    rows = [_own_row(node, mesh)]
    known = epoch.members | views.keys()
    for replica in sorted(known - {own}, key=lambda one: _order(one, views, epoch.region_of)):
        view, stream = views.get(replica), met.get(replica)
        row = _row_of(replica, view, mesh)
        if view is None:
            row["region"] = epoch.region_of(replica) if replica in epoch.members else ""
            row["node"] = "" if stream is None else f"{stream.region}/{stream.node}"
        if stream is not None and row["round_trip_us"] is None:
            row["round_trip_us"] = stream.round_trip_us
            row["clock_offset_us"] = stream.clock_offset_us
        row["member"] = replica in epoch.members
        row["lag"] = epoch.lag(replica, vector) if row["member"] else None
        row["stream"] = stream is not None
        rows.append(row)
    return rows


def _order(replica: int, views: Mapping[int, MemberView], region_of: Any) -> tuple[str, str, int]:
    view = views.get(replica)
    if view is None:
        return (str(region_of(replica)), "", replica)
    return (view.record.profile.region, view.record.profile.name, replica)


def _own_row(node: Node, mesh: Mesh | None) -> dict[str, Any]:
    engine, meshing = node.memory.engine, node.meshing
    row = _row_of(engine.replica_id, None, mesh)
    row |= {
        "node": _name(node),
        "region": node.settings.region,
        "state": "alive",
        "here": True,
        "address": node.settings.advertise or node.peers.address,
        "version": __version__,
        "keys": [] if meshing.ring is None else [f"{one:08x}" for one in meshing.ring.ids],
        "member": engine.epoch.is_member,
        "lag": 0,
        "gateway": _gateway(mesh, node.settings.region, engine.replica_id),
    }
    return row


def _row_of(replica: int, view: MemberView | None, mesh: Mesh | None) -> dict[str, Any]:
    """Return what the mesh knows of a member: every key of a row is there."""
    row: dict[str, Any] = {
        "node": "",
        "replica": f"{replica:016x}",
        "region": "",
        "state": "unknown",
        "here": False,
        "member": False,
        "lag": None,
        "stream": False,
        "gateway": None,
        "address": "",
        "version": "",
        "round_trip_us": None,
        "clock_offset_us": None,
        "since_us": None,
        "heard_us": None,
        "degraded": False,
        "damped": False,
        "keys": [],
    }
    if view is not None:
        profile, now_us = view.record.profile, steady_us()
        heard_us = view.last_heard_us
        row |= {
            "node": profile.name,
            "region": profile.region,
            "state": view.state.name.lower(),
            "gateway": _gateway(mesh, profile.region, replica),
            "address": profile.stream_address,
            "version": profile.software,
            "round_trip_us": view.round_trip_us,
            "clock_offset_us": view.clock_offset_us,
            "since_us": max(0, now_us - view.since_us),
            "heard_us": None if heard_us is None else max(0, now_us - heard_us),
            "degraded": view.degraded,
            "damped": view.damped,
            "keys": [f"{one:08x}" for one in profile.keys],
        }
    return row


def _gateway(mesh: Mesh | None, region: str, replica: int) -> str | None:
    elected = () if mesh is None else mesh.gateways(region)
    for place, name in enumerate(("active", "warm")):
        if elected[place : place + 1] == (replica,):
            return name
    return None


def ring_of(node: Node) -> dict[str, Any]:
    """Return which keys there are, and who holds and uses each; never the keys themselves.

    ``missing`` names the living members that do not hold a key, ``sealing`` those that seal
    with it.
    """
    ring: Keyring | None = node.meshing.ring
    views = _live(node)
    primary = None if ring is None else ring.primary
    return {
        "sealed": ring is not None,
        "members": len(views) + 1,
        "keys": [
            {
                "key": f"{key.id:08x}",
                "primary": key is primary,
                "missing": [
                    view.record.profile.name
                    for view in views
                    if key.id not in view.record.profile.keys
                ],
                "sealing": [
                    *([_name(node)] if key is primary else []),
                    *(
                        view.record.profile.name
                        for view in views
                        if view.record.profile.keys[:1] == (key.id,)
                    ),
                ],
            }
            for key in (() if ring is None else ring.live)
        ],
    }


def mesh_status(node: Node) -> dict[str, Any]:
    """Return how the mesh fares: what ``crdtmem status --json`` prints as ``mesh``."""
    mesh, driver = node.meshing.mesh, node.meshing.driver
    views = node.meshing.views()
    states = [view.state.name.lower() for view in views]
    status: dict[str, Any] = {
        "sealed": node.meshing.ring is not None,
        "running": driver is not None and not driver.closed,
        "states": {state.name.lower(): states.count(state.name.lower()) for state in State},
        "gateway": _gateway(mesh, node.settings.region, node.memory.replica_id),
        "lag_us": 0 if driver is None else driver.lag_us,
        "lag_maximum_us": 0 if driver is None else driver.lag_maximum_us,
        "counters": {},
    }
    if mesh is not None and driver is not None:
        status["counters"] = {
            "pools": {tag: counters.as_value() for tag, counters in mesh.pool_counters().items()},
            "mesh": dict(mesh.counters),
            "transport": dict(driver.transport.counters),
            "driver": dict(driver.counters),
        }
    return status
