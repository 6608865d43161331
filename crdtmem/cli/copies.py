"""``crdtmem backup`` and ``crdtmem restore``: copies that never pass for the original."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import click

from crdtmem.cli.base import ask, json_option, node_options, print_json
from crdtmem.cli.progress import Watching
from crdtmem.cli.times import size_text
from crdtmem.client import Client
from crdtmem.errors import InvalidValue, StoreCorrupt
from crdtmem.store import open_store

__all__ = ["backup_command", "restore_command"]


@click.command("backup")
@click.argument("path", type=click.Path(path_type=Path))
@node_options
def backup_command(path: Path, as_json: bool, **where: Any) -> None:
    """Copy a running node's store to PATH, which must not exist: one consistent file.

    Opened as a store, the copy takes a replica id of its own.
    """
    target = str(path.absolute())

    async def backup(client: Client) -> dict[str, Any]:
        async with await client.events("backup", (target,)) as events:
            with Watching("copying", quiet=as_json) as watching:
                async for done, total in events:
                    watching.update(done, total)
        report: dict[str, Any] = events.result
        return report

    report = ask(backup, **where)
    if as_json:
        print_json(report)
    else:
        click.echo(f"{report['path']}: {size_text(report['bytes'])}")


@click.command("restore")
@click.argument("backup", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("store", type=click.Path(path_type=Path))
@json_option
def restore_command(backup: Path, store: Path, as_json: bool) -> None:
    """Make the new store file STORE from BACKUP, which is left as it is.

    The backup is verified first. The node that opens STORE takes a new replica id, and
    fetches from its peers what was written since. Where all nodes are restored, one of
    them has to found the cluster anew: see `crdtmem node --help`, --found.
    """
    if store.exists():
        raise InvalidValue(f"{store} exists", hint="name a new file, or move the old store away")
    partial = store.with_name(store.name + ".partial")
    try:
        shutil.copyfile(backup, partial)
        partial.chmod(0o600)
        records = _verified(partial)
        with partial.open("rb+") as copied:
            os.fsync(copied.fileno())
        partial.rename(store)
        _sync_folder(store.parent)
    finally:
        for leftover in store.parent.glob(partial.name + "*"):
            leftover.unlink(missing_ok=True)
    if as_json:
        print_json({"store": f"sqlite:///{store}", "records": records})
    else:
        click.echo(f"{store}: {records} records; start it with --store sqlite:///{store}")


def _verified(path: Path) -> int:
    """Check every record of the copy; return how many there are."""
    opened = open_store(f"sqlite:///{path}", read_only=True)
    try:
        report = opened.verify()
    finally:
        opened.close()
    if not report.sound:
        raise StoreCorrupt(
            f"the backup is damaged: {report.problems[0]}",
            hint=f"{len(report.problems)} problems; use another backup",
        )
    return report.records


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
