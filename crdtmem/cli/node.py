"""``crdtmem node``: run a node in the foreground, as a supervisor wants it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import click

from crdtmem.cli.base import config_option, find_settings, json_option

__all__ = ["node_command"]


@click.command("node")
@click.option("--region", help="Region that this node belongs to.")
@click.option("--node-name", metavar="NAME", help="Name for people, unique within the region.")
@click.option("--cluster", metavar="NAME", help="Name that all nodes of a cluster share.")
@click.option("--store", metavar="URL", help="URL of the store, such as sqlite:///crdtmem.db.")
@click.option("--listen", metavar="HOST:PORT", help="Where other nodes reach it; port 0 takes any.")
@click.option("--advertise", metavar="HOST:PORT", help="What others are told, if not --listen.")
@click.option(
    "--join", "seeds", multiple=True, metavar="HOST:PORT", help="A node of the cluster; repeatable."
)
@click.option("--keyring", "ring", metavar="PATH", help="Key ring of the cluster.")
@click.option("--peer", "peers", multiple=True, metavar="HOST:PORT", help="A peer; repeatable.")
@click.option(
    "--socket",
    "--control-socket",
    "control_socket",
    metavar="PATH",
    help="Unix socket for clients and commands.",
)
@click.option("--http", "http", metavar="HOST:PORT", help="Serve HTTP there; port 0 takes any.")
@click.option("--log-level", help="debug, info, warning or error.")
@click.option(
    "--set",
    "assigned",
    multiple=True,
    metavar="NAME=VALUE",
    help="Any other setting, such as limits.key_bytes=512; repeatable.",
)
@click.option(
    "--found",
    is_flag=True,
    help="Found the cluster anew of what this store holds: only where no member is left.",
)
@config_option
@json_option
def node_command(
    config_path: Path | None,
    as_json: bool,
    found: bool,
    peers: tuple[str, ...],
    seeds: tuple[str, ...],
    ring: str | None,
    http: str | None,
    assigned: tuple[str, ...],
    **flags: Any,
) -> None:
    """Run a node until SIGTERM, SIGINT or a client's stop.

    Prints one line when it is ready: region, replica, where it listens for peers, where
    its control socket is, and its HTTP API if there is one; with --json one object. Logs go
    to standard error.
    A second node on the same store or control socket is refused.

    A cluster of which nothing is left but backups has no member who could admit the
    restored nodes. Start one of them, once, with --found: it founds the cluster anew, and
    the others, started as ever, join it with all that their backups hold. When they have,
    give up the former members: `crdtmem evict --forced` for each that `crdtmem status`
    still lists.
    """
    from crdtmem.node import run_node

    if peers:
        flags["peers"] = ",".join(peers)
    if seeds:
        flags["join"] = ",".join(seeds)
    flags["mesh.keyring"] = ring
    flags["http.listen"] = http
    for text in assigned:
        name, separator, value = text.partition("=")
        if not separator:
            raise click.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="--set")
        flags[name] = value
    settings = find_settings(config_path, flags)
    logging.basicConfig(
        level=settings.log_level.upper(),
        format=f"%(asctime)s {settings.region}/{settings.node_name} %(levelname)s %(message)s",
    )
    faces: list[Any] = []
    if settings.http.listen:
        # Only who serves HTTP pays for importing it.
        from crdtmem.server import faces_of

        faces += faces_of(settings)
    run_node(settings, as_json=as_json, found=found, faces=faces)
