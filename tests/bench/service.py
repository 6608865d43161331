"""A node as a service, beside redis-server in the same run: what a caller of it pays, and waits.

One node on one core, whoever loads it on the other; Redis in its place by turns, loaded by its
own redis-benchmark, with the same number of clients, the same pipelines, the same number of
keys, their data on the same disk. Reads are held against pipelined ``GET``, durable writes
against pipelined ``SET`` with ``appendonly yes, appendfsync always``: both answer when the disk
has the write, and both let many writes share one sync.

Each figure says what bounds it: the node's processor (and how much of that is the kernel's),
the load generator's, others who use this machine, or neither, which is the disk or the turn
of the other clients. On a machine that is shared, wall times tell of the others
(``others_busy`` processors); ``cpu``, µs of the service's processor per operation, tells of
the service, though others make it larger, too, by what they do to the caches.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from crdtmem.synchronous import SyncMemory
from tests.bench.clocks import pin
from tests.bench.report import Row
from tests.bench.service_load import Load, Seen
from tests.bench.service_overload import overload_rows
from tests.bench.service_peers import (
    Answered,
    Service,
    a_node,
    a_redis,
    redis_benchmark,
    require_redis,
)
from tests.bench.service_reconnect import reconnect_rows
from tests.bench.service_requests import BATCH, SPACE, VALUE, Loads, key_of
from tests.capabilities import ROOT

__all__ = ["Plan", "run"]

CLIENTS: Final = 50
LATENCY_LIMIT_MS: Final = 1.0
SINGLE_LIMIT_US: Final = 1e6 / 200_000
HTTP_LIMIT_US: Final = 1e6 / 4_000
_BUSY: Final = 0.9
_DISTURBED: Final = 0.3
"""Processors that others take, from which on a figure says more about them."""


@dataclass(frozen=True)
class Plan:
    """How much to measure."""

    rounds: int = 3
    seconds: float = 2.0
    keys: int = 100_000
    crowds: tuple[int, ...] = (1, 10, 50)
    saturating: int = 200
    directory: str = ""
    node_core: int = 0
    load_core: int = 1

    @classmethod
    def quick(cls, directory: str) -> Plan:
        """A plan that ends in half a minute: for trying the benchmark, not the program."""
        return cls(rounds=1, seconds=0.5, keys=10_000, directory=directory)


@dataclass
class Figures:
    """What the rounds gave for one load, by name."""

    found: dict[str, list[float]] = field(default_factory=dict)

    def add(self, **figures: float) -> None:
        """Add what one round gave."""
        for name, value in figures.items():
            self.found.setdefault(name, []).append(value)

    def of(self, name: str) -> float:
        """Return the median."""
        return statistics.median(self.found[name])


Measured = Callable[[Figures], None]
"""Measures something once, and adds what it found."""


def say(text: str) -> None:
    """Tell whoever waits how far it is."""
    print(text, file=sys.stderr, flush=True)


# ------------------------------------------------------------------ measuring


class Bench:
    """Drives both services, and keeps what came of it."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.rows: list[Row] = []

    def drive(self, load: Load, node: Service, figures: Figures) -> Seen:
        """Carry out a load in a process of its own, on the other core."""
        node.reset()
        done = subprocess.run(
            [sys.executable, "-m", "tests.bench.service_load", str(self.plan.load_core)],
            input=load.to_json(),
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"the load generator failed:\n{done.stderr[-4_000:]}")
        seen = Seen.from_json(done.stdout)
        used = node.used()
        # What the warm-up used is in it; so are its operations.
        per_operation = 1e6 / (seen.operations + seen.before)
        figures.add(
            us=1e6 * seen.seconds / seen.operations,
            p50_ms=seen.p50_ms,
            p99_ms=seen.p99_ms,
            errors=seen.errors,
            user_us=used.user_s * per_operation,
            system_us=used.system_s * per_operation,
            load_busy=seen.cpu_s / seen.seconds,
            others=(seen.machine_s - seen.cpu_s) / seen.seconds
            - used.total_s * per_operation * seen.operations / 1e6 / seen.seconds,
        )
        return seen

    def drive_redis(
        self, redis: Service, test: str, figures: Figures, *, clients: int, pipeline: int
    ) -> None:
        """Let redis-benchmark do the same, for about as long."""
        plan = self.plan

        def measure(requests: int) -> Answered:
            return redis_benchmark(
                redis,
                plan.load_core,
                test,
                clients=clients,
                pipeline=pipeline,
                requests=requests,
                keys=plan.keys,
            )

        tried = measure(max(2_000, 20 * clients * pipeline))
        redis.reset()
        requests = max(2_000, int(tried.per_s * plan.seconds))
        answered = measure(requests)
        used = redis.used()
        figures.add(
            us=1e6 / answered.per_s,
            p50_ms=answered.p50_ms,
            p99_ms=answered.p99_ms,
            user_us=used.user_s / requests * 1e6,
            system_us=used.system_s / requests * 1e6,
        )

    def ours(self, load: Load, node: Service) -> Measured:
        """Return what measures a node under a load, once for each call."""

        def measure(figures: Figures) -> None:
            self.drive(load, node, figures)

        return measure

    def theirs(self, redis: Service, test: str, *, clients: int, pipeline: int) -> Measured:
        """Return what measures Redis, once for each call."""

        def measure(figures: Figures) -> None:
            self.drive_redis(redis, test, figures, clients=clients, pipeline=pipeline)

        return measure

    def rounds(
        self,
        what: str,
        ours: Measured,
        theirs: Measured | None = None,
    ) -> tuple[Figures, Figures]:
        """Measure both by turns."""
        mine, other = Figures(), Figures()
        for number in range(self.plan.rounds):
            say(f"{what}: round {number + 1} of {self.plan.rounds}")
            if theirs is not None:
                theirs(other)
            ours(mine)
        return mine, other

    def throughput(
        self, name: str, figures: Figures, peer: str, peer_us: float, target: float | None,
        other: Figures | None = None,
    ) -> None:  # fmt: skip
        """Add a row of time per operation."""
        value = figures.of("us")
        extra = {"per_s": round(1e6 / value), **_cost(figures)}
        if other is not None:
            peer_cpu = other.of("user_us") + other.of("system_us")
            extra |= {"peer_per_s": round(1e6 / peer_us), "peer_cpu": round(peer_cpu, 3)}
            extra["cpu_ratio"] = round(peer_cpu / extra["cpu"], 3)
        self.rows.append(Row(name, value, "µs/op", peer, peer_us, target, extra))

    def latency(self, name: str, figures: Figures, other: Figures | None, limit_ms: float) -> None:
        """Add rows of waiting times; a limit of 0 is none."""
        for what in ("p50", "p99"):
            value = figures.of(f"{what}_ms")
            peer_ms = None if other is None else other.of(f"{what}_ms")
            peer = "redis" if other is not None else "-"
            self.rows.append(
                Row(f"{name}, {what}", value, "ms", peer, peer_ms, extra=_cost(figures))
            )
        if limit_ms:
            value = figures.of("p99_ms")
            self.rows.append(Row(f"{name}, p99", value, "ms", "limit", limit_ms, 1.0))


def _cost(figures: Figures) -> dict[str, Any]:
    """Return the processor time per operation, and what bounds the figure."""
    user_us, system_us, us = figures.of("user_us"), figures.of("system_us"), figures.of("us")
    cpu_us = user_us + system_us
    node_busy, load_busy = cpu_us / us, figures.of("load_busy")
    kernel = f"{system_us / cpu_us:.0%} of it the kernel's" if cpu_us else ""
    if node_busy >= _BUSY:
        bound = f"the node's processor, {kernel}"
    elif load_busy >= _BUSY:
        bound = "the load generator's processor"
    elif figures.of("others") >= _DISTURBED:
        bound = "the processors, which others use"
    else:
        bound = "waiting, for the disk or for each other"
    return {
        "cpu": round(cpu_us, 3),
        "node_busy": round(node_busy, 2),
        "load_busy": round(load_busy, 2),
        "others_busy": round(figures.of("others"), 2),
        "bound": bound,
    }


def run(plan: Plan) -> tuple[list[Row], dict[str, Any]]:
    """Measure everything; returns the rows, and what they were measured on."""
    require_redis()
    # The machine's own tool runs where the load does, away from the service.
    pin(plan.load_core)
    bench = Bench(plan)
    with tempfile.TemporaryDirectory(dir=plan.directory or None, prefix="crdtmem-bench-") as made:
        directory = Path(made)
        for name in ("node", "quick", "durable"):
            (directory / name).mkdir()
        core = plan.node_core
        with (
            a_node(directory / "node", core) as node,
            a_redis(directory / "quick", core, durable=False) as quick,
            a_redis(directory / "durable", core, durable=True) as durable,
        ):
            loads = Loads(node, keys=plan.keys, seconds=plan.seconds)
            fill(bench, node, quick)
            batches(bench, loads, node, quick, durable)
            crowds(bench, loads, node, quick, durable)
            over_http(bench, loads, node)
            saturation(bench, loads, node)
            say("coming back")
            processes = 2 * plan.rounds + 1
            for name, url in (("unix", f"unix://{node.address}"), ("web", f"http://{node.http}")):
                bench.rows += reconnect_rows(url, name, processes=processes)
            say("overload")
            seconds = 2 * plan.seconds
            bench.rows += overload_rows(Path(node.address), node.pid, seconds=seconds)
    return bench.rows, about(plan)


def fill(bench: Bench, node: Service, quick: Service) -> None:
    """Let both hold all keys."""
    keys = bench.plan.keys
    with SyncMemory.connect(f"unix://{node.address}") as memory:
        for at in range(0, keys, 1_000):
            items = {key_of(number): VALUE for number in range(at, min(at + 1_000, keys))}
            with memory.transaction() as transaction:
                transaction.put_many(SPACE, items)
    redis_benchmark(
        quick, bench.plan.load_core, "set", clients=8, pipeline=64, requests=8 * keys, keys=keys
    )


def batches(bench: Bench, loads: Loads, node: Service, quick: Service, durable: Service) -> None:
    """Measure what is pipelined."""
    get = bench.theirs(quick, "get", clients=CLIENTS, pipeline=BATCH)
    put = bench.theirs(durable, "set", clients=CLIENTS, pipeline=BATCH)
    name = f"read, batches of {BATCH}"
    ours, theirs = bench.rounds(name, bench.ours(loads.reads(CLIENTS), node), get)
    bench.throughput(name, ours, f"GET -P {BATCH}", theirs.of("us"), 0.6, theirs)
    name = f"durable write, batches of {BATCH}"
    ours, synced = bench.rounds(name, bench.ours(loads.writes(CLIENTS), node), put)
    bench.throughput(name, ours, f"SET -P {BATCH}, fsync", synced.of("us"), 0.4, synced)
    name = f"read, frames of one, {BATCH} in flight"
    ours, _ = bench.rounds(name, bench.ours(loads.frames_of_one(CLIENTS), node))
    bench.throughput(name, ours, "limit", SINGLE_LIMIT_US, 1.0)
    bench.throughput(name, ours, f"GET -P {BATCH}", theirs.of("us"), None, theirs)
    name = f"read over WebSocket, batches of {BATCH}"
    ours, _ = bench.rounds(name, bench.ours(loads.websocket_reads(CLIENTS), node))
    bench.throughput(name, ours, f"GET -P {BATCH}", theirs.of("us"), None, theirs)


def crowds(bench: Bench, loads: Loads, node: Service, quick: Service, durable: Service) -> None:
    """Measure who waits for each answer, in crowds of several sizes."""
    for clients in bench.plan.crowds:
        limit_ms = LATENCY_LIMIT_MS if clients == CLIENTS else 0
        for what, load, redis, test, allowed_ms in (
            ("read", loads.single_reads(clients), quick, "get", limit_ms),
            ("durable write", loads.single_writes(clients), durable, "set", 0),
        ):
            name = f"{what}, one at a time, {clients} clients"
            theirs = bench.theirs(redis, test, clients=clients, pipeline=1)
            found, other = bench.rounds(name, bench.ours(load, node), theirs)
            bench.latency(name, found, other, allowed_ms)


def over_http(bench: Bench, loads: Loads, node: Service) -> None:
    """Measure single operations over HTTP."""
    for method, what in (("GET", "read"), ("PUT", "durable write")):
        for clients in bench.plan.crowds:
            name = f"HTTP {what}, {clients} clients"
            ours, _ = bench.rounds(name, bench.ours(loads.http(method, clients), node))
            if clients == CLIENTS:
                bench.throughput(name, ours, "limit", HTTP_LIMIT_US, 1.0)
            bench.latency(name, ours, None, 0)
    if shutil.which("wrk") is not None:
        say("HTTP read by wrk")
        per_s = _by_wrk(bench.plan, node)
        name = f"HTTP read by wrk, {CLIENTS} clients"
        bench.rows.append(Row(name, 1e6 / per_s, "µs/op", "limit", HTTP_LIMIT_US, 1.0))


def _by_wrk(plan: Plan, node: Service) -> float:
    """Return the requests per second that wrk counts."""
    url = f"http://{node.http}/v1/spaces/bench/register/{key_of(1)}"
    seconds = max(1, round(plan.seconds))
    done = subprocess.run(
        ["wrk", "-t1", f"-c{CLIENTS}", f"-d{seconds}s", url],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: pin(plan.load_core),
    )
    found = re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)
    if found is None or "Non-2xx" in done.stdout:
        raise RuntimeError(f"wrk found no good answers:\n{done.stdout}")
    return float(found.group(1))


def saturation(bench: Bench, loads: Loads, node: Service) -> None:
    """Ask for far more than can be had, and count what went wrong."""
    clients = bench.plan.saturating
    for name, load in (
        ("reads", loads.reads(clients)),
        ("durable writes", loads.writes(clients)),
        ("HTTP reads", loads.http("GET", clients)),
        ("HTTP durable writes", loads.http("PUT", clients)),
    ):
        say(f"saturation, {name}")
        figures = Figures()
        seen = bench.drive(load, node, figures)
        extra = {"of": seen.operations, "p99_ms": round(seen.p99_ms, 2), **_cost(figures)}
        title = f"errors at saturation, {name}, {clients} clients"
        bench.rows.append(Row(title, seen.errors, "answers", "limit", 0.0, 1.0, extra))


def about(plan: Plan) -> dict[str, Any]:
    """Return what the figures were measured on."""
    redis = subprocess.run(
        ["redis-server", "--version"], capture_output=True, text=True, check=True
    )
    found = re.search(r"v=([\d.]+)", redis.stdout)
    return {
        "python": platform.python_version(),
        "redis": found.group(1) if found else redis.stdout.strip(),
        "aiohttp": version("aiohttp"),
        "uvloop": version("uvloop"),
        "processors": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "rounds": plan.rounds,
        "keys": plan.keys,
    }
