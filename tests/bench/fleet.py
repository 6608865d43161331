"""The fleet, measured: three regions under a mixed load, every processor second accounted for.

Problem: three nodes and those who load them seldom have a machine of their own each, so a rate
read off the clock says how many processors were at hand. And a rate at which a backlog grows is
no rate at all.

Idea: three nodes, real processes that find each other by the mesh and seal what they say, each
with a driver process beside it (``fleet_driver``) and one prober over all. The drivers keep to a
pace. Over the window the processor time of each node, user and kernel, is taken from the system;
the load per processor second is what one core per region would carry, since a node here pays for
all that it would pay there: its own clients, and the joins of what the others wrote. The pace
is so chosen that the processors are not all taken, and the backlog, looked at every second, must
be as small at the end as at the beginning.

Afterwards nothing may be lost: every key must hold its last acknowledged value in every region,
the counter that all regions share must be the number of acknowledged writes, and the digests must
be equal.

The targets are the product's: 200,000 updates/s and 500,000 reads/s by three regions together,
one core each, hence a third of that per core, both at once.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil

from crdtmem.batch import SpaceName
from crdtmem.client import Client
from tests.bench.fleet_driver import COUNTER, PER_CALL, SPACE, key_of
from tests.bench.report import Row
from tests.capabilities import ROOT
from tests.node.cluster import clients_of, make_cluster
from tests.node.processes import NodeProcess, start_all
from tests.waiting import eventually_answered, every

__all__ = ["Plan", "run"]

_REGIONS: Final = ("eu-west", "us-east", "ap-south")
_TARGET_UPDATES_PER_S: Final = 200_000 / 3
_TARGET_READS_PER_S: Final = 500_000 / 3
_PROPAGATION_MS: Final = 10.0
_PROBES: Final[SpaceName] = ("probes",)
_PROBE_EVERY_S: Final = 0.05
_SAMPLE_EVERY_S: Final = 1.0
_CALM_UPDATES: Final = 2_000
"""Updates that may be on their way at any moment without being a backlog."""


@dataclass(frozen=True)
class Plan:
    """How much to do. Rates are of all three regions together."""

    seconds: float = 60.0
    updates_per_s: float = 30_000.0
    reads_per_s: float = 75_000.0
    keys_per_region: int = 20_000

    @classmethod
    def quick(cls) -> Plan:
        """A plan that ends in about half a minute."""
        return cls(seconds=8.0, updates_per_s=9_000.0, reads_per_s=22_500.0, keys_per_region=8_000)


@dataclass
class _Window:
    """What was seen of the nodes while the load ran."""

    cpu_s: dict[str, dict[str, float]] = field(default_factory=dict)
    backlog: list[int] = field(default_factory=list)
    rss_bytes: int = 0
    propagation_ms: list[float] = field(default_factory=list)
    probes: int = 0
    seconds: float = 0.0


def run(plan: Plan) -> tuple[list[Row], dict[str, Any]]:
    """Measure, and return the rows and everything else that was found out."""
    with tempfile.TemporaryDirectory(prefix="crdtmem-fleet-") as folder:
        nodes = make_cluster(Path(folder), _REGIONS, sealed=True)
        drivers: list[subprocess.Popen[str]] = []
        try:
            start_all(nodes)
            drivers = [_driver(node, region, plan) for node, region in _pairs(nodes)]
            return asyncio.run(_measure(plan, nodes, drivers))
        finally:
            for driver in drivers:
                driver.kill()
                driver.communicate()
            for node in nodes:
                node.kill()


def _pairs(nodes: list[NodeProcess]) -> list[tuple[NodeProcess, str]]:
    return list(zip(nodes, _REGIONS, strict=True))


def _driver(node: NodeProcess, region: str, plan: Plan) -> subprocess.Popen[str]:
    count = len(_REGIONS)
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "tests.bench.fleet_driver", str(node.socket), region),
            f"--keys={plan.keys_per_region}",
            f"--writes-per-s={plan.updates_per_s / count}",
            f"--reads-per-s={plan.reads_per_s / count}",
            f"--seconds={plan.seconds}",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


async def _measure(
    plan: Plan, nodes: list[NodeProcess], drivers: list[subprocess.Popen[str]]
) -> tuple[list[Row], dict[str, Any]]:
    async with clients_of(nodes) as clients:
        for driver in drivers:
            await asyncio.to_thread(_expect, driver, "filled")
        await eventually_answered(lambda: _agreed(clients), "first agreement", timeout_s=120)
        window = _Window()
        said = await _loaded(plan, nodes, drivers, clients, window)
        began = time.perf_counter()
        digest = await eventually_answered(lambda: _agreed(clients), "agreement", timeout_s=120)
        settled_s = time.perf_counter() - began
        lost = await _lost(clients, said)
    return _report(plan, window, said, {"lost": lost, "digest": digest, "settled_s": settled_s})


def _expect(driver: subprocess.Popen[str], word: str) -> None:
    assert driver.stdout is not None
    line = driver.stdout.readline().strip()
    if line != word:
        raise RuntimeError(f"a driver said {line!r} in place of {word!r}: see its error output")


async def _agreed(clients: list[Client]) -> str:
    """Return the digest that all nodes have, or nothing while they differ."""
    statuses = [await client.call("status", ()) for client in clients]
    digests = {status["digest"] for status in statuses}
    vectors = [dict(status["vector"]) for status in statuses]
    same = len(digests) == 1 and all(vector == vectors[0] for vector in vectors)
    return str(digests.pop()) if same else ""


async def _loaded(
    plan: Plan,
    nodes: list[NodeProcess],
    drivers: list[subprocess.Popen[str]],
    clients: list[Client],
    window: _Window,
) -> list[dict[str, Any]]:
    """Let the drivers run, and watch; return what each driver says at its end."""
    processes = {region: psutil.Process(node.pid) for node, region in _pairs(nodes)}
    before = {region: process.cpu_times() for region, process in processes.items()}
    began = time.perf_counter()
    for driver in drivers:
        assert driver.stdin is not None
        driver.stdin.write("go\n")
        driver.stdin.flush()
    watchers = [
        asyncio.create_task(_watch_backlog(clients, window)),
        asyncio.create_task(_probe(clients, window)),
    ]
    said = await asyncio.gather(*(asyncio.to_thread(_last_words, driver) for driver in drivers))
    window.seconds = time.perf_counter() - began
    for region, process in processes.items():
        after = process.cpu_times()
        window.cpu_s[region] = {
            "user": after.user - before[region].user,
            "kernel": after.system - before[region].system,
        }
        window.rss_bytes = max(window.rss_bytes, process.memory_info().rss)
    for watcher in watchers:
        watcher.cancel()
    for outcome in await asyncio.gather(*watchers, return_exceptions=True):
        if isinstance(outcome, Exception):
            raise outcome
    return list(said)


def _last_words(driver: subprocess.Popen[str]) -> dict[str, Any]:
    assert driver.stdout is not None
    line = driver.stdout.readline()
    if not line:
        raise RuntimeError(f"a driver ended early, with code {driver.wait()}")
    said: dict[str, Any] = json.loads(line)
    return said


async def _watch_backlog(clients: list[Client], window: _Window) -> None:
    """Count, every second, the updates that some node has and another lacks."""
    async for _ in every(_SAMPLE_EVERY_S):
        vectors = [dict((await client.call("status", ()))["vector"]) for client in clients]
        furthest: dict[str, int] = {}
        for vector in vectors:
            for origin, last in vector.items():
                furthest[origin] = max(last, furthest.get(origin, 0))
        window.backlog.append(
            max(
                sum(last - vector.get(origin, 0) for origin, last in furthest.items())
                for vector in vectors
            )
        )


async def _probe(clients: list[Client], window: _Window) -> None:
    """Write small registers, region by region, and time their arrival in the others."""
    sent: dict[str, float] = {}
    feeds = [await client.changes(_PROBES) for client in clients]

    async def listen(index: int) -> None:
        async for change in feeds[index]:
            origin, _, _ = change.key.partition(":")
            if int(origin) != index:
                window.propagation_ms.append((time.perf_counter() - sent[change.key]) * 1e3)

    try:
        async with asyncio.TaskGroup() as group:
            for index in range(len(clients)):
                group.create_task(listen(index))
            async for _ in every(_PROBE_EVERY_S):
                index = window.probes % len(clients)
                key = f"{index}:{window.probes}"
                window.probes += 1
                sent[key] = time.perf_counter()
                # From when its writer was told that it is durable, propagation only gets shorter.
                await clients[index].space(*_PROBES).put(key, 1)
    finally:
        for feed in feeds:
            await feed.close()


async def _lost(clients: list[Client], said: list[dict[str, Any]]) -> int:
    """Count what was acknowledged and is not there, in any region."""
    lost = 0
    expected = sum(one["written"] for one in said)
    for client in clients:
        counted = await client.space(*SPACE).counter(COUNTER).get()
        lost += abs(expected - counted)
        for one in said:
            rows = one["acknowledged"]
            for start in range(0, len(rows), PER_CALL):
                part = rows[start : start + PER_CALL]
                keys = [key_of(one["driver"], number) for number, _ in part]
                found = await client.call("get", (SPACE, keys, None, 0))
                lost += sum(value != wanted for value, (_, wanted) in zip(found, part, strict=True))
    return lost


# ------------------------------------------------------------------ what is printed


def _report(
    plan: Plan, window: _Window, said: list[dict[str, Any]], end: dict[str, Any]
) -> tuple[list[Row], dict[str, Any]]:
    cpu_s = sum(sum(spent.values()) for spent in window.cpu_s.values())
    updates = sum(one["written_in_time"] for one in said)
    reads = sum(one["read"] for one in said)
    propagation = sorted(window.propagation_ms)
    quarter = max(1, len(window.backlog) // 4)
    early = statistics.median(window.backlog[:quarter])
    late = statistics.median(window.backlog[-quarter:])
    extra = {
        "cpu_s": dict(window.cpu_s),
        "reads_beside": reads / updates,
    }
    rows = [
        _per_core(
            "updates, with their share of reads", cpu_s, updates, _TARGET_UPDATES_PER_S, extra
        ),
        _per_core("reads, with their share of updates", cpu_s, reads, _TARGET_READS_PER_S, extra),
        Row("propagation, p50", _share(propagation, 0.50), "ms", "limit", _PROPAGATION_MS),
        Row("propagation, p99", _share(propagation, 0.99), "ms", "limit", _PROPAGATION_MS, 1.0),
        Row("backlog late in the window", late, "updates", "early", max(early, _CALM_UPDATES), 0.5),
        Row("acknowledged updates lost", end["lost"], "updates", "limit", 0, 1.0),
        Row("a transaction of 100, p99", _worst(said, "write_ms"), "ms", "limit", None),
        Row("a read of 100, p99", _worst(said, "read_ms"), "ms", "limit", None),
    ]
    about = {
        "updates_per_s_per_core": round(updates / cpu_s),
        "reads_per_s_per_core": round(reads / cpu_s),
        "propagation_ms": round(_share(propagation, 0.99), 2),
        "lost": end["lost"],
        "digests_equal": bool(end["digest"]),
        "updates_per_s": round(updates / window.seconds),
        "reads_per_s": round(reads / window.seconds),
        "seconds": round(window.seconds, 1),
        "settled_s": round(end["settled_s"], 2),
        "paced_updates_per_s": plan.updates_per_s,
        "reads_without_answer": sum(one["missing"] for one in said),
        "backlog": window.backlog,
        "probes": window.probes,
        "rss_mib": round(window.rss_bytes / 2**20),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }
    return rows, about


def _per_core(
    name: str, cpu_s: float, count: int, target_per_s: float, extra: dict[str, Any]
) -> Row:
    """Return a rate as the processor time of one, which is what more of is worse."""
    more = {"per_core_per_s": round(count / cpu_s), **extra}
    return Row(name, cpu_s / count * 1e6, "µs of a core", "target", 1e6 / target_per_s, 1.0, more)


def _share(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _worst(said: list[dict[str, Any]], name: str) -> float:
    return max(_share(one[name], 0.99) for one in said)
