"""A picture of how pools grow: detection and dissemination over log n, and load per member.

Plain SVG, written by hand: no library is needed to see three lines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import log10
from pathlib import Path

from tests.bench.gossip_virtual import Size

__all__ = ["plot"]

_WIDTH, _HEIGHT, _MARGIN = 460, 320, 50
_COLOURS = ("#1b6ca8", "#c0392b", "#2e8b57")


def plot(sizes: Sequence[Size], path: Path) -> None:
    """Write the picture."""
    times: list[tuple[str, Callable[[Size], float]]] = [
        ("detection, first (s)", lambda size: sum(size.first_s) / len(size.first_s)),
        ("detection, all (s)", lambda size: sum(size.all_s) / len(size.all_s)),
        ("dissemination (s)", lambda size: sum(size.spread_s) / len(size.spread_s)),
    ]
    load: list[tuple[str, Callable[[Size], float]]] = [
        ("packets per member and second", lambda size: size.packets_per_s),
        ("hundreds of bytes per member and second", lambda size: size.bytes_per_s / 100),
    ]
    panels = _panel(sizes, times, 0) + _panel(sizes, load, _WIDTH)
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * _WIDTH}" height="{_HEIGHT}" '
        f'font-family="sans-serif" font-size="12">'
        f'<rect width="100%" height="100%" fill="white"/>{"".join(panels)}</svg>\n',
        encoding="utf-8",
    )


def _panel(
    sizes: Sequence[Size], lines: Sequence[tuple[str, Callable[[Size], float]]], left: int
) -> list[str]:
    most = 1.2 * max(value(size) for _, value in lines for size in sizes)
    low, high = log10(sizes[0].members), log10(sizes[-1].members)
    room, tall = _WIDTH - 2 * _MARGIN, _HEIGHT - 2 * _MARGIN

    def x(size: Size) -> float:
        return left + _MARGIN + room * (log10(size.members) - low) / ((high - low) or 1.0)

    def y(value: float) -> float:
        return _HEIGHT - _MARGIN - tall * value / most

    start = left + _MARGIN
    found = [
        f'<path d="M{start},{y(most)} V{y(0)} H{start + room}" fill="none" stroke="black"/>',
        f'<text x="{start - 6}" y="{y(0) + 4}" text-anchor="end">0</text>',
        f'<text x="{start - 6}" y="{y(most)}" text-anchor="end">{most:.1f}</text>',
    ]
    found += [
        f'<text x="{x(size)}" y="{y(0) + 18}" text-anchor="middle">{size.members:,}</text>'
        for size in sizes
    ]
    for number, (name, value) in enumerate(lines):
        colour = _COLOURS[number]
        points = " ".join(f"{x(size):.1f},{y(value(size)):.1f}" for size in sizes)
        found.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
            f'<text x="{left + _MARGIN + 10}" y="{20 + 16 * number}" fill="{colour}">{name}</text>'
        )
    found.append(
        f'<text x="{left + _MARGIN + room / 2}" y="{_HEIGHT - 8}" text-anchor="middle">'
        f"members (logarithmic)</text>"
    )
    return found
