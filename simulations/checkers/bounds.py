"""Bounds: every queue, window and buffer keeps within its limit.

Problem: what is unbounded is harmless until the day it is not.

Idea: at drawn moments and after every flood of news, the sizes that a node admits to are held
against the limits that it was given: queued and waiting transactions, by number and bytes;
early batches per peer, and their bytes; what one stream has queued; members; known
operation ids; what lies unsent in the network.

Invariants: joins are never bound (their results may exceed limits on siblings).
"""

from __future__ import annotations

from crdtmem.derived import KNOWN_OPERATIONS
from simulations.checkers.base import NowAndThen
from simulations.checkers.mesh_sizes import mesh_sizes
from simulations.node import Machine, Ticket

__all__ = ["Bounds"]


class Bounds(NowAndThen):
    """See the module."""

    name = "bounds"
    about = "every queue, inbox, window and buffer keeps within its limit"
    looks = 0.05

    def look(self, machine: Machine) -> None:
        """Look at one node."""
        sizes = _sizes(machine)
        if machine.mesh is not None:
            sizes |= mesh_sizes(machine.mesh)
        for what, (size, limit) in sizes.items():
            if size > limit:
                raise self.fail(f"{what}: {size}, the limit is {limit}", machine)


def _sizes(machine: Machine) -> dict[str, tuple[int, int]]:
    """Return every size that has a limit, with that."""
    engine, config = machine.engine, machine.world.config
    replica, limits = engine.replica, engine.limits
    queues, inbox = replica.queues(), replica.inbox
    early = max((len(batches) for batches in inbox._waiting.values()), default=0)
    asked = [item for item in replica._queue._items if type(item.ticket) is Ticket]
    # What a replica asks of itself is queued without asking for room.
    own = 64
    sizes = {
        "transactions of callers": (len(asked), limits.queue_transactions),
        "transactions that wait": (
            queues["transactions"] + queues["waiting"],
            limits.queue_transactions + limits.waiters + own,
        ),
        "bytes of transactions that wait": (
            queues["transaction_bytes"],
            limits.queue_bytes + own * limits.batch_bytes,
        ),
        # The one batch that can make progress is always let in.
        "early batches of one origin": (early, limits.early_batches_per_peer + 1),
        "bytes of early batches": (inbox.size, (16 + len(inbox._waiting)) * limits.batch_bytes),
        "members": (len(engine.epoch.members), limits.members),
        "known operation ids": (len(replica.operations.listed()), KNOWN_OPERATIONS),
        "waits for durability": (len(engine.durability), limits.waiters),
    }
    for peer in engine.sync.info():
        most = 2 * config.sync.read_bytes + 4 * limits.batch_bytes
        sizes[f"bytes queued for {peer.node}"] = (peer.queued_bytes, most)
    for stream in machine.world.network.streams.values():
        if stream.owner_name == machine.name:
            most = config.buffer_bytes + limits.frame_bytes
            sizes[f"bytes unsent to {stream.peer_name}"] = (stream.unread_bytes, most)
    return sizes
