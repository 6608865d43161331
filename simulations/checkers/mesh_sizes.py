"""The sizes of a mesh that have limits: see ``bounds``.

Problem: whatever is learnt from the network must not let a node grow.

Idea: tables, queues, exchanges under way, sessions and regions, each with its limit, as read
from the production objects.

Invariants: nothing is counted twice; a limit is the production constant or configuration.
"""

from __future__ import annotations

from gossip.members import GONE_PER_MEMBER
from gossip.mesh import Mesh
from gossip.swim import Swim
from simulations.mesh import VirtualMesh

__all__ = ["mesh_sizes"]

_SLOTS_PER_MEMBER = 2 + GONE_PER_MEMBER


def mesh_sizes(life: VirtualMesh) -> dict[str, tuple[int, int]]:
    """Return every size of a mesh that has a limit, with that."""
    mesh = life.mesh
    sizes: dict[str, tuple[int, int]] = {}
    for pool in (mesh._local, mesh._wide):
        if pool is not None:
            sizes.update(_pool_sizes(pool))
    config = mesh._local._pool.config
    sizes["bytes of a datagram"] = (life.largest_datagram, config.packet_bytes)
    sizes["sessions of the seal"] = (mesh._seal.sessions, mesh._seal._most)
    sizes["members of other regions"] = (_elsewhere(mesh), config.members)
    return sizes


def _pool_sizes(swim: Swim) -> dict[str, tuple[int, int]]:
    pool, config = swim._pool, swim._pool.config
    tag, table = pool.tag, pool.table
    living = table.count - 1
    return {
        f"living members of {tag}": (living, config.members),
        f"dead and gone of {tag}": (len(list(table)) - living, GONE_PER_MEMBER * config.members),
        f"slots in the queue of {tag}": (
            len(pool.queue._news),
            _SLOTS_PER_MEMBER * config.members,
        ),
        f"bytes queued for users in {tag}": (pool.queue.octets, config.user_queue_bytes),
        f"exchanges of {tag}": (len(swim._exchanges), config.exchanges),
        f"warnings remembered in {tag}": (len(pool._warned), 256),
    }


def _elsewhere(mesh: Mesh) -> int:
    return len(mesh._regions.rows())
