"""``crdtmem export``: every live entry as a line of JSON, with who, where and when."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import click

from crdtmem.cli.base import ask, json_text, node_options, parse_space, print_json
from crdtmem.cli.progress import Watching
from crdtmem.client import Client
from crdtmem.errors import InvalidValue

__all__ = ["export_command"]


@click.command("export")
@click.argument("path", type=click.Path(path_type=Path, allow_dash=True), default="-")
@click.option("--space", metavar="SPACE", help="Export this space only, such as team/notes.")
@node_options
def export_command(path: Path, space: str | None, as_json: bool, **where: Any) -> None:
    """Write every live entry as JSON lines to PATH, or to standard output.

    Each line is the operation that would write the entry again, with author, region,
    time and dot; `crdtmem import` reads it. With --json, PATH is required and the
    one object printed says how many lines it got.
    """
    to_output = str(path) == "-"
    if as_json and to_output:
        raise click.UsageError("--json prints one object: give a PATH for the lines")
    if not to_output and path.exists():
        raise InvalidValue(f"{path} exists", hint="name a new file")
    name = None if space is None else parse_space(space)

    async def export(client: Client) -> int:
        count = 0
        with _output(path) as lines, Watching("exporting", quiet=as_json or to_output) as watching:
            async for record in client.export(name):
                lines.write(json_text(record) + "\n")
                count += 1
                if count % 1_000 == 0:
                    watching.update(count, None)
        return count

    count = ask(export, **where)
    if as_json:
        print_json({"path": str(path), "records": count})
    elif not to_output:
        click.echo(f"{path}: {count} records")


@contextmanager
def _output(path: Path) -> Iterator[TextIO]:
    if str(path) == "-":
        yield sys.stdout
        return
    with path.open("x", encoding="utf-8") as lines:
        yield lines
