"""What the commands share: options, asking a node, one way to answer, one way to fail.

A command does its work in ``async def``s over a ``Client``, returns a plain value,
and shows it through ``show``: as one JSON object, or for people.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from crdtmem.cli.ending import (
    EXIT_DEFECT,
    EXIT_ERROR,
    EXIT_FOUND,
    EXIT_REFUSED,
    EXIT_STORE,
    EXIT_UNREACHABLE,
    EXIT_USAGE,
    exit_code_of,
    fail,
    json_text,
    print_json,
)
from crdtmem.client import Client, connect
from crdtmem.config import Settings, load_settings
from crdtmem.control_path import control_path

__all__ = [
    "EXIT_DEFECT",
    "EXIT_ERROR",
    "EXIT_FOUND",
    "EXIT_REFUSED",
    "EXIT_STORE",
    "EXIT_UNREACHABLE",
    "EXIT_USAGE",
    "ask",
    "config_option",
    "exit_code_of",
    "fail",
    "find_settings",
    "json_option",
    "json_text",
    "node_options",
    "parse_space",
    "print_json",
]

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

_DEFAULT_CONFIG: Final = "crdtmem.toml"


# ------------------------------------------------------------------ options


def json_option(command: F) -> F:
    """Add ``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")(command)


def config_option(command: F) -> F:
    """Add ``--config``."""
    return click.option(
        "--config",
        "config_path",
        type=click.Path(path_type=Path, dir_okay=False),
        help=f"Settings file; else CRDTMEM_CONFIG, else {_DEFAULT_CONFIG} if it exists.",
    )(command)


def node_options(command: F) -> F:
    """Add ``--node``, ``--timeout-ms``, ``--config`` and ``--json``."""
    node = click.option(
        "--node",
        "node_url",
        metavar="URL",
        help="The node's control socket, a path or unix:///path; else as the settings say.",
    )
    timeout = click.option(
        "--timeout-ms",
        type=click.IntRange(1, 86_400_000),
        default=10_000,
        show_default=True,
        help="How long to wait for the node.",
    )
    return node(timeout(config_option(json_option(command))))


def find_settings(config_path: Path | None, flags: dict[str, Any] | None = None) -> Settings:
    """Load the settings from the file, the environment and flags. Raises ``ConfigError``."""
    path = config_path
    if path is None and "CRDTMEM_CONFIG" in os.environ:
        path = Path(os.environ["CRDTMEM_CONFIG"])
    if path is None and Path(_DEFAULT_CONFIG).is_file():
        path = Path(_DEFAULT_CONFIG)
    return load_settings(path, os.environ, flags or {})


# ------------------------------------------------------------------ asking a node


def ask(
    work: Callable[[Client], Awaitable[T]],
    *,
    node_url: str | None,
    config_path: Path | None,
    timeout_ms: int,
) -> T:
    """Connect to the node, do the work, and return what it returned."""
    url = node_url or control_path(find_settings(config_path))

    async def run() -> T:
        async with await connect(url, timeout_ms=timeout_ms) as client:
            return await work(client)

    coroutine: Coroutine[Any, Any, T] = run()
    return asyncio.run(coroutine)


def parse_space(text: str) -> tuple[str, ...]:
    """Return the labels of a space written ``a/b/c``."""
    labels = tuple(text.split("/"))
    if not all(labels):
        raise click.BadParameter(f"{text!r} has an empty label; write a/b/c", param_hint="SPACE")
    return labels
