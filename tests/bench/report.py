"""Rows of results: how they are judged, and the two ways in which they are shown."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

__all__ = ["Row", "as_json", "show"]


@dataclass(frozen=True)
class Row:
    """One figure, beside the figure that it is measured against.

    ``ratio`` is always ``peer_value / value``: how many times better we are, in time, bytes
    or seconds. ``target`` is the least ratio that passes; ``None`` where the row informs.
    ``extra`` holds the same figure by processor time, and the spread.
    """

    name: str
    value: float
    unit: str
    peer: str
    peer_value: float
    target: float | None = None
    extra: dict[str, Any] | None = None

    @property
    def ratio(self) -> float:
        """How many times better than the peer."""
        return self.peer_value / self.value if self.value else float("inf")

    @property
    def passes(self) -> bool | None:
        """Whether the target is met; ``None`` where there is none."""
        return None if self.target is None else self.ratio >= self.target

    def as_value(self) -> dict[str, Any]:
        """Return the row in the form that is printed."""
        return {
            "name": self.name,
            "value": round(self.value, 4),
            "unit": self.unit,
            "peer": self.peer,
            "peer_value": round(self.peer_value, 4),
            "ratio": round(self.ratio, 3),
            "target": self.target,
            "pass": self.passes,
            **(self.extra or {}),
        }


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
            f"{row.peer_value:,.3f}",
            f"{row.ratio:.2f}",
            target,
            mark,
        )
    Console(width=130).print(table)


def _caption(about: dict[str, Any]) -> str:
    return " · ".join(f"{name} {value}" for name, value in about.items())
