"""How a command ends: one JSON object or one line, and an exit code that means one thing.

Imports next to nothing, so that ``--help`` and a mistyped command are answered at once.
"""

from __future__ import annotations

import json
import sys
from typing import Any, Final, NoReturn

import click

from crdtmem.errors import (
    ConfigError,
    CrdtmemError,
    Defect,
    LocalError,
    ProtocolMismatch,
    ReplicaHalted,
    StoreError,
    Unreachable,
)

__all__ = [
    "EXIT_DEFECT",
    "EXIT_ERROR",
    "EXIT_FOUND",
    "EXIT_REFUSED",
    "EXIT_STORE",
    "EXIT_UNREACHABLE",
    "EXIT_USAGE",
    "exit_code_of",
    "fail",
    "json_text",
    "print_json",
]

EXIT_ERROR: Final = 1
EXIT_USAGE: Final = 2
EXIT_UNREACHABLE: Final = 3
EXIT_REFUSED: Final = 4
EXIT_STORE: Final = 5
EXIT_FOUND: Final = 6
EXIT_DEFECT: Final = 7


def exit_code_of(error: BaseException) -> int:
    """Return the documented exit code of an error."""
    if isinstance(error, click.ClickException | ConfigError):
        return EXIT_USAGE
    if isinstance(error, Unreachable | ProtocolMismatch):
        return EXIT_UNREACHABLE
    if isinstance(error, LocalError | ReplicaHalted):
        return EXIT_REFUSED
    if isinstance(error, StoreError):
        return EXIT_STORE
    if isinstance(error, Defect):
        return EXIT_DEFECT
    return EXIT_ERROR


def fail(error: BaseException, *, as_json: bool) -> NoReturn:
    """Show an error as one line or one JSON object, and exit with its code."""
    code, message, hint = _words_of(error)
    if as_json:
        print_json({"error": {"code": code, "message": message, "hint": hint}})
    else:
        line = f"{message} ({hint})" if hint else message
        click.echo(f"crdtmem: {' '.join(line.split())}", err=True)
    sys.exit(exit_code_of(error))


def _words_of(error: BaseException) -> tuple[str, str, str]:
    if isinstance(error, CrdtmemError):
        return error.code, error.message, error.hint
    if isinstance(error, click.ClickException):
        return "usage", error.format_message(), "see --help"
    if isinstance(error, OSError):
        return "system", f"{error.strerror or error}: {error.filename or ''}".rstrip(": "), ""
    return "defect", f"{type(error).__name__}: {error}", "this is a defect: please report it"


def json_text(value: Any) -> str:
    """Return a value as one line of JSON; bytes and NaN as ``exporting`` writes them."""
    from crdtmem.exporting import to_json

    return json.dumps(to_json(value), ensure_ascii=False, separators=(", ", ": "))


def print_json(value: Any) -> None:
    """Print one JSON object on a line of its own."""
    click.echo(json_text(value))
