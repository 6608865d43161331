"""Real nodes, one in each namespace of a network, found by gossip and sealed with one key ring."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final

from crdtmem.client import Client, connect
from crdtmem.keys import create_ring
from tests.end_to_end.namespaces import Network
from tests.end_to_end.talkers import FAST, Talker
from tests.waiting import eventually_answered, wait_until

__all__ = ["PlacedNode", "all_alive", "running"]

REGIONS: Final = ("eu", "eu", "us", "us")
PORT: Final = 7420


class PlacedNode(Talker):
    """``crdtmem node --json`` in a namespace; its control socket is a path, seen from here."""

    def __init__(
        self, network: Network, index: int, folder: Path, constants: Sequence[str]
    ) -> None:
        place = network.places[index]
        self.name = f"n{index}"
        self.socket = folder / f"{self.name}.sock"
        first = f"{network.places[0].host}:{PORT}"
        own = folder / f"{self.name}.keys"
        if not own.exists():
            own.write_bytes((folder / "cluster.keys").read_bytes())
            own.chmod(0o600)
        super().__init__(
            [
                *place.prefix, sys.executable, "-m", "crdtmem", "node", "--json",
                "--region", REGIONS[index], "--node-name", self.name,
                "--store", f"sqlite:///{folder}/{self.name}.db",
                "--control-socket", str(self.socket),
                "--listen", f"{place.host}:{PORT}", "--keyring", str(own),
                *(["--join", first] if index else []),
                "--set", f"mesh.constants={','.join(constants)}",
                "--set", "reconnect.minimum_ms=50", "--set", "reconnect.maximum_ms=500",
            ],
            _ready_line,
        )  # fmt: skip

    def await_ready(self) -> None:
        wait_until(lambda: self.events or not self.runs, f"{self.name} ready", timeout_s=60)
        assert self.events, f"{self.name} ended: {''.join(self.noise)}"


def _ready_line(line: str) -> dict[str, Any] | None:
    return json.loads(line) if line.startswith('{"ready"') else None


@contextlib.asynccontextmanager
async def running(
    folder: Path, network: Network, constants: Sequence[str] = FAST
) -> AsyncIterator[tuple[list[PlacedNode], list[Client]]]:
    """Run a node in each place; yield them and a client of each, once all are one cluster."""
    create_ring(folder / "cluster.keys")
    nodes = []
    async with contextlib.AsyncExitStack() as stack:
        clients = []
        for index in range(len(network.places)):
            node = PlacedNode(network, index, folder, constants)
            stack.callback(node.end)
            nodes.append(node)
            if index == 0:
                node.await_ready()
        for node in nodes:
            node.await_ready()
            client = await connect(f"unix://{node.socket}", timeout_ms=20_000)
            stack.push_async_callback(client.close)
            clients.append(client)
        await eventually_answered(lambda: all_alive(clients), "cluster", timeout_s=60)
        yield nodes, clients


async def all_alive(clients: Sequence[Client]) -> bool:
    """Whether every node sees every node, counted by the cluster, and all hold the same."""
    for client in clients:
        rows = await client.call("members", ())
        alive = [row for row in rows if row["state"] == "alive" and row["member"]]
        if len(alive) != len(clients):
            return False
    statuses = [await client.call("status", ()) for client in clients]
    return len({status["digest"] for status in statuses}) == 1
