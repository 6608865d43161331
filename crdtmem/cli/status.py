"""``crdtmem status`` and ``crdtmem verify``: how a node fares, and whether its store is sound."""

from __future__ import annotations

import sys
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from crdtmem.cli.base import EXIT_FOUND, ask, node_options, print_json
from crdtmem.cli.progress import Watching
from crdtmem.cli.times import local_time, size_text
from crdtmem.client import Client

__all__ = ["status_command", "verify_command"]


@click.command("status")
@node_options
def status_command(as_json: bool, **where: Any) -> None:
    """Show a node's identity, digests, peers and how far they lag, alarms, and what waits."""

    async def read(client: Client) -> dict[str, Any]:
        status: dict[str, Any] = await client.call("status", ())
        return status

    status = ask(read, **where)
    if as_json:
        print_json(status)
        return
    _show(status)


def _show(status: dict[str, Any]) -> None:
    console = Console()
    table = Table(show_header=False, box=None)
    size = status["store"]["size_bytes"]
    rows = {
        "node": f"{status['region']}/{status['node']} of {status['cluster']}",
        "replica": status["replica"],
        "version": f"{status['version']}, up {status['uptime_s']:.0f} s, pid {status['pid']}",
        "listen": status["listen"],
        "control": status["control"],
        "store": status["store"]["url"] + ("" if size is None else f" ({size_text(size)})"),
        "digest": status["digest"],
        "context": status["context"],
        "keys": f"{status['keys']}, {status['conflicts']} of them contested",
        "mesh": _mesh_text(status["mesh"]),
        "waiting": ", ".join(f"{count} {what}" for what, count in status["queues"].items()),
        "clients": _clients_text(status["clients"], status["admission"]),
    }
    for name, value in rows.items():
        table.add_row(name, str(value))
    console.print(table)
    if status["members"]:
        members = Table("member", "region", "not yet acknowledged")
        for replica, region in status["members"].items():
            here = replica == status["replica"]
            members.add_row(replica, region, "here" if here else str(status["lag"][replica]))
        console.print(members)
    if status["peers"]:
        peers = Table("peer", "stream", "sent", "received", "last error")
        for peer in status["peers"]:
            peers.add_row(
                peer["address"],
                "open" if peer["connected"] else "closed",
                size_text(peer["sent_bytes"]),
                size_text(peer["received_bytes"]),
                peer["error"] or "-",
            )
        console.print(peers)
    if status["quotas"]:
        quotas = Table("space", "keys", "of", "entries", "of")
        for space, held in status["quotas"].items():
            names = ("keys", "quota_keys", "entries", "quota_entries")
            quotas.add_row(
                space, *("-" if held[name] is None else str(held[name]) for name in names)
            )
        console.print(quotas)
    if status["halted"]:
        console.print(f"[bold red]halted:[/] {status['halted']}")
    if status["admission"]["writes_refused"]:
        console.print("[bold red]memory:[/] new writes are refused, see admission.memory_bytes")
    if status["broken"]:
        console.print(f"[bold red]store:[/] {_trouble_text(status['broken'])}")
    for alarm in status["alarms"]:
        console.print(f"[yellow]{alarm['name']}:[/] {alarm['message']}")


def _clients_text(clients: int, admission: dict[str, Any]) -> str:
    """Say what all clients hold, how many have to wait, and what memory the process takes."""
    memory = size_text(admission["memory_bytes"])
    if admission["memory_bytes_limit"] is not None:
        memory += f" of {size_text(admission['memory_bytes_limit'])}"
    return (
        f"{clients} with {admission['operations']} unanswered "
        f"({size_text(admission['bytes'])}), {admission['waiting']} not read, "
        f"{admission['streams']} streams, {admission['refused']} refused; memory {memory}"
    )


def _mesh_text(mesh: dict[str, Any]) -> str:
    """Say in a line how the mesh fares; the counters are summed over both pools."""
    if not mesh["running"]:
        return "does not run"
    words = ["sealed" if mesh["sealed"] else "plain text"]
    if mesh["gateway"]:
        words.append(f"{mesh['gateway']} gateway")
    words += [f"{count} {state}" for state, count in mesh["states"].items() if count]
    counters = mesh["counters"]
    pools = counters["pools"].values()
    probes, failed = (sum(pool[name] for pool in pools) for name in ("probes", "probes_failed"))
    words.append(f"{probes} probes, {failed} failed")
    refused = sum(sum(pool["refused"].values()) for pool in pools)
    refused += sum(
        count for name, count in counters["mesh"].items() if name.startswith("datagrams refused")
    )
    words.append(f"{refused} refused")
    words.append(f"loop at most {mesh['lag_maximum_us'] / 1000:.0f} ms late")
    return ", ".join(words)


def _trouble_text(broken: dict[str, Any]) -> str:
    """Say what is wrong with a store, since when, and what to do about it."""
    words = str(broken["message"])
    if broken["since_us"] is not None:
        since = local_time(broken["since_us"])
        words += f"; since {since}, commits that failed in a row: {broken['failures']}"
    return f"{words} ({broken['hint']})" if broken["hint"] else words


@click.command("verify")
@click.option(
    "--deep", is_flag=True, help="Also derive the whole state again, and compare its digests."
)
@node_options
def verify_command(deep: bool, as_json: bool, **where: Any) -> None:
    """Read all that a node has stored: checksums, hash chains, density, structure.

    Exits with 6 where anything is wrong. Writes wait meanwhile.
    """

    async def verify(client: Client) -> dict[str, Any]:
        async with await client.events("verify", (deep,)) as events:
            with Watching("verifying", quiet=as_json) as watching:
                async for done, total in events:
                    watching.update(done, total)
        report: dict[str, Any] = events.result
        return report

    report = ask(verify, **where)
    if as_json:
        print_json(report)
    else:
        click.echo(
            f"{report['records']} records, {size_text(report['record_bytes'])}, "
            f"{report['chunks']} checkpoint chunks: "
            + ("sound" if report["sound"] else f"{len(report['problems'])} problems")
        )
        for problem in report["problems"]:
            click.echo(f"  {problem}")
    if not report["sound"]:
        sys.exit(EXIT_FOUND)
