"""``crdtmem evict``, ``rejoin`` and ``rescue``: members given up, and what they had written."""

from __future__ import annotations

import sys
from string import hexdigits
from typing import Any, Final

import click

from crdtmem.cli.base import EXIT_FOUND, ask, json_text, node_options, print_json
from crdtmem.cli.members import find_member
from crdtmem.cli.times import local_time
from crdtmem.client import Client

__all__ = ["evict_command", "rejoin_command", "rescue_command"]

_RESCUE_MS: Final = 86_400_000
_ID_DIGITS: Final = 16


@click.command("evict")
@click.argument("node", metavar="NODE")
@click.option(
    "--force",
    "--forced",
    "forced",
    is_flag=True,
    help="Count it in no majority. If it goes on elsewhere, two clusters result.",
)
@click.option("--yes", is_flag=True, help="Do not ask. Needed where there is no terminal.")
@node_options
def evict_command(node: str, forced: bool, yes: bool, as_json: bool, **where: Any) -> None:
    """Propose to give up the member NODE for good.

    NODE is its name (REGION/NAME, as `crdtmem members` shows it) or its replica id, 16
    hexadecimal digits. A majority of the members decides, and a majority of those of whom
    everybody knows, the evicted included: whoever was admitted while it was away does not
    count. If it lives, it goes on under a new id, and what nobody else had joined of it is
    set aside in its own store: see `crdtmem rescue`. With --json nothing is asked.
    """

    async def look(client: Client) -> dict[str, Any]:
        rows: list[dict[str, Any]] = await client.call("members", ())
        if _is_replica(node) and all(row["replica"] != node.lower() for row in rows):
            # Whom nobody knows is refused by the node, which says why.
            return {"replica": node.lower(), "node": ""}
        return find_member(rows, node)

    row = ask(look, **where)
    number = int(row["replica"], 16)
    if not (yes or as_json):
        _explain(row, forced=forced)
        click.confirm("Give it up?", abort=True, err=True)

    async def propose(client: Client) -> None:
        await client.call("evict", (number, forced))

    ask(propose, **where)
    if as_json:
        print_json({"proposed": f"{number:016x}", "forced": forced})
    else:
        click.echo(f"proposed; `crdtmem members` shows when {number:016x} is no member any more")


def _is_replica(text: str) -> bool:
    """Whether it is a replica id: also of one that nobody here knows, which the node refuses."""
    return (
        len(text) == _ID_DIGITS and all(digit in hexdigits for digit in text) and int(text, 16) > 0
    )


def _explain(row: dict[str, Any], *, forced: bool) -> None:
    who = row["node"] or row["replica"]
    state, lag = row.get("state", "unknown"), row.get("lag")
    click.echo(f"{who} ({row['replica']}) is {state} as this node sees it.", err=True)
    if state in ("alive", "suspect"):
        click.echo(
            "It can be reached: `crdtmem leave` there hands over what only it may hold.", err=True
        )
    if lag:
        click.echo(f"It has not acknowledged {lag} changes that this node holds.", err=True)
    click.echo(
        "Its id is never used again. What it wrote and handed to nobody will not count; it "
        "stays in its own store, for `crdtmem rescue`.",
        err=True,
    )
    if forced:
        click.echo(
            "FORCED: no majority is asked. If it goes on anywhere with others, there will be "
            "two clusters, and one of them must `crdtmem rejoin` the other.",
            err=True,
        )


@click.command("rejoin")
@node_options
def rejoin_command(as_json: bool, **where: Any) -> None:
    """Join the other side of a cluster whose two sides were given up by force.

    Where `crdtmem evict --forced` was used on both sides of a partition there are two
    clusters, and once they meet again each node names the other side in an alarm. Decide
    which side stays, and run this on each node of the other. It goes on under a new id; what
    it had written since is set aside in its own store, and written anew by `crdtmem rescue`.
    """

    async def rejoin(client: Client) -> None:
        await client.call("rejoin", None)

    ask(rejoin, **where)
    if as_json:
        print_json({"rejoined": True})
    else:
        click.echo("this node goes on under a new id; `crdtmem rescue` lists what was set aside")


@click.command("rescue")
@click.argument("action", type=click.Choice(["list", "apply"]), default="list")
@click.argument("dots", nargs=-1, metavar="[DOT]...")
@click.option("--all", "everything", is_flag=True, help="With apply: all that is lost.")
@node_options
def rescue_command(
    action: str, dots: tuple[str, ...], everything: bool, as_json: bool, **where: Any
) -> None:
    """List what a node has set aside beyond a cut, or write it anew.

    A write is lost, rescued, has arrived after all, or is unclear: its place in the log
    is taken, and nothing is left to tell by what. `rescue apply` writes the transactions
    that hold the DOTs, or with --all whatever is lost: as new operations, with their
    authors, each once, however often it is asked. Only the one node that succeeds the
    evicted replica may. Exits with 6 where some could not be written.
    """
    if action == "list":
        if dots or everything:
            raise click.UsageError("'rescue list' takes neither dots nor --all")
        _list(as_json=as_json, where=where)
        return
    if everything == bool(dots):
        raise click.UsageError("name dots, as 'rescue list' shows them, or give --all")

    async def apply(client: Client) -> dict[str, Any]:
        body = (None if everything else list(dots),)
        outcome: dict[str, Any] = await client.call("rescue", body, wait_ms=_RESCUE_MS)
        return outcome

    outcome = ask(apply, **where)
    if as_json:
        print_json(outcome)
    else:
        click.echo(f"{outcome['written']} transactions written, {outcome['already']} were there")
        for failure in outcome["failed"]:
            click.echo(f"  {failure['dot']} could not be: {failure['reason']}")
    if outcome["failed"]:
        sys.exit(EXIT_FOUND)


def _list(*, as_json: bool, where: dict[str, Any]) -> None:
    async def read(client: Client) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        idle_ms = where["timeout_ms"]
        async with await client.events("rescue_list", (), idle_ms=idle_ms) as events:
            async for part in events:
                found += part
        return found

    writes = ask(read, **where)
    if as_json:
        print_json({"writes": writes})
        return
    for write in writes:
        place = "/".join([*write["space"], write["key"], *filter(None, [write["field"]])])
        value = "removed" if write["removes"] else json_text(write["value"])
        author = f"{write['author'] or '-'}@{write['region']}"
        click.echo(
            f"{write['dot']} {write['state']:8} {write['datatype']} {place} = {value}"
            f"  ({author}, {local_time(write['time_us'])})"
        )
    if not writes:
        click.echo("nothing was set aside")
