"""A run as a picture: regions as lanes, time from left to right, one file without scripts.

Problem: a trace of a hundred thousand records tells nobody what happened. What one wants
to see is who was cut from whom, who was down, and how far apart their knowledge was.

Idea: one SVG within one HTML page. Each machine is a lane, grouped by region; a lane is
grey while its node is down, and hatched while it stands still. Messages are thin lines
between lanes (a sample of them, if there are many), cuts are red bars on the lanes that
they concern, crashes, starts, alarms and damage are marks with their words. Below the
lanes stands the *divergence*: how many different states of knowledge (version vectors)
there were among the running nodes; it comes down to one when they have converged. What
the scenario said is written along the top.

Invariants: drawn from the trace and from what a ``Divergence`` watcher noted, so equal runs
give equal pictures; everything that comes from outside is escaped; at most ``_MESSAGES``
lines and ``_POINTS`` points, however long the run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Final

from simulations.kernel import EPOCH_US
from simulations.node import Machine
from simulations.runner import Outcome
from simulations.trace import Record
from simulations.world import SECOND, Watcher, World

__all__ = ["Divergence", "draw", "picture_of"]

_Known = tuple[tuple[int, int], ...]

_MESSAGES: Final = 2_500
_POINTS: Final = 2_000
_LEFT: Final = 150
_WIDTH: Final = 1_400
_LANE: Final = 26
_TOP: Final = 30
_WORD: Final = 13
_GRAPH: Final = 110

_MARKS: Final = {
    "crash": ("✕", "#c0392b"),
    "stop": ("■", "#7f8c8d"),
    "start": ("▲", "#27ae60"),
    "alarm": ("!", "#d35400"),
    "harm": ("☠", "#8e44ad"),
    "evict": ("⊘", "#8e44ad"),
    "upgrade": ("↑", "#2980b9"),
    "clock": ("◷", "#2980b9"),
    "disk": ("◍", "#d35400"),
}
"""Kind of record to its sign and colour."""

_STYLE: Final = (
    "body{font:14px system-ui,sans-serif;margin:24px;color:#222;background:#fff}"
    "text{font:11px system-ui,sans-serif;fill:#333}"
    ".say{fill:#555}.grid{stroke:#eee}.lane{stroke:#bbb}.down{fill:#ddd}.paused{fill:#f6e3b4}"
    ".cut{fill:#e74c3c;fill-opacity:.28}.message{stroke:#3498db;stroke-opacity:.16}"
    ".apart{fill:none;stroke:#8e44ad;stroke-width:1.5}"
)


class Divergence(Watcher):
    """Notes how many different vectors there are among the running nodes, when that changes."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.points: list[tuple[int, int]] = []
        self._held: dict[str, _Known] = {}
        self._count: Counter[_Known] = Counter()

    def started(self, machine: Machine) -> None:
        """A node is back with what it had."""
        self._note(machine)

    def published(self, machine: Machine) -> None:
        """A node knows more."""
        self._note(machine)

    def ended(self, machine: Machine) -> None:
        """A node is gone, and what it knew does not count."""
        self._drop(machine.name)
        self._point()

    def _note(self, machine: Machine) -> None:
        mark = tuple(sorted(machine.engine.state.vector.items()))
        self._drop(machine.name)
        self._held[machine.name] = mark
        self._count[mark] += 1
        self._point()

    def _drop(self, name: str) -> None:
        mark = self._held.pop(name, None)
        if mark is not None:
            self._count[mark] -= 1
            if not self._count[mark]:
                del self._count[mark]

    def _point(self) -> None:
        apart = len(self._count)
        if not self.points or self.points[-1][1] != apart:
            self.points.append((self.world.kernel.now_us, apart))


def picture_of(title: str, world: World, divergence: Divergence | None, outcome: Outcome) -> str:
    """Return a run as an HTML page. Its world must have kept its trace."""
    verdict = f"Seed {outcome.seed}, trace {outcome.trace_hash}: {outcome.verdict}"
    if not outcome.passed:
        verdict += f", {outcome.checker}: {outcome.message}"
    return draw(title, world.trace.records(), world.machines.values(), divergence, verdict)


@dataclass(slots=True)
class _Sheet:
    """Where everything goes: time to x, machine to y."""

    begins_us: int
    ends_us: int
    lanes: dict[str, int]
    top: int
    parts: list[str] = field(default_factory=list)

    def x(self, time_us: int) -> float:
        """Return where a time is."""
        share = (time_us - self.begins_us) / max(1, self.ends_us - self.begins_us)
        return round(_LEFT + min(1.0, max(0.0, share)) * _WIDTH, 1)

    def y(self, lane: str) -> int:
        """Return where a machine is."""
        return self.top + self.lanes[lane] * _LANE + _LANE // 2

    @property
    def bottom(self) -> int:
        """Where the lanes end."""
        return self.top + len(self.lanes) * _LANE

    def bar(self, lane: str, begins_us: int, ends_us: int, kind: str, words: str) -> None:
        """Draw a bar on a lane."""
        x, width = self.x(begins_us), self.x(ends_us) - self.x(begins_us)
        self.parts.append(
            f'<rect class="{kind}" x="{x}" y="{self.y(lane) - 9}" width="{max(1.0, width):.1f}" '
            f'height="18"><title>{escape(words)}</title></rect>'
        )

    def text(self, x: float, y: float, words: str, more: str = "") -> None:
        """Write something."""
        self.parts.append(f'<text x="{x}" y="{y}" {more}>{escape(words)}</text>')


def draw(
    title: str,
    records: Sequence[Record],
    machines: Iterable[Machine],
    divergence: Divergence | None = None,
    verdict: str = "",
) -> str:
    """Return a run as an HTML page; ``records`` are those that its trace kept."""
    ordered = sorted(machines, key=lambda machine: machine.region)
    lanes = {machine.name: number for number, machine in enumerate(ordered)}
    said = [record for record in records if record.kind == "say"]
    ends_us = records[-1].time_us if records else EPOCH_US + SECOND
    begins_us = min(EPOCH_US, records[0].time_us) if records else EPOCH_US
    sheet = _Sheet(begins_us, ends_us, lanes, _TOP + _WORD * len(said))
    _draw_lanes(sheet, ordered)
    _draw_spans(sheet, records)
    _draw_messages(sheet, records)
    _draw_marks(sheet, records)
    for number, record in enumerate(said):
        x, y = sheet.x(record.time_us), 14 + _WORD * number
        sheet.parts.append(f'<line class="grid" x1="{x}" y1="{y}" x2="{x}" y2="{sheet.bottom}"/>')
        at = 'class="say" text-anchor="end"' if x > _LEFT + _WIDTH * 0.6 else 'class="say"'
        sheet.text(x, y, record.other, at)
    height = sheet.bottom + 30
    if divergence is not None:
        _draw_divergence(sheet, divergence.points, height)
        height += _GRAPH + 40
    width = _LEFT + _WIDTH + 40
    about = f"<p>{escape(verdict)}</p>" if verdict else ""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>{about}"
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}">{"".join(sheet.parts)}</svg></body></html>\n'
    )


def _draw_lanes(sheet: _Sheet, machines: Sequence[Machine]) -> None:
    region = ""
    for machine in machines:
        y = sheet.y(machine.name)
        right = _LEFT + _WIDTH
        sheet.parts.append(f'<line class="lane" x1="{_LEFT}" y1="{y}" x2="{right}" y2="{y}"/>')
        more = 'font-weight="bold"' if machine.region != region else ""
        region = machine.region
        sheet.text(4, y + 4, machine.name, more)
    length_s = (sheet.ends_us - sheet.begins_us) / SECOND
    step_s = next((s for s in (1, 5, 10, 60, 600, 3_600, 86_400) if length_s / s <= 14), 604_800)
    for number in range(int(length_s // step_s) + 1):
        x = sheet.x(sheet.begins_us + int(number * step_s * SECOND))
        sheet.text(x, sheet.bottom + 14, f"{number * step_s} s", 'text-anchor="middle"')


def _draw_spans(sheet: _Sheet, records: Iterable[Record]) -> None:
    """Draw what lasts: nodes that are down or stand still, links that are cut."""
    for lane, begins_us, ends_us in _spans(records, {"crash", "stop"}, {"start"}, sheet.ends_us):
        if lane in sheet.lanes:
            sheet.bar(lane, begins_us, ends_us, "down", f"{lane} is down")
    ends = {"resume", "crash"}
    for lane, begins_us, ends_us in _spans(records, {"pause"}, ends, sheet.ends_us):
        if lane in sheet.lanes:
            sheet.bar(lane, begins_us, ends_us, "paused", f"{lane} stands still")
    for (a, b), begins_us, ends_us in _cuts(records, sheet.ends_us):
        for lane in (a, b):
            if lane in sheet.lanes:
                sheet.bar(lane, begins_us, ends_us, "cut", f"{b} hears nothing of {a}")


def _spans(
    records: Iterable[Record], begin: set[str], end: set[str], ends_us: int
) -> Iterator[tuple[str, int, int]]:
    open_since: dict[str, int] = {}
    for record in records:
        if record.kind in begin:
            open_since.setdefault(record.lane, record.time_us)
        elif record.kind in end and record.lane in open_since:
            yield record.lane, open_since.pop(record.lane), record.time_us
    for lane, since_us in open_since.items():
        yield lane, since_us, ends_us


def _cuts(records: Iterable[Record], ends_us: int) -> Iterator[tuple[tuple[str, str], int, int]]:
    """Yield when who did not get through to whom."""
    open_since: dict[tuple[str, str], int] = {}
    for record in records:
        pair = (record.lane, record.other)
        if record.kind == "cut":
            open_since.setdefault(pair, record.time_us)
            if not record.number:
                open_since.setdefault(pair[::-1], record.time_us)
        elif record.kind == "heal":
            for healed in (pair, pair[::-1]):
                if healed in open_since:
                    yield healed, open_since.pop(healed), record.time_us
        elif record.kind == "all healed":
            for healed, since_us in open_since.items():
                yield healed, since_us, record.time_us
            open_since.clear()
    for pair, since_us in open_since.items():
        yield pair, since_us, ends_us


def _draw_messages(sheet: _Sheet, records: Sequence[Record]) -> None:
    messages = [
        record
        for record in records
        if record.kind in {"bytes", "datagram"}
        and record.lane in sheet.lanes
        and record.other in sheet.lanes
    ]
    every = max(1, len(messages) // _MESSAGES)
    for record in messages[::every]:
        x = sheet.x(record.time_us)
        sheet.parts.append(
            f'<line class="message" x1="{x - 2:.1f}" y1="{sheet.y(record.other)}" '
            f'x2="{x}" y2="{sheet.y(record.lane)}"/>'
        )


def _draw_marks(sheet: _Sheet, records: Iterable[Record]) -> None:
    for record in records:
        mark = _MARKS.get(record.kind)
        if mark is not None and record.lane in sheet.lanes:
            sign, colour = mark
            x, y = sheet.x(record.time_us), sheet.y(record.lane) + 4
            at_s = (record.time_us - sheet.begins_us) / SECOND
            words = f"{at_s:.2f} s: {record.kind} {record.other}"
            sheet.parts.append(
                f'<text x="{x}" y="{y}" text-anchor="middle" style="fill:{colour}">{sign}'
                f"<title>{escape(words)}</title></text>"
            )


def _draw_divergence(sheet: _Sheet, points: Sequence[tuple[int, int]], top: int) -> None:
    """Draw the number of different vectors over time, as steps."""
    most = max((apart for _, apart in points), default=1)
    every = max(1, len(points) // _POINTS)
    base = top + _GRAPH

    def height(apart: int) -> float:
        return round(base - apart / max(1, most) * (_GRAPH - 10), 1)

    path, last = "", base
    for time_us, apart in [*points[::every], *points[-1:]]:
        x, y = sheet.x(time_us), height(apart)
        path += f"M{x},{y}" if not path else f"H{x}V{y}"
    if path:
        sheet.parts.append(f'<path class="apart" d="{path}H{_LEFT + _WIDTH}"/>')
    sheet.text(4, top + 12, "different vectors")
    for apart in sorted({1, most}):
        sheet.text(_LEFT - 6, height(apart) + 4, str(apart), 'text-anchor="end"')
    sheet.parts.append(
        f'<line class="lane" x1="{_LEFT}" y1="{last}" x2="{_LEFT + _WIDTH}" y2="{last}"/>'
    )
