"""Real nodes of two regions on a real network that is cut in two: both sides stay writable.

What is looked at is what users have: writes on both sides while the cut lasts, and equal digests
and memberships afterwards. Stated bounds:

- within ``HEALED_S`` of healing, every node sees every node alive, holds every write of both
  sides, and all have one digest;
- no node sends more than ``HEALING_BYTES_PER_S`` in any second of that, Ethernet's headers
  included (what was written meanwhile is small: it is the mesh and the greetings that count);
- at rest, replication costs at most ``IDLE_BYTES_PER_S`` per node and peer.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from crdtmem.client import Client, connect
from crdtmem.keys import create_ring
from tests.capabilities import needs
from tests.end_to_end.namespaces import Meter, Network
from tests.end_to_end.talkers import FAST, Talker
from tests.waiting import eventually, eventually_answered, wait_until

needs("namespaces", "nft")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

HEALED_S: Final = 20.0
HEALING_BYTES_PER_S: Final = 128 * 1024
IDLE_BYTES_PER_S: Final = 1024
WINDOW_S: Final = 2.0
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
) -> AsyncIterator[list[Client]]:
    """Run a node in each place; yield a client of each, once all are one cluster."""
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
        yield clients


async def states(client: Client) -> dict[str, str]:
    """Return what a node says of each member."""
    return {row["node"]: row["state"] for row in await client.call("members", ())}


async def all_alive(clients: Sequence[Client]) -> bool:
    """Whether every node sees every node, counted by the cluster, and all hold the same."""
    for client in clients:
        rows = await client.call("members", ())
        alive = [row for row in rows if row["state"] == "alive" and row["member"]]
        if len(alive) != len(clients):
            return False
    statuses = [await client.call("status", ()) for client in clients]
    return len({status["digest"] for status in statuses}) == 1


async def write(client: Client, label: str, count: int = 50) -> None:
    """Write what both sides contest, and what only this one says."""
    space = client.session(author=label).space("shared")
    for number in range(count):
        await space.put(f"{label}-{number}", number)
        await space.put("contested", f"{label}-{number}")
        await space.counter("writes").increment()


async def values(client: Client) -> Any:
    """Return what all nodes must come to agree on."""
    space = client.space("shared")
    writes = await space.counter("writes").get()
    return (
        writes,
        await space.get("contested"),
        await space.get("west-49"),
        await space.get("east-49"),
    )


async def heals(network: Network, clients: Sequence[Client]) -> Meter:
    """Heal, and wait for one cluster within the stated bound."""
    meter = Meter(network)
    network.heal()

    async def healed() -> bool:
        meter.look()
        return await all_alive(clients)

    await eventually_answered(healed, "cluster that is one again", timeout_s=HEALED_S)
    return meter


def test_both_sides_of_a_cut_stay_writable_and_agree_after_it(tmp_path: Path) -> None:
    async def story() -> None:
        with Network(4) as network:
            async with running(tmp_path, network) as clients:
                places = network.places
                network.split(places[:2], places[2:])

                async def apart() -> bool:
                    west, east = await states(clients[0]), await states(clients[3])
                    return [west[f"us/n{n}"] in ("suspect", "dead") for n in (2, 3)] == [
                        True
                    ] * 2 and [east[f"eu/n{n}"] in ("suspect", "dead") for n in (0, 1)] == [
                        True
                    ] * 2

                await eventually_answered(apart, "noticing of the cut", timeout_s=40)
                await write(clients[0], "west")
                await write(clients[3], "east")
                over_s = time.monotonic() + 10 * WINDOW_S
                await eventually(lambda: time.monotonic() > over_s, "end of the cut", timeout_s=60)
                meter = await heals(network, clients)
                seen = [await values(client) for client in clients]
                assert seen == [seen[0]] * 4
                assert seen[0][0] == 100
                assert seen[0][2:] == (49, 49)
                assert meter.most < HEALING_BYTES_PER_S

    asyncio.run(story())


def test_replication_at_rest_costs_next_to_nothing(tmp_path: Path) -> None:
    async def story() -> None:
        with Network(3) as network:
            async with running(tmp_path, network, ()) as clients:
                await write(clients[0], "west", 10)
                await eventually_answered(lambda: all_alive(clients), "rest", timeout_s=30)
                before, since_s = network.octets(), time.monotonic()
                await eventually(
                    lambda: time.monotonic() - since_s > 10, "ten seconds", timeout_s=30
                )
                elapsed_s = time.monotonic() - since_s
                for was, now in zip(before, network.octets(), strict=True):
                    peers = len(network.places) - 1
                    assert (now.sent - was.sent) / elapsed_s / peers < IDLE_BYTES_PER_S

    asyncio.run(story())
