"""The report: how long convergence takes, and how many bytes, against loss, latency and size.

Problem: "it converges" has a price, which depends on the network and on how many there
are; a change that doubles it breaks no promise, and no test.

Idea: one small plan per point: a load of given rate runs for a while on a mesh whose
links have a given loss, latency or number of machines, everything else alike; then the
load ends, and the time until all have everything is measured, with the bytes that were
sent. Each point is run with several seeds, and shown as the median with its extremes, as
a table, as JSON and as one HTML page of plain SVG.

Invariants: simulated time only, so the same code gives the same figures on any machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from statistics import median
from typing import Any, Final

from simulations.client import Clients
from simulations.errors import SafetyViolation
from simulations.history import History
from simulations.regions import REGIONS
from simulations.workloads import WORKLOADS
from simulations.world import SECOND, World

__all__ = ["AXES", "COLUMNS", "SEEDS", "Axis", "Point", "measure", "write_report"]

COLUMNS: Final = ("axis", "value", "converges after s", "fastest", "slowest", "KiB", "bytes/write")
SEEDS: Final = (1, 2, 3)

_LOAD_S: Final = 10
_RATE_PER_S: Final = 20.0
_FOUNDED_S: Final = 60.0
_CONVERGED_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Point:
    """What one setting came to: seconds until all agreed after the last write, and bytes."""

    axis: str
    value: float
    converged_s: tuple[float, ...]
    sent_bytes: int
    writes: int

    def row(self) -> list[Any]:
        """Return it as a row of the table."""
        times = [round(seconds, 2) for seconds in self.converged_s]
        each = round(self.sent_bytes / max(1, self.writes))
        kib = round(self.sent_bytes / 1024)
        middle = round(median(times), 2)
        return [self.axis, self.value, middle, min(times), max(times), kib, each]


@dataclass(frozen=True, slots=True)
class Axis:
    """One thing that is varied: ``build`` makes the world of a value."""

    name: str
    unit: str
    values: tuple[float, ...]
    build: Callable[[int, float], World]


def _mesh(seed: int, machines: int) -> World:
    world = World(seed)
    for region in list(REGIONS)[:machines]:
        world.add(region)
    world.mesh()
    return world


def _every_link(world: World, change: Callable[[Any], None]) -> World:
    for here in world.machines:
        for there in world.machines:
            if here != there:
                change(world.network.link(here, there))
    return world


def _with_loss(seed: int, loss: float) -> World:
    return _every_link(_mesh(seed, 5), lambda link: setattr(link, "loss", loss / 100))


def _with_latency(seed: int, latency_ms: float) -> World:
    us = int(latency_ms * 1_000)
    return _every_link(_mesh(seed, 5), lambda link: setattr(link, "latency_us", us))


def _with_size(seed: int, machines: float) -> World:
    return _mesh(seed, int(machines))


AXES: Final[tuple[Axis, ...]] = (
    Axis("loss", "% of all pieces", (0, 1, 5, 10, 20, 30), _with_loss),
    Axis("latency", "ms one way", (1, 10, 50, 100, 250, 500), _with_latency),
    Axis("size", "machines, one per region", (2, 3, 5, 8, 12, 16), _with_size),
)
"""What is varied; five machines on real distances otherwise."""


def measure(axis: Axis, value: float, seeds: Iterable[int] = SEEDS) -> Point:
    """Run one setting with several seeds. Raises ``SafetyViolation`` if knowledge differs."""
    runs = [_run(axis.build(seed, value)) for seed in seeds]
    return Point(
        axis.name,
        value,
        tuple(seconds for seconds, _, _ in runs),
        int(median(sent for _, sent, _ in runs)),
        int(median(writes for _, _, writes in runs)),
    )


def _run(world: World) -> tuple[float, int, int]:
    """Return seconds to convergence after the load, bytes sent since founding, and writes."""
    history = History(world)
    clients = Clients(world, history)
    world.start()
    world.run_until(
        lambda: all(machine.replica.writable for machine in world.up()),
        "cluster that may write",
        within_s=_FOUNDED_S,
    )
    before = world.network.sent_bytes
    random = world.kernel.random("load")
    count = len(world.machines)
    steps = WORKLOADS["registers"].steps(random, count, count, _LOAD_S * SECOND, _RATE_PER_S)
    clients.schedule(steps)
    world.run(_LOAD_S)
    took_s = world.run_until(
        lambda: not history.waiting() and world.converged(),
        "convergence",
        within_s=_CONVERGED_S,
        step_s=0.005,
    )
    digests = {machine.engine.state.digest() for machine in world.up()}
    if len(digests) > 1:
        raise SafetyViolation("agreement", "equal vectors, and different digests")
    return took_s, world.network.sent_bytes - before, sum(1 for _ in history.written_calls())


def write_report(
    path: Path, axes: Sequence[Axis] = AXES, seeds: Sequence[int] = SEEDS
) -> Mapping[str, Any]:
    """Measure every point, write the page; return its path, columns and rows."""
    points = [measure(axis, value, seeds) for axis in axes for value in axis.values]
    rows = [point.row() for point in points]
    path.write_text(_page(axes, points, rows), encoding="utf-8")
    return {"path": str(path), "columns": list(COLUMNS), "rows": rows, "seeds": list(seeds)}


# ---------------------------------------------------------------------- the page

_WIDTH: Final = 420
_HEIGHT: Final = 230
_EDGE: Final = 46

_STYLE: Final = (
    "body{font:14px system-ui,sans-serif;margin:24px;color:#222;background:#fff}"
    "text{font:11px system-ui,sans-serif}td,th{padding:2px 12px;text-align:right}"
    "svg{margin:8px}.axis{stroke:#999}.line{fill:none;stroke:#2980b9;stroke-width:2}"
    ".range{stroke:#2980b9;stroke-opacity:.4;stroke-width:6}"
)


def _page(axes: Sequence[Axis], points: Sequence[Point], rows: list[list[Any]]) -> str:
    plots: list[str] = []
    for axis in axes:
        mine = [point for point in points if point.axis == axis.name]
        times = [(min(p.converged_s), median(p.converged_s), max(p.converged_s)) for p in mine]
        kib = [(p.sent_bytes / 1024,) * 3 for p in mine]
        values = [point.value for point in mine]
        plots.append(_plot(f"seconds to convergence, by {axis.name}", axis.unit, values, times))
        plots.append(_plot(f"KiB sent, by {axis.name}", axis.unit, values, kib))
    head = "".join(f"<th>{escape(name)}</th>" for name in COLUMNS)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(str(item))}</td>' for item in row)}</tr>" for row in rows
    )
    about = (
        f"A load of {_RATE_PER_S:g} operations a second on registers for {_LOAD_S} s; measured is "
        "how long it takes from its end until all machines hold the same. Simulated time. "
        "Lines are medians, bars reach from the fastest to the slowest seed."
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Convergence</title>'
        f"<style>{_STYLE}</style></head><body><h1>Convergence</h1><p>{escape(about)}</p>"
        f"{''.join(plots)}<table><tr>{head}</tr>{body}</table></body></html>\n"
    )


def _plot(
    title: str, unit: str, values: Sequence[float], spans: Sequence[tuple[float, float, float]]
) -> str:
    most = max((high for _, _, high in spans), default=1.0) or 1.0
    low, high = min(values), max(values)

    def x(value: float) -> float:
        share = (value - low) / (high - low) if high > low else 0.5
        return round(_EDGE + share * (_WIDTH - 2 * _EDGE), 1)

    def y(value: float) -> float:
        return round(_HEIGHT - _EDGE - value / most * (_HEIGHT - 2 * _EDGE), 1)

    floor, right = _HEIGHT - _EDGE, _WIDTH - _EDGE
    parts = [
        f'<line class="axis" x1="{_EDGE}" y1="{floor}" x2="{right}" y2="{floor}"/>',
        f'<line class="axis" x1="{_EDGE}" y1="{_EDGE}" x2="{_EDGE}" y2="{floor}"/>',
        f'<text x="{_EDGE}" y="20" font-weight="bold">{escape(title)}</text>',
        f'<text x="{right}" y="{_HEIGHT - 8}" text-anchor="end">{escape(unit)}</text>',
        f'<text x="{_EDGE - 6}" y="{y(most) + 4}" text-anchor="end">{most:.3g}</text>',
        f'<text x="{_EDGE - 6}" y="{floor + 4}" text-anchor="end">0</text>',
    ]
    for value, (fast, _, slow) in zip(values, spans, strict=True):
        parts.append(
            f'<line class="range" x1="{x(value)}" y1="{y(fast)}" x2="{x(value)}" y2="{y(slow)}"/>'
        )
        parts.append(f'<text x="{x(value)}" y="{floor + 16}" text-anchor="middle">{value:g}</text>')
    path = " ".join(
        f"{x(value)},{y(middle)}" for value, (_, middle, _) in zip(values, spans, strict=True)
    )
    parts.append(f'<polyline class="line" points="{path}"/>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}">'
        f"{''.join(parts)}</svg>"
    )
