"""``crdtmem evict``, ``rejoin`` and ``rescue``: members given up, and what they had written."""

from __future__ import annotations

import sys
from typing import Any

import click

from crdtmem.cli.base import EXIT_FOUND, ask, json_text, node_options, print_json
from crdtmem.cli.times import local_time
from crdtmem.client import Client

__all__ = ["evict_command", "rejoin_command", "rescue_command"]

_RESCUE_MS = 86_400_000


@click.command("evict")
@click.argument("replica")
@click.option(
    "--forced",
    is_flag=True,
    help="Count it in no majority. If it goes on elsewhere, two clusters result.",
)
@node_options
def evict_command(replica: str, forced: bool, as_json: bool, **where: Any) -> None:
    """Propose to give up the member REPLICA (16 hexadecimal digits) for good.

    A majority of the members decides, and a majority of those of whom everybody knows,
    the evicted included: whoever was admitted while it was away does not count. If it
    lives, it goes on under a new id, and what nobody else had joined of it is set aside in
    its own store: see `crdtmem rescue`.
    """
    try:
        number = int(replica, 16)
    except ValueError:
        number = 0
    if not 0 < number < 1 << 64:
        raise click.BadParameter(f"{replica!r} is no replica id", param_hint="REPLICA")

    async def propose(client: Client) -> None:
        await client.call("evict", (number, forced))

    ask(propose, **where)
    if as_json:
        print_json({"proposed": f"{number:016x}", "forced": forced})
    else:
        click.echo(f"proposed; `crdtmem status` shows when {number:016x} is no member any more")


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
