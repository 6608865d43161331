"""Real nodes that find each other by ``--join``, sealed with one key ring; and what they say."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from crdtmem.client import Client, connect
from crdtmem.keys import create_ring
from tests.node.processes import NodeProcess
from tests.waiting import wait_until

__all__ = [
    "alarms",
    "ended",
    "joining",
    "members",
    "node_in",
    "put",
    "replica_of",
    "said",
    "sees",
    "value",
]

# Death is seen within: one round of probes, the longest suspicion of a pool of two, news.
DEATH_S = 60.0


def node_in(
    folder: Path, region: str, name: str, ring: Path, *joins: str, listen: str = "127.0.0.1:0"
) -> NodeProcess:
    """Return a node, not started, with a copy of the ring of its own."""
    place = folder / name
    place.mkdir()
    own = place / "ring"
    shutil.copyfile(ring, own)
    own.chmod(0o600)
    return NodeProcess(
        place,
        f"--region={region}",
        f"--node-name={name}",
        f"--keyring={own}",
        *(f"--join={address}" for address in joins),
        "--set=reconnect.minimum_ms=20",
        "--set=reconnect.maximum_ms=200",
        listen=listen,
        sealed=True,
    )


@contextlib.contextmanager
def joining(folder: Path, regions: Sequence[str], *, host: str = "127.0.0.1") -> Iterator[Any]:
    """Yield running nodes; the first founds, the others are told nothing but its address."""
    ring = folder / "ring"
    create_ring(ring)
    first = node_in(folder, regions[0], "n0", ring).start()
    nodes = [first]
    with ended(nodes):
        # The port stays its own: a seed that moves is no seed.
        first.arguments.append(f"--listen={first.ready['listen']}")
        address = f"{host}:{first.ready['listen'].rpartition(':')[2]}"
        for number, region in enumerate(regions[1:], 1):
            nodes.append(node_in(folder, region, f"n{number}", ring, address))
            nodes[-1].launch()
        for node in nodes[1:]:
            node.await_ready()
        yield nodes


@contextlib.contextmanager
def ended(nodes: Sequence[NodeProcess]) -> Iterator[None]:
    """Kill what still runs in the end."""
    try:
        yield
    finally:
        for node in nodes:
            node.kill()


def said(node: NodeProcess, verb: str, *body: Any) -> Any:
    """Ask a node one thing."""

    async def ask(client: Client) -> Any:
        return await client.call(verb, body)

    return _with(node, ask)


def _with(node: NodeProcess, work: Any) -> Any:
    async def run() -> Any:
        async with await connect(node.url, timeout_ms=20_000) as client:
            return await work(client)

    return asyncio.run(run())


def put(node: NodeProcess, key: str, what: Any) -> Any:
    """Write one key; return the context of the write."""

    async def write(client: Client) -> Any:
        return (await client.space("team").put(key, what)).context

    return _with(node, write)


def value(node: NodeProcess, key: str, at_least: Any) -> Any:
    """Read one key, waiting for what is named."""

    async def read(client: Client) -> Any:
        await client.wait_for(at_least, timeout_ms=30_000)
        return await client.space("team").get(key)

    return _with(node, read)


def members(node: NodeProcess) -> dict[str, dict[str, Any]]:
    """Return what a node says of each member, by name."""
    return {row["node"]: row for row in said(node, "members")}


def alarms(node: NodeProcess, name: str) -> list[str]:
    """Return the messages of a node's alarms of that name."""
    found = said(node, "status")["alarms"]
    return [alarm["message"] for alarm in found if alarm["name"] == name]


def replica_of(node: NodeProcess) -> str:
    """Return the replica id that a node said when it was ready."""
    return str(node.ready["replica"])


def sees(node: NodeProcess, **states: str) -> None:
    """Wait until a node sees the members, by their short names, in these states."""

    def seen() -> bool:
        rows = {name.rpartition("/")[2]: row["state"] for name, row in members(node).items()}
        return {name: rows.get(name) for name in states} == states

    wait_until(seen, f"sight of {states}", timeout_s=DEATH_S)
