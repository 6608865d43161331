"""Several real nodes that name each other."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from crdtmem.client import Client, connect
from crdtmem.keys import create_ring
from tests.node.processes import NodeProcess

__all__ = ["clients_of", "converge", "free_ports", "make_cluster"]


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def make_cluster(
    folder: Path,
    regions: Sequence[str],
    *arguments: str,
    dialling: str = "all",
    sealed: bool = False,
) -> list[NodeProcess]:
    """Return nodes, not yet started. ``dialling``: everybody dials ``all``, or ``later`` ones.

    ``sealed``: they share a key ring; else they speak plain text.
    """
    if sealed:
        create_ring(folder / "ring")
        arguments = (f"--keyring={folder / 'ring'}", *arguments)
    addresses = [f"127.0.0.1:{port}" for port in free_ports(len(regions))]
    nodes = []
    for index, region in enumerate(regions):
        place = folder / region
        place.mkdir()
        peers = [
            f"--peer={address}"
            for other, address in enumerate(addresses)
            if other != index and (dialling == "all" or other > index)
        ]
        quick = ("--set=reconnect.minimum_ms=20", "--set=reconnect.maximum_ms=200")
        nodes.append(
            NodeProcess(
                place,
                f"--region={region}",
                *peers,
                *quick,
                *arguments,
                listen=addresses[index],
                sealed=sealed,
            )
        )
    return nodes


@contextlib.asynccontextmanager
async def clients_of(nodes: Sequence[NodeProcess]) -> AsyncIterator[list[Client]]:
    """Yield a client of each node."""
    clients = [await connect(node.url, timeout_ms=20_000) for node in nodes]
    try:
        yield clients
    finally:
        for client in clients:
            await client.close()


async def converge(clients: Sequence[Client]) -> str:
    """Wait until all have joined what any has; return their one digest."""
    digests: set[str] = set()
    for _ in range(10):
        context = await clients[0].joined()
        for client in clients[1:]:
            context = context.merge(await client.joined())
        await asyncio.gather(*(client.wait_for(context, timeout_ms=20_000) for client in clients))
        statuses = [await client.call("status", ()) for client in clients]
        # What a node writes by itself (an admission, a collection) may have come in between.
        digests = {status["digest"] for status in statuses}
        if len(digests) == 1:
            return digests.pop()
    raise AssertionError(f"equal contexts, but digests {digests}")
