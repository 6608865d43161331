"""``crdtmem import``: files of events become writes, one transaction per event."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from crdtmem.cli.base import ask, node_options, parse_space, print_json
from crdtmem.cli.progress import Watching
from crdtmem.client import Client

__all__ = ["import_command"]


@click.command("import")
@click.argument(
    "paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="PATH..."
)
@click.option(
    "--space",
    default="imported",
    show_default=True,
    metavar="SPACE",
    help="Where events go, such as team/notes. Exported records name their own.",
)
@node_options
def import_command(paths: tuple[Path, ...], space: str, as_json: bool, **where: Any) -> None:
    """Write the events of JSONL files, plain or gzip.

    Conversation turns (id, speaker, text), messages of agent runs (run, step, role), what
    `crdtmem export` wrote, and any other JSON objects are told apart line by line. What
    was imported before counts once. A bad line ends the import, and is named; what came
    before it stays.
    """
    from crdtmem.importer import ImportTotals, import_events, read_events

    name = parse_space(space)

    async def run(client: Client) -> list[ImportTotals]:
        done = []
        for path in paths:
            with Watching(f"importing {path.name}", quiet=as_json) as watching:
                events = read_events(path, watching.update)
                done.append(await import_events(client, events, name))
        return done

    totals = ask(run, **where)
    files = [
        {"path": str(path), **each.as_value()} for path, each in zip(paths, totals, strict=True)
    ]
    if as_json:
        print_json({"files": files, "events": sum(each.events for each in totals)})
        return
    for row in files:
        repeated = f", {row['repeated']} known already" if row["repeated"] else ""
        click.echo(f"{row['path']}: {row['events']} events{repeated}")
