"""``crdtmem get`` and ``crdtmem set``: one key, any datatype, any operation."""

from __future__ import annotations

import json
from typing import Any, Final

import click
from rich.console import Console
from rich.table import Table

from crdtmem.causality import Context, Observed
from crdtmem.cli.base import ask, json_text, node_options, parse_space, print_json
from crdtmem.cli.times import local_time
from crdtmem.client import Client
from crdtmem.crdt import DATATYPES
from crdtmem.exporting import from_json
from crdtmem.reading import Reading
from crdtmem.replica import Committed
from crdtmem.transaction import Operation, Options

__all__ = ["get_command", "set_command"]

_DEFAULT_OPERATIONS: Final = {
    "register": "set",
    "multi_value": "set",
    "flag": "enable",
    "flag_disable_wins": "enable",
    "g_counter": "increment",
    "counter": "increment",
    "bounded_counter": "consume",
    "set": "add",
    "set_remove_wins": "add",
    "map": "set",
    "log": "append",
    "document": "update",
}

_type_option = click.option(
    "--type",
    "datatype",
    type=click.Choice(list(DATATYPES)),
    default="register",
    show_default=True,
    help="Datatype of the key; it is part of the key's address.",
)


@click.command("get")
@click.argument("space")
@click.argument("key")
@_type_option
@click.option("--siblings", is_flag=True, help="Also show every concurrent value, with authors.")
@click.option("--at-least", metavar="CONTEXT", help="Wait until the node has joined this context.")
@node_options
def get_command(
    space: str,
    key: str,
    datatype: str,
    siblings: bool,
    at_least: str | None,
    as_json: bool,
    **where: Any,
) -> None:
    """Read KEY of SPACE (labels parted by /, such as team/notes).

    Prints the value as JSON; exits with 0 also where there is none, which is null
    ("exists" tells the two apart in --json).
    """
    name = parse_space(space)
    context = None if at_least is None else Context.parse(at_least)
    code = DATATYPES[datatype].code

    async def read(client: Client) -> Reading:
        return await client.read(
            name, code, key, at_least=context, timeout_ms=int(where["timeout_ms"])
        )

    reading = ask(read, **where)
    if as_json:
        print_json(_reading_value(reading, siblings=siblings))
        return
    click.echo(json_text(reading.value))
    for other in reading.also:
        click.echo(f"also held under this key: a {other}", err=True)
    if reading.contested:
        click.echo(
            f"contested: {len(reading.entries)} concurrent values, shown by {reading.resolver}",
            err=True,
        )
    if siblings:
        _show_siblings(reading)


def _reading_value(reading: Reading, *, siblings: bool) -> dict[str, Any]:
    value = {
        "value": reading.value,
        "exists": reading.exists,
        "contested": reading.contested,
        "resolver": reading.resolver,
        "also": list(reading.also),
        "observed": str(reading.observed),
    }
    if siblings:
        value["siblings"] = [sibling.as_value() for sibling in reading.siblings]
    return value


def _show_siblings(reading: Reading) -> None:
    table = Table("value", "author", "region", "time", "dot")
    for sibling in reading.siblings:
        table.add_row(
            json_text(sibling.value),
            sibling.author or "-",
            sibling.region,
            local_time(sibling.physical_us),
            sibling.dot,
        )
    Console().print(table)


@click.command("set")
@click.argument("space")
@click.argument("key")
@click.argument("values", nargs=-1, metavar="[VALUE]...")
@_type_option
@click.option("--operation", metavar="NAME", help="Operation of the datatype; else its usual one.")
@click.option("--text", is_flag=True, help="Take the values as text, not as JSON.")
@click.option("--author", default="", help="Who writes.")
@click.option("--trust", default=0, help="How far the author is trusted; higher is more.")
@click.option("--ttl-ms", type=click.IntRange(1), help="Let the entry expire after this time.")
@click.option("--observed", metavar="TOKEN", help="Supersede just what that read returned.")
@click.option("--expect", metavar="TOKEN", help="Refuse unless the key still holds just that.")
@click.option(
    "--durability",
    type=click.Choice(["local", "region", "majority", "all"]),
    default="local",
    show_default=True,
    help="How widely durable it must be before this command ends.",
)
@node_options
def set_command(
    space: str,
    key: str,
    values: tuple[str, ...],
    datatype: str,
    operation: str | None,
    text: bool,
    as_json: bool,
    author: str,
    trust: int,
    durability: str,
    **rest: Any,
) -> None:
    """Write KEY of SPACE: set a register, or carry out an operation of another datatype.

    A VALUE is JSON where it is valid JSON, else text: 5 is a number, "5" and hello
    are texts; -- goes before one that begins with a dash. Without --operation a register
    is set, a counter incremented, an element added, a log appended to, a flag enabled, a
    map's member set (PATH VALUE).

    \b
    crdtmem set team/notes plan '{"step": 1}'
    crdtmem set team/notes visits 3 --type counter
    crdtmem set team/notes tags blue --type set --operation remove
    """
    options = _options(rest.pop("observed"), rest.pop("expect"), rest.pop("ttl_ms"))
    arguments = tuple([value if text else _value(value) for value in values])
    written = Operation(
        parse_space(space),
        DATATYPES[datatype].code,
        key,
        operation or _DEFAULT_OPERATIONS[datatype],
        arguments,
        options,
    )

    async def write(client: Client) -> Committed:
        session = client.session(
            author=author, trust=trust, durability=durability, timeout_ms=rest["timeout_ms"]
        )
        async with session.transaction() as opened:
            opened.transaction.add(written)
        assert opened.committed is not None
        return opened.committed

    committed = ask(write, **rest)
    if as_json:
        print_json({"context": str(committed.context), "count": committed.count})
    else:
        click.echo(str(committed.context))


def _value(text: str) -> Any:
    try:
        return from_json(json.loads(text))
    except json.JSONDecodeError:
        return text


def _options(observed: str | None, expect: str | None, ttl_ms: int | None) -> Options | None:
    from crdtmem.wall import now_us

    if observed is None and expect is None and ttl_ms is None:
        return None
    if observed is not None and expect is not None:
        raise click.UsageError("give --observed or --expect, not both")
    token = observed if expect is None else expect
    return Options(
        observed=None if token is None else Observed.parse(token).dots,
        conditional=expect is not None,
        expires_at_us=None if ttl_ms is None else now_us() + ttl_ms * 1_000,
    )
