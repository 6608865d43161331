"""``crdtmem keyring``: the keys that let nodes into a cluster, and their rotation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from crdtmem.cli.base import ask, json_option, node_options, print_json
from crdtmem.client import Client

__all__ = ["keyring_command"]


@click.group("keyring")
def keyring_command() -> None:
    """Make a key ring, or exchange the key of a running cluster.

    `crdtmem keyring rotate` takes three steps, each told to all nodes by one of them:

    \b
    crdtmem keyring install        a fresh key: everybody can read what it seals
    crdtmem keyring use KEY        everybody seals with it
    crdtmem keyring remove OLD     nobody reads what the old one seals

    Each waits until the living members have followed, within --timeout-ms. Who was away
    learns of it when it is back, for a week; after that, or with --compromised, it needs a
    copy of another node's ring.
    """


@keyring_command.command("generate")
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False))
@json_option
def _generate(path: Path, as_json: bool) -> None:
    """Write a ring with one fresh key to PATH, which must not exist, for all nodes to share."""
    from crdtmem.keys import create_ring

    ring = create_ring(path)
    if as_json:
        print_json({"path": str(path), "key": f"{ring.primary.id:08x}"})
    else:
        click.echo(f"{path}: key {ring.primary.id:08x}; start every node with --keyring {path}")


@keyring_command.command("list")
@node_options
def _list(as_json: bool, **where: Any) -> None:
    """Show which keys there are, who seals with each, and who lacks it. Never the keys."""

    async def read(client: Client) -> dict[str, Any]:
        ring: dict[str, Any] = await client.call("keyring", ())
        return ring

    _show(ask(read, **where), as_json=as_json)


@keyring_command.command("install")
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    metavar="RING",
    help="The first key of this key ring, instead of a fresh one.",
)
@node_options
def _install(source: Path | None, as_json: bool, **where: Any) -> None:
    """Add a key to every node's ring. It opens what it seals; nothing seals with it yet."""
    material: bytes | None = None
    if source is not None:
        from crdtmem.keys import load_ring

        material = load_ring(source).primary.material
    _rotate("install", material, as_json=as_json, where=where)


@keyring_command.command("use")
@click.argument("key")
@node_options
def _use(key: str, as_json: bool, **where: Any) -> None:
    """Let every node seal with KEY. Refused (4) while a living member does not hold it."""
    _rotate("use", _number(key), as_json=as_json, where=where)


@keyring_command.command("remove")
@click.argument("key")
@click.option(
    "--compromised",
    is_flag=True,
    help="Somebody else may have it: it opens nothing from now on, also for who was away.",
)
@node_options
def _remove(key: str, compromised: bool, as_json: bool, **where: Any) -> None:
    """Remove KEY from every ring. Refused (4) while anybody living seals with another than
    the primary, or KEY is the primary."""
    action = "remove_compromised" if compromised else "remove"
    _rotate(action, _number(key), as_json=as_json, where=where)


@keyring_command.command("rotate")
@click.option(
    "--compromised",
    is_flag=True,
    help="Somebody else may have the former key: it opens nothing, also for who was away.",
)
@node_options
def _rotate_all(compromised: bool, as_json: bool, **where: Any) -> None:
    """Exchange the key that seals for a fresh one: install, use, remove.

    Refused (4) where a living member does not follow in time; what was done until then
    stays, and the same command, or the missing steps by hand, go on from there.
    """
    wait_ms = where["timeout_ms"]

    async def rotate(client: Client) -> dict[str, Any]:
        async def step(action: str, key: int | None) -> dict[str, Any]:
            ring: dict[str, Any] = await client.call(
                "rotate", (action, key, wait_ms), wait_ms=wait_ms + 1_000
            )
            return ring

        installed = await step("install", None)
        former = next(int(key["key"], 16) for key in installed["keys"] if key["primary"])
        await step("use", int(installed["key"], 16))
        return await step("remove_compromised" if compromised else "remove", former)

    _show(ask(rotate, **where), as_json=as_json)


def _number(text: str) -> int:
    try:
        number = int(text, 16)
    except ValueError:
        number = -1
    if not 0 <= number < 1 << 32:
        raise click.BadParameter(
            f"{text!r} is no key's number; `crdtmem keyring list` shows them", param_hint="KEY"
        )
    return number


def _rotate(action: str, key: int | bytes | None, *, as_json: bool, where: dict[str, Any]) -> None:
    wait_ms = where["timeout_ms"]

    async def rotate(client: Client) -> dict[str, Any]:
        ring: dict[str, Any] = await client.call(
            "rotate", (action, key, wait_ms), wait_ms=wait_ms + 1_000
        )
        return ring

    _show(ask(rotate, **where), as_json=as_json)


def _show(ring: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(ring)
        return
    if not ring["sealed"]:
        click.echo("this cluster speaks plain text, and has no keys")
        return
    table = Table("key", "use", "members that seal with it", "living members without it")
    for key in ring["keys"]:
        table.add_row(
            key["key"],
            "seals" if key["primary"] else "opens",
            ", ".join(key["sealing"]) or "-",
            ", ".join(key["missing"]) or "-",
        )
    Console().print(table)
