"""The mesh, measured: the rows that ``python -m tests.bench gossip`` prints.

Real processes beside serf's (``gossip_beside``), nodes of crdtmem at rest, and virtual time for
what no machine here could run (``gossip_virtual``; ``dissemination`` for deltas). Where
namespaces cannot be made, the rows of real processes are left out, and the caption says so; where
serf is absent, rows have no peer value.

Targets: detection no slower than serf's and false deaths no more, in the same minutes; an idle
node at most 1 % of a core, idle replication at most 1 KiB/s per peer; virtual pools within what
log n allows.
"""

from __future__ import annotations

import asyncio
import os
import platform
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.bench import dissemination
from tests.bench.gossip_agents import say, serf_is_here
from tests.bench.gossip_beside import Beside, compare
from tests.bench.gossip_plot import plot
from tests.bench.gossip_virtual import false_deaths, measure_size, rows_of_sizes
from tests.bench.report import Row
from tests.capabilities import absence
from tests.end_to_end.namespaces import Network
from tests.end_to_end.placed_nodes import all_alive, running
from tests.waiting import eventually, eventually_answered

__all__ = ["Plan", "run"]

_IDLE_CPU_PERCENT = 1.0
_IDLE_BYTES_PER_S = 1024.0


@dataclass(frozen=True)
class Plan:
    """How much to measure."""

    beside: tuple[Beside, ...] = (
        Beside(3),
        Beside(5),
        Beside(20, kills=5),
        Beside(3, "local", slow_s=30),
        Beside(5, "local", slow_s=30),
    )
    sizes: tuple[int, ...] = (20, 100, 500, 1_000)
    member_hours: float = 20.0
    rest_s: float = 30.0
    small: bool = False
    """Whether the rows of streams, too, are a few small ones."""
    plot: str = ""

    @classmethod
    def quick(cls) -> Plan:
        """A plan that ends in about two minutes: for trying the benchmark, not the program."""
        small = Beside(3, kills=2, payloads=3, rest_s=5, slow_s=10)
        return cls((small,), (20, 100), 1.0, 10.0, small=True)


def run(plan: Plan) -> tuple[list[Row], dict[str, Any]]:
    """Measure, and return the rows and what they were measured on."""
    rows: list[Row] = []
    lacking = absence("namespaces") or absence("nft")
    if lacking:
        say(f"no rows of real processes: {lacking}")
    else:
        for one in plan.beside:
            rows += compare(one)
        rows += _nodes_at_rest(plan.rest_s)
    sizes = [measure_size(members) for members in plan.sizes]
    rows += rows_of_sizes(sizes)
    rows += false_deaths(hours=plan.member_hours / 20)
    say("virtual: streams of deltas")
    rows += dissemination.rows(quick=plan.small)
    if plan.plot:
        plot(sizes, Path(plan.plot))
    return rows, {
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "serf": "beside" if serf_is_here() else "absent",
        "real": lacking or "namespaces",
        "machine": platform.machine(),
        "platform": sys.platform,
    }


def _nodes_at_rest(rest_s: float) -> list[Row]:
    """Return what three idle nodes cost: the profile that they choose by themselves."""
    say("three idle nodes")
    with tempfile.TemporaryDirectory(prefix="cm-", dir="/tmp") as name, Network(3) as network:
        return asyncio.run(_cost(Path(name), network, rest_s))


async def _cost(folder: Path, network: Network, rest_s: float) -> list[Row]:
    async with running(folder, network, ()) as (nodes, clients):
        await eventually_answered(lambda: all_alive(clients), "rest", timeout_s=60)
        settled_s = time.monotonic() + 5
        await eventually(lambda: time.monotonic() > settled_s, "five seconds")
        since_s, before = time.monotonic(), network.octets()
        spent = [psutil.Process(node.pid).cpu_times() for node in nodes]
        await eventually(
            lambda: time.monotonic() - since_s > rest_s, "time at rest", timeout_s=rest_s + 30
        )
        elapsed_s = time.monotonic() - since_s
        now = [psutil.Process(node.pid).cpu_times() for node in nodes]
        cpu = [
            100 * (b.user + b.system - a.user - a.system) / elapsed_s
            for a, b in zip(spent, now, strict=True)
        ]
        octets = [
            (b.sent - a.sent) / elapsed_s / (len(nodes) - 1)
            for a, b in zip(before, network.octets(), strict=True)
        ]
    return [
        Row("idle node, processor", statistics.mean(cpu), "%", "bound", _IDLE_CPU_PERCENT, 1.0),
        Row("idle node, sent per peer", statistics.mean(octets), "B/s", "bound",
            _IDLE_BYTES_PER_S, 1.0),
    ]  # fmt: skip
