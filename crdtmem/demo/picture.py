"""What the demo shows: the regions while they work, and then how they disagreed.

On a terminal the table lives: it is drawn anew several times a second. Elsewhere
each phase is one line, and the table is printed once.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from crdtmem.demo.cluster import LINKS, REGIONS
from crdtmem.exporting import to_json

__all__ = ["Picture", "Report", "lags", "print_report"]

_CONFLICTS_SHOWN: Final = 12
_DIGEST_CHARACTERS: Final = 12
_VALUE_CHARACTERS: Final = 40


class Report(Protocol):
    """What ``print_report`` needs of a report."""

    converged: bool
    acknowledged: int
    lost: int
    digests: dict[str, str]
    conflict_list: list[dict[str, Any]]
    faults: list[str]
    elapsed_s: float


def lags(statuses: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """Return by how many deltas each region is behind what all of them have together."""
    known: dict[str, int] = {}
    for status in statuses.values():
        for origin, last in status["vector"].items():
            known[origin] = max(last, known.get(origin, 0))
    return {
        region: sum(last - status["vector"].get(origin, 0) for origin, last in known.items())
        for region, status in statuses.items()
    }


class Picture:
    """The live table. Use ``with``; a quiet one shows nothing."""

    def __init__(self, console: Console, *, quiet: bool) -> None:
        self._console = console
        self._quiet = quiet
        self._began_s = time.monotonic()
        self._phase = "starting three nodes; two of them are told where the first is"
        self._body: RenderableType = Text("")
        self._live = (
            Live(console=console, refresh_per_second=8, transient=False)
            if console.is_terminal and not quiet
            else None
        )

    def __enter__(self) -> Self:
        if not self._quiet:
            links = "  ".join(
                f"{there} ↔ {here} {shape.latency_ms:.0f} ms"
                for (here, there), shape in LINKS.items()
            )
            self._console.print(f"three regions, one-way latencies: {links}")
        if self._live is not None:
            self._live.start()
        self.phase(self._phase)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
        elif not self._quiet and kind is None:
            self._console.print(self._body)

    def phase(self, text: str) -> None:
        """Say what happens now."""
        self._phase = text
        if self._live is not None:
            self._draw()
        elif not self._quiet:
            self._console.print(f"{self._elapsed_s:5.1f} s  {text}", highlight=False)

    def show(
        self,
        statuses: Mapping[str, Mapping[str, Any]],
        acknowledged: Mapping[str, int],
        cut_region: str | None,
    ) -> None:
        """Take in what the nodes say of themselves."""
        if self._quiet:
            return
        table = Table(expand=False)
        for column in ("region", "link"):
            table.add_column(column)
        for column in ("acknowledged", "keys", "behind by", "conflicts"):
            table.add_column(column, justify="right")
        table.add_column("digest")
        behind = lags(statuses)
        digests = {status["digest"] for status in statuses.values()}
        for region in REGIONS:
            status = statuses[region]
            cut = region == cut_region
            table.add_row(
                region,
                Text("cut off" if cut else "up", style="bold red" if cut else "green"),
                str(acknowledged.get(region, 0)),
                str(status["keys"]),
                Text(str(behind[region]), style="yellow" if behind[region] else "green"),
                str(status["conflicts"]),
                Text(
                    status["digest"][:_DIGEST_CHARACTERS],
                    style="green" if len(digests) == 1 else "yellow",
                ),
            )
        self._body = table
        self._draw()

    @property
    def _elapsed_s(self) -> float:
        return time.monotonic() - self._began_s

    def _draw(self) -> None:
        if self._live is not None:
            line = Text(f"{self._elapsed_s:5.1f} s  {self._phase}", style="bold")
            self._live.update(Group(line, self._body), refresh=True)


def print_report(console: Console, report: Report) -> None:
    """Print the conflicts, who caused them and how each resolver settles them; then the verdict."""
    shown = report.conflict_list[:_CONFLICTS_SHOWN]
    if shown:
        table = Table(title="conflicts: every value is kept, a resolver chooses what is read")
        for column in ("place", "siblings, by author", "reads as", "other resolvers"):
            table.add_column(column, overflow="fold")
        for conflict in shown:
            # As texts, or a list in square brackets would be taken for markup.
            table.add_row(*map(Text, _cells(conflict)), end_section=True)
        console.print(table)
    hidden = len(report.conflict_list) - len(shown)
    if hidden:
        console.print(f"and {hidden} more conflicts; --json lists all")
    for fault in report.faults:
        console.print(Text(f"fault: {fault}", style="red"))
    for region, digest in report.digests.items():
        console.print(f"{region:<10} digest {digest}", highlight=False)
    verdict = "converged" if report.converged else "NOT converged"
    console.print(
        Text(
            f"{verdict}: {report.acknowledged} writes acknowledged, {report.lost} lost, "
            f"{len(report.conflict_list)} conflicts kept, {report.elapsed_s:.1f} s",
            style="bold green" if report.converged and not report.lost else "bold red",
        )
    )


def _cells(conflict: Mapping[str, Any]) -> tuple[str, str, str, str]:
    at = "/".join([*conflict["space"], conflict["key"], *conflict["path"]])
    siblings = "\n".join(
        f"{_text(sibling['value'])}  ({sibling['author'] or 'unnamed'}, {sibling['region']})"
        for sibling in conflict["siblings"]
    )
    chosen = conflict["resolver"].partition("@")[0]
    others: dict[str, list[str]] = {}
    for name, value in conflict["settled"].items():
        if name != chosen:
            others.setdefault(_text(value), []).append(name)
    rest = "\n".join(f"{', '.join(names)}: {value}" for value, names in others.items())
    return (
        f"{at}\n({conflict['datatype']})",
        siblings,
        f"{_text(conflict['value'])}\n({chosen})",
        rest,
    )


def _text(value: Any) -> str:
    text = value if type(value) is str else json.dumps(to_json(value), ensure_ascii=False)
    return text if len(text) <= _VALUE_CHARACTERS else f"{text[: _VALUE_CHARACTERS - 1]}…"
