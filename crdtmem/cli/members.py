"""``crdtmem members`` and ``crdtmem leave``: who is in the cluster, and how to go."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import click
from rich.console import Console
from rich.live import Live
from rich.table import Table

from crdtmem.cli.base import ask, node_options, print_json
from crdtmem.cli.times import local_time
from crdtmem.client import Client

__all__ = ["find_member", "leave_command", "members_command"]

_WIDTH: Final = 160


@click.command("members")
@click.option("--watch", is_flag=True, help="Look again and again, until interrupted.")
@click.option(
    "--every-ms",
    type=click.IntRange(50, 3_600_000),
    default=1_000,
    show_default=True,
    help="With --watch: the pause between two looks.",
)
@click.option("--follow", is_flag=True, help="Print each change of a member as it happens.")
@click.option(
    "--looks", type=click.IntRange(1), help="With --watch or --follow: end after so many."
)
@node_options
def members_command(
    watch: bool, follow: bool, every_ms: int, looks: int | None, as_json: bool, **where: Any
) -> None:
    """Show every member that a node knows: is it alive, how far, how late, how current.

    The mesh says alive, suspect, dead or left; unknown is a member that it has not met. LAG
    is how many changes it has not acknowledged yet, as far as this node knows. With --watch
    and --json, each look is one object on a line; with --follow, each change.
    """
    if watch and follow:
        raise click.UsageError("give --watch or --follow, not both")

    async def read(client: Client) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = await client.call("members", ())
        return rows

    if follow:
        ask(lambda client: _follow(client, looks, as_json=as_json), **where)
        return
    if not watch:
        rows = ask(read, **where)
        if as_json:
            print_json({"members": rows})
        else:
            _console().print(_table(rows))
        return

    async def look_often(client: Client) -> None:
        shown = None if as_json else Live(console=_console(), auto_refresh=False)
        left = looks
        with shown or _Lines():
            while left is None or left > 0:
                rows = await read(client)
                if shown is None:
                    print_json({"members": rows})
                else:
                    shown.update(_table(rows), refresh=True)
                left = None if left is None else left - 1
                if left != 0:
                    await asyncio.sleep(every_ms / 1_000)

    ask(look_often, **where)


def _console() -> Console:
    """Return a console that wraps nothing where nobody's terminal is too narrow."""
    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH)


async def _follow(client: Client, most: int | None, *, as_json: bool) -> None:
    """Print what becomes of members, until that was ``most`` changes."""
    left = most
    async with await client.events("member_changes", ()) as events:
        async for part in events:
            for change in part:
                if as_json:
                    print_json(change)
                else:
                    was = f", was {change['previous']}" if change["previous"] else ""
                    when = local_time(change["time_us"])
                    click.echo(
                        f"{when} {change['node']} ({change['replica']}) {change['state']}{was}"
                    )
                left = None if left is None else left - 1
            if left is not None and left <= 0:
                return


class _Lines:
    """The place of the live picture where there is none."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *error: object) -> None:
        return None


def _table(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("node", "state", "gateway"):
        table.add_column(column)
    for column in ("round trip", "clock", "lag"):
        table.add_column(column, justify="right")
    for column in ("version", "address", "replica"):
        table.add_column(column)
    for row in rows:
        table.add_row(
            row["node"] or f"{row['region']}/?",
            _state_text(row),
            row["gateway"] or "",
            "here" if row["here"] else _ms_text(row["round_trip_us"], signed=False),
            "" if row["here"] else _ms_text(row["clock_offset_us"], signed=True),
            "-" if row["lag"] is None else str(row["lag"]),
            row["version"],
            row["address"],
            row["replica"],
        )
    return table


def _state_text(row: dict[str, Any]) -> str:
    marks = [mark for mark in ("degraded", "damped") if row[mark]]
    if not row["member"]:
        marks.append("no member")
    return f"{row['state']}, {', '.join(marks)}" if marks else str(row["state"])


def _ms_text(time_us: int | None, *, signed: bool) -> str:
    if time_us is None:
        return "-"
    return f"{time_us / 1000:{'+' if signed else ''}.1f} ms"


def find_member(rows: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    """Return the member of that name (REGION/NAME, or NAME where only one has it) or replica
    id. Raises ``click.BadParameter``."""
    wanted = name.lower()
    found = [row for row in rows if row["replica"] == wanted.rjust(16, "0")]
    if not found:
        found = [row for row in rows if row["node"] == wanted]
    if not found:
        found = [row for row in rows if row["node"].rpartition("/")[2] == wanted]
    living = [row for row in found if row["member"]] or found
    if len(living) == 1:
        return living[0]
    if not found:
        raise click.BadParameter(
            f"no member is called {name!r}; `crdtmem members` lists them", param_hint="NODE"
        )
    several = ", ".join(f"{row['node']} ({row['replica']})" for row in living)
    raise click.BadParameter(
        f"{name!r} may be any of {several}; name its replica id", param_hint="NODE"
    )


@click.command("leave")
@click.option(
    "--forced", is_flag=True, help="Go at once, whether or not anybody holds what it holds."
)
@node_options
def leave_command(forced: bool, as_json: bool, **where: Any) -> None:
    """Let the node hand over all that it holds, say farewell, and end.

    Waits, within --timeout-ms, until every member in reach has acknowledged everything, so
    that the node's disk may be thrown away; refused (4) where that does not come about: stop
    those that write here first. The cluster still counts the node, and its share of every
    majority, until `crdtmem evict` on a node that stays. Started again, it is back.
    """

    async def leave(client: Client) -> dict[str, Any]:
        wait_ms = where["timeout_ms"]
        outcome: dict[str, Any] = await client.call(
            "leave", (forced, wait_ms), wait_ms=wait_ms + 1_000
        )
        return outcome

    outcome = ask(leave, **where)
    if as_json:
        print_json(outcome)
        return
    holders = ", ".join(outcome["holders"]) or "nobody"
    click.echo(f"{outcome['node']} has left; all that it held is held by {holders}")
    click.echo(
        f"if it is not to come back, run on a node that stays: crdtmem evict {outcome['node']}"
    )
