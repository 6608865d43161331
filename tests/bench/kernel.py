"""The kernel against loro and pycrdt, in the same run.

Every measurement is a process of its own on one processor, the systems take turns, and the
figure is the median of the rounds. Ratios compare wall times of like with unlike: our figure
includes the fsyncs, the notifications and the digest, theirs is in memory.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.bench.report import Row
from tests.bench.shapes import SHAPES

__all__ = ["Plan", "run"]

ROOT = Path(__file__).resolve().parents[2]
SYSTEMS = ("crdtmem", "loro", "pycrdt")
MEMORY_LIMIT_BYTES = 400.0
RECOVERY_LIMIT_S = 5.0
PAUSE_LIMIT_MS = 20.0
# Beyond the caches of the bare dictionary, three objects per entry are touched for its one.
SCALING_ALLOWANCE = 2.0


@dataclass(frozen=True)
class Plan:
    """How much to measure."""

    rounds: int = 5
    operations: int = 40_000
    sizes: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    memory_keys: int = 300_000
    recovery_keys: int = 1_000_000
    directory: str = ""
    core: int = 1

    @classmethod
    def quick(cls, directory: str) -> Plan:
        """A plan that ends in seconds: for trying the benchmark, not the program."""
        return cls(1, 4_000, (1_000, 10_000), 20_000, 20_000, directory)


@dataclass
class Samples:
    """What the rounds gave for one system and shape, by metric."""

    found: dict[str, list[dict[str, float]]] = field(default_factory=dict)

    def add(self, result: dict[str, Any]) -> None:
        for metric, figures in result.items():
            self.found.setdefault(metric, []).append(figures)

    def median(self, metric: str, figure: str = "wall") -> float:
        return statistics.median(sample[figure] for sample in self.found[metric])

    def spread(self, metric: str) -> list[float]:
        walls = [sample["wall"] for sample in self.found[metric]]
        return [round(min(walls), 4), round(max(walls), 4)]


def worker(plan: Plan, *task: object) -> dict[str, Any]:
    """Carry out one measurement in a process of its own."""
    command = [sys.executable, "-m", "tests.bench.worker", str(plan.core), plan.directory]
    done = subprocess.run(
        [*command, *map(str, task)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"the measurement {task} failed:\n{done.stderr[-4_000:]}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def say(text: str) -> None:
    """Tell whoever waits how far it is."""
    print(text, file=sys.stderr, flush=True)


def run(plan: Plan) -> tuple[list[Row], dict[str, Any]]:
    """Measure everything; returns the rows, and what they were measured on."""
    rows: list[Row] = []
    for shape in SHAPES.values():
        samples = {system: Samples() for system in SYSTEMS}
        for number in range(plan.rounds):
            for system in SYSTEMS:
                say(f"{shape.title}: round {number + 1} of {plan.rounds}, {system}")
                samples[system].add(worker(plan, "measure", system, shape.name, plan.operations))
        rows += compared(shape.title, samples, reads=not shape.counts)
    rows += memory_rows(plan)
    rows += scaling_rows(plan)
    rows += recovery_rows(plan)
    return rows, about(plan)


def compared(title: str, samples: dict[str, Samples], *, reads: bool) -> list[Row]:
    """Return the rows of one shape."""
    ours = samples["crdtmem"]
    rows = []

    def row(what: str, metric: str, peer: str, target: float | None) -> None:
        theirs = samples[peer]
        extra = {
            "cpu": round(ours.median(metric, "cpu"), 4),
            "peer_cpu": round(theirs.median(metric, "cpu"), 4),
            "spread": ours.spread(metric),
            "peer_spread": theirs.spread(metric),
        }
        value, peer_value = ours.median(metric), theirs.median(metric)
        rows.append(Row(f"{what}, {title}", value, "µs/op", peer, peer_value, target, extra))

    row("local update, durable", "write", "loro", 1.5)
    row("local update, durable", "write", "pycrdt", 2.0)
    faster = min(("loro", "pycrdt"), key=lambda peer: samples[peer].median("join"))
    for peer in ("loro", "pycrdt"):
        row("remote join, persisted", "join", peer, 1.2 if peer == faster else None)
    if reads:
        row("read", "read", "loro", 1.5)
        row("read", "read", "pycrdt", None)
    smaller = min(("loro", "pycrdt"), key=lambda peer: samples[peer].median("wire", "bytes"))
    for peer in ("loro", "pycrdt"):
        theirs = samples[peer].median("wire", "bytes")
        target = 1.0 if peer == smaller else None
        sent = ours.median("wire", "bytes")
        rows.append(Row(f"wire, {title}", sent, "bytes/op", peer, theirs, target))
    sent, theirs = ours.median("wire", "zlib"), samples[smaller].median("wire", "zlib")
    rows.append(Row(f"wire, both zlib, {title}", sent, "bytes/op", smaller, theirs))
    return rows


def memory_rows(plan: Plan) -> list[Row]:
    """Return what a small key takes in memory."""
    say(f"memory of {plan.memory_keys} keys")
    found = worker(plan, "small_keys", plan.memory_keys)["bytes"]
    name = f"memory per small key, of {plan.memory_keys:,}"
    return [Row(name, found, "bytes", "limit", MEMORY_LIMIT_BYTES, 1.0)]


def scaling_rows(plan: Plan) -> list[Row]:
    """Return the cost per operation at growing sizes, beside a bare dictionary's."""
    rows: list[Row] = []
    found = {}
    for size in plan.sizes:
        say(f"scaling: {size} keys")
        found[size] = worker(plan, "at_size", size)
    least, most = plan.sizes[0], plan.sizes[-1]
    for what, bare in (("put", "bare put"), ("get", "bare get"), ("join", "bare put")):
        for size in plan.sizes:
            ours, theirs = found[size][what]["wall"], found[size][bare]["wall"]
            rows.append(Row(f"{what} at {size:,} keys", ours, "µs/op", "dict", theirs))
        ours = found[most][what]["wall"] / found[least][what]["wall"]
        theirs = found[most][bare]["wall"] / found[least][bare]["wall"]
        allowed = SCALING_ALLOWANCE * max(1.0, theirs)
        name = f"growth of {what}, {least:,} to {most:,} keys"
        extra = {"dict_growth": round(theirs, 3)}
        rows.append(Row(name, ours, "times", f"dict x{SCALING_ALLOWANCE:g}", allowed, 1.0, extra))
    return rows


def recovery_rows(plan: Plan) -> list[Row]:
    """Return how long a large store takes to open, and the collector's longest pause."""
    say(f"recovery of {plan.recovery_keys} keys")
    found = worker(plan, "recover", plan.recovery_keys)
    keys = f"{plan.recovery_keys:,} keys"
    pauses = found["pauses"] or [[0.001, 0.001]]
    longest_ms, longest_wall_ms = map(max, zip(*pauses, strict=True))
    extra = {"collections": len(found["pauses"]), "wall_ms": round(longest_wall_ms, 3)}
    return [
        Row(f"recovery of {keys}, from the log", found["log"], "s", "limit", RECOVERY_LIMIT_S),
        Row(
            f"recovery of {keys}, from a checkpoint",
            found["checkpoint"],
            "s",
            "limit",
            RECOVERY_LIMIT_S,
            1.0,
            {"checkpointing_s": round(found["checkpointing"], 3)},
        ),
        Row(
            f"longest collector pause, {keys}",
            longest_ms,
            "ms",
            "limit",
            PAUSE_LIMIT_MS,
            1.0,
            extra,
        ),
    ]


def about(plan: Plan) -> dict[str, Any]:
    """Return what the figures were measured on."""
    return {
        "python": platform.python_version(),
        "loro": version("loro"),
        "pycrdt": version("pycrdt"),
        "processors": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "rounds": plan.rounds,
        "operations": plan.operations,
    }
