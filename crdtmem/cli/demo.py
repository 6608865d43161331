"""``crdtmem demo``: three regions on this machine, a cut link, and how they heal."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click
from rich.console import Console

from crdtmem.cli.base import EXIT_FOUND, json_option, print_json

__all__ = ["demo_command"]


@click.command("demo")
@click.option(
    "--input",
    "input_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the events of this JSONL file (or .jsonl.gz) instead of the built-in ones.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="What is drawn at random.")
@click.option("--keep", is_flag=True, help="Leave the three stores and logs, and say where.")
@json_option
def demo_command(input_path: Path | None, seed: int, keep: bool, as_json: bool) -> None:
    """Start three nodes, cut a region off while all of them write, and heal the link.

    Exits 0 only if all three digests are equal and every acknowledged write is present
    in all three; 6 if not. With --json, one object: converged, acknowledged, lost,
    conflicts, digests, conflict_list, and more.
    """
    from crdtmem.demo import DemoOptions, run_demo
    from crdtmem.demo.picture import Picture, print_report

    console = Console()
    picture = Picture(console, quiet=as_json)
    try:
        report = asyncio.run(run_demo(DemoOptions(input_path, seed, keep), picture))
    except asyncio.CancelledError:
        # SIGTERM: everything has been cleaned up, and this is an interruption like any other.
        raise click.Abort from None
    if as_json:
        print_json(report.as_value())
    else:
        print_report(console, report)
        if report.data is not None:
            console.print(f"stores and logs are in {report.data}", highlight=False, soft_wrap=True)
    if not report.passed:
        raise SystemExit(EXIT_FOUND)
