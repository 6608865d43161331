"""Rows of results: how they are judged, and the two ways in which they are shown."""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import isinf
from typing import Any

from rich.console import Console
from rich.table import Table

__all__ = ["Row", "as_json", "show"]


@dataclass(frozen=True)
class Row:
    """One figure, beside the figure that it is measured against.

    ``ratio`` is always ``peer_value / value``: how many times better we are, in time, bytes
    or seconds. ``target`` is the least ratio that passes; ``None`` where the row informs.
    ``peer_value`` is ``None`` where the peer could not be measured: then there is no ratio, and
    nothing to pass.
    ``extra`` holds the same figure by processor time, and the spread.
    """

    name: str
    value: float
    unit: str
    peer: str
    peer_value: float | None
    target: float | None = None
    extra: dict[str, Any] | None = None

    @property
    def ratio(self) -> float | None:
        """How many times better than the peer; 0 is as good as 0."""
        if self.peer_value is None:
            return None
        if not self.value:
            return float("inf") if self.peer_value else 1.0
        return self.peer_value / self.value

    @property
    def passes(self) -> bool | None:
        """Whether the target is met; ``None`` where there is none."""
        ratio = self.ratio
        return None if self.target is None or ratio is None else ratio >= self.target

    def as_value(self) -> dict[str, Any]:
        """Return the row in the form that is printed."""
        return {
            "name": self.name,
            "value": round(self.value, 4),
            "unit": self.unit,
            "peer": self.peer,
            "peer_value": _rounded(self.peer_value, 4),
            "ratio": _rounded(self.ratio, 3),
            "target": self.target,
            "pass": self.passes,
            **(self.extra or {}),
        }


def _rounded(value: float | None, digits: int) -> float | None:
    """Round what JSON can hold: nothing is infinite there."""
    return None if value is None or isinf(value) else round(value, digits)


def as_json(rows: list[Row], about: dict[str, Any]) -> str:
    """Return everything as one JSON object."""
    return json.dumps({"rows": [row.as_value() for row in rows], **about})


def show(rows: list[Row], about: dict[str, Any], *, title: str) -> None:
    """Print a table for people."""
    table = Table(title=title, caption=_caption(about), title_justify="left")
    table.add_column("what")
    for heading in ("crdtmem", "unit", "peer", "theirs", "ratio", "target"):
        table.add_column(heading, justify="left" if heading in ("unit", "peer") else "right")
    table.add_column("")
    for row in rows:
        mark = {True: "[green]pass[/]", False: "[red]miss[/]", None: ""}[row.passes]
        target = "" if row.target is None else f"≥ {row.target:g}"
        table.add_row(
            row.name,
            f"{row.value:,.3f}",
            row.unit,
            row.peer,
            "" if row.peer_value is None else f"{row.peer_value:,.3f}",
            "" if row.ratio is None else f"{row.ratio:.2f}",
            target,
            mark,
        )
    Console(width=130).print(table)


def _caption(about: dict[str, Any]) -> str:
    return " · ".join(f"{name} {value}" for name, value in about.items())
