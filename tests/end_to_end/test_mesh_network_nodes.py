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
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from crdtmem.client import Client
from tests.capabilities import needs
from tests.end_to_end.namespaces import Meter, Network
from tests.end_to_end.placed_nodes import all_alive, running
from tests.waiting import eventually, eventually_answered

needs("namespaces", "nft")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

HEALED_S: Final = 20.0
HEALING_BYTES_PER_S: Final = 128 * 1024
IDLE_BYTES_PER_S: Final = 1024
WINDOW_S: Final = 2.0


async def states(client: Client) -> dict[str, str]:
    """Return what a node says of each member."""
    return {row["node"]: row["state"] for row in await client.call("members", ())}


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
    meter.look(last=True)
    return meter


def test_both_sides_of_a_cut_stay_writable_and_agree_after_it(tmp_path: Path) -> None:
    async def story() -> None:
        with Network(4) as network:
            async with running(tmp_path, network) as (_, clients):
                places = network.places
                network.split(places[:2], places[2:])

                async def apart() -> bool:
                    west, east = await states(clients[0]), await states(clients[3])
                    return [west[f"us/n{n}"] in ("suspect", "dead") for n in (2, 3)] == [
                        True
                    ] * 2 and [east[f"eu/n{n}"] in ("suspect", "dead") for n in (0, 1)] == [
                        True
                    ] * 2

                await eventually_answered(apart, "noticing of the cut", timeout_s=90)
                await write(clients[0], "west")
                await write(clients[3], "east")
                over_s = time.monotonic() + 10 * WINDOW_S
                await eventually(lambda: time.monotonic() > over_s, "end of the cut", timeout_s=60)
                meter = await heals(network, clients)
                seen = [await values(client) for client in clients]
                assert seen == [seen[0]] * 4
                assert seen[0][0] == 100
                assert seen[0][2:] == (49, 49)
                assert 0 < meter.most < HEALING_BYTES_PER_S

    asyncio.run(story())


def test_replication_at_rest_costs_next_to_nothing(tmp_path: Path) -> None:
    async def story() -> None:
        with Network(3) as network:
            async with running(tmp_path, network, ()) as (_, clients):
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
