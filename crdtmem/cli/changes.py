"""``crdtmem changes``: what was written, by whom and where, from a cursor on or as it happens."""

from __future__ import annotations

from typing import Any, Final

import click

from crdtmem.causality import Context
from crdtmem.changes import Lagging, Part
from crdtmem.cli.base import ask, json_text, node_options, parse_space, print_json
from crdtmem.cli.times import local_time
from crdtmem.client import Client
from crdtmem.errors import HistoryGap

__all__ = ["changes_command"]

_START: Final = "start"


@click.command("changes")
@click.option("--space", metavar="SPACE", help="Of this space only, such as team/notes.")
@click.option(
    "--after",
    metavar="CURSOR",
    help="Go on after this cursor, as printed at the end; 'start' begins with all that is held.",
)
@click.option("--follow", is_flag=True, help="Go on as changes happen, until interrupted.")
@node_options
def changes_command(
    space: str | None, after: str | None, follow: bool, as_json: bool, **where: Any
) -> None:
    """Print what was written: place, author, region, time and dot of each change.

    Without --follow it ends with what the node holds now, and begins with the first that
    its log still has unless --after says where; with --follow it begins now. Each change is
    printed once, after what it builds on. The cursor is printed last, on standard error.

    With --json each line is one object: a cursor and the changes up to it. The cursor is
    null in all pieces but the last of what belongs together; {"lagging": n} says that the
    changes came faster than they were read, and none is left out.
    """
    name = None if space is None else parse_space(space)
    from_start = after == _START or (after is None and not follow)
    cursor = Context() if from_start else None if after is None else Context.parse(after)

    async def tell(client: Client) -> None:
        until = await client.joined()
        told = _Told(as_json=as_json)
        at = cursor
        while True:
            try:
                at = await _tell(client, name, at, None if follow else until, told)
            except HistoryGap as gap:
                resume = gap.details["resume"]
                if not from_start:
                    gap.hint = f"read the state again, then go on with --after {resume}"
                    raise
                click.echo(f"crdtmem: {gap.message}; what follows is held", err=True)
                at = Context.parse(resume)
            else:
                told.end(at)
                return

    ask(tell, **where)


async def _tell(
    client: Client,
    space: tuple[str, ...] | None,
    after: Context | None,
    until: Context | None,
    told: _Told,
) -> Context:
    """Print the changes after a cursor, through a context or for ever; return the cursor."""
    feed = await client.changes(space, after=after)
    try:
        while until is None or not until <= feed.cursor:
            told.show(await feed.next())
    except HistoryGap:
        raise
    except BaseException:
        # Interrupted, or the node is gone: whoever goes on needs to know from where.
        told.end(feed.cursor)
        raise
    finally:
        await feed.close()
    return feed.cursor


class _Told:
    """Prints parts of a feed, and the cursor once at the end."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._cursor: Context | None = None

    def show(self, part: Part | Lagging) -> None:
        """Print a part, or that the reader is too slow."""
        if self._as_json:
            print_json(part.as_value())
            self._cursor = part.cursor if isinstance(part, Part) else self._cursor
        elif isinstance(part, Part):
            for change in part.changes:
                place = f"{'/'.join(change.space)} {change.datatype} {json_text(change.key)}"
                author = f"{change.author or '-'}@{change.region}"
                deed = "removed" if change.removed else "written"
                click.echo(f"{local_time(change.time_us)} {author} {deed} {place} {change.dot}")

    def end(self, cursor: Context) -> None:
        """Print where to go on, unless the last line said so."""
        if not self._as_json:
            click.echo(f"cursor: {cursor}", err=True)
        elif cursor != self._cursor:
            print_json(Part(cursor, []).as_value())
