"""The ``crdtmem`` command.

Problem: an operator at three in the morning needs each command to say what it did,
what went wrong and what to do about it; a script needs one JSON object and an
exit code that means one thing.

Idea: one table of commands, each in a module that is imported only when it is
called, so that ``--help`` and ``get`` start quickly. Every command but ``demo``, ``node``,
``restore``, ``config`` and ``keyring generate`` asks the running node over its control socket.

Every command takes ``--help`` and ``--json``. Exit codes:

==== ==================================================================
code meaning
==== ==================================================================
0    done
1    a defect of this program, or an error without a code of its own
2    the command line or a setting is wrong
3    the node cannot be reached, or is of another version
4    refused; nothing was changed (or: durable here, not yet as asked)
5    the store: locked, full, read-only, corrupt, failed
6    not converged, or a verification found problems
7    the node found a defect of its own and stopped; start it again
130  interrupted
==== ==================================================================

An error is one line on standard error, ``crdtmem: MESSAGE (HINT)``; with ``--json``
it is ``{"error": {"code", "message", "hint"}}`` on standard output.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import click

from crdtmem import __version__
from crdtmem.cli.ending import EXIT_USAGE, fail

__all__ = ["COMMANDS", "CommandEntry", "main"]


class CommandEntry(NamedTuple):
    """Where a command is, and what the overview says of it."""

    module: str
    summary: str


COMMANDS: Final[Mapping[str, CommandEntry]] = MappingProxyType(
    {
        "demo": CommandEntry("crdtmem.cli.demo", "Three regions, a cut link, and how they heal."),
        "node": CommandEntry("crdtmem.cli.node", "Run a node until it is told to stop."),
        "get": CommandEntry("crdtmem.cli.values", "Read one key."),
        "set": CommandEntry("crdtmem.cli.values", "Write one key."),
        "policy": CommandEntry("crdtmem.cli.policy", "Show or change a space's policy and quotas."),
        "import": CommandEntry("crdtmem.cli.importing", "Write what a file of events says."),
        "export": CommandEntry("crdtmem.cli.exporting", "Write all live entries as JSON lines."),
        "changes": CommandEntry("crdtmem.cli.changes", "Print what was written, or follow it."),
        "status": CommandEntry("crdtmem.cli.status", "Show how a node fares."),
        "verify": CommandEntry("crdtmem.cli.status", "Check everything that a node has stored."),
        "backup": CommandEntry("crdtmem.cli.copies", "Copy a running node's store."),
        "restore": CommandEntry("crdtmem.cli.copies", "Make a new store from a backup."),
        "rescue": CommandEntry("crdtmem.cli.rescue", "List or re-apply writes beyond a cut."),
        "members": CommandEntry("crdtmem.cli.members", "Show who is in the cluster, and alive."),
        "leave": CommandEntry("crdtmem.cli.members", "Hand over, say farewell, and end a node."),
        "evict": CommandEntry("crdtmem.cli.rescue", "Give a member up for good."),
        "rejoin": CommandEntry("crdtmem.cli.rescue", "Join the side that gave this node up."),
        "keyring": CommandEntry("crdtmem.cli.keyring", "Make a key ring, or rotate its keys."),
        "config": CommandEntry("crdtmem.cli.config", "Check and explain the settings."),
    }
)
"""Every command. The module has it under its name, with ``_command`` appended."""


class _Commands(click.Group):
    """A group that imports a command's module only when it is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        module = importlib.import_module(entry.module)
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the overview from the table alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in COMMANDS.items()])


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(
    __version__,
    prog_name="crdtmem",
)
def _root() -> None:
    """One memory for a fleet of agents, replicated and written in every region."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line, and exit with one of the documented codes."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    as_json = "--json" in given
    result: Any = 0
    try:
        result = _root.main(args=given, prog_name="crdtmem", standalone_mode=False)
    except click.ClickException as error:
        if as_json:
            fail(error, as_json=True)
        error.show()
        sys.exit(EXIT_USAGE)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read our output has seen enough.
        sys.stderr.close()
        sys.exit(0)
    except Exception as error:  # noqa: BLE001 - the last resort is still one line and a code
        fail(error, as_json=as_json)
    sys.exit(result if type(result) is int else 0)
