"""``crdtmem config``: what the settings are, where each comes from, and what it means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from crdtmem.cli.base import config_option, find_settings, json_option, print_json
from crdtmem.config import explain
from crdtmem.control_path import control_path

__all__ = ["config_command"]


@click.command("config")
@click.option("--check", is_flag=True, help="Check the settings and say that they hold.")
@config_option
@json_option
def config_command(check: bool, config_path: Path | None, as_json: bool) -> None:
    """Show every setting with its value, its source and its meaning.

    Exits with 2, and names each mistake and where it was made, if a node could not
    run with them. With --check and nothing wrong it prints one line.
    """
    settings = find_settings(config_path)
    rows = explain(settings)
    if as_json:
        shown: dict[str, Any] = {
            row.name: {
                "value": list(row.value) if isinstance(row.value, tuple) else row.value,
                "source": row.source,
                "meaning": row.description,
            }
            for row in rows
        }
        print_json({"ok": True, "control_socket": control_path(settings), "settings": shown})
        return
    if check:
        given = sum(row.source != "default" for row in rows)
        click.echo(f"ok: {len(rows)} settings, {given} of them given, the others by default")
        return
    table = Table("setting", "value", "source", "meaning")
    for row in rows:
        table.add_row(row.name, str(row.value), row.source, row.description)
    Console().print(table)
