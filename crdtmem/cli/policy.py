"""``crdtmem policy``: what a space's policy is, and to change parts of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import click
from rich.console import Console
from rich.table import Table

from crdtmem.cli.base import ask, node_options, parse_space, print_json
from crdtmem.client import Client
from crdtmem.crdt import DATATYPES
from crdtmem.policy import DEFAULT_POLICY, SYSTEM_SPACE, Policy, policy_key
from crdtmem.resolve import RESOLVERS
from crdtmem.transaction import Operation, Options

__all__ = ["policy_command"]

_REGISTER: Final = DATATYPES["register"].code
_MEANINGS: Final = {
    "resolver": "what makes one value of several",
    "resolver_version": "the version of it that all nodes must have",
    "trust_ordered": "no write supersedes one of higher trust than its author's",
    "quota_keys": "most keys that a local write may leave the space with",
    "quota_entries": "most live entries that a local write may leave it with",
}


@click.command("policy")
@click.argument("space")
@click.option(
    "--resolver", type=click.Choice(sorted({name for name, _ in RESOLVERS})), help="Resolve by it."
)
@click.option("--trust-ordered/--no-trust-ordered", default=None, help="Whether trust orders.")
@click.option("--quota-keys", type=click.IntRange(0), help="Set the quota of keys.")
@click.option("--quota-entries", type=click.IntRange(0), help="Set the quota of live entries.")
@click.option(
    "--no-quota",
    "lifted",
    type=click.Choice(["keys", "entries"]),
    multiple=True,
    help="Lift a quota.",
)
@node_options
def policy_command(space: str, lifted: tuple[str, ...], as_json: bool, **rest: Any) -> None:
    """Show the policy of SPACE, or change what the options name, in every region.

    A quota binds writes where they are made: one that would add to a space beyond it is
    refused, deletes never are. Regions that write at once may together go beyond one.

    \b
    crdtmem policy team/notes
    crdtmem policy team/notes --quota-keys 100000 --quota-entries 1000000
    """
    names = ("resolver", "trust_ordered", "quota_keys", "quota_entries")
    asked = {name: rest.pop(name) for name in names}
    changes: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    for quota in lifted:
        if f"quota_{quota}" in changes:
            raise click.UsageError(f"give --quota-{quota} or --no-quota {quota}, not both")
        changes[f"quota_{quota}"] = None
    if "resolver" in changes:
        changes["resolver_version"] = max(
            version for name, version in RESOLVERS if name == changes["resolver"]
        )
    policy = ask(lambda client: _read_or_change(client, parse_space(space), changes), **rest)
    if as_json:
        print_json({"space": list(parse_space(space)), "policy": policy.as_value()})
    else:
        _show(policy)


async def _read_or_change(client: Client, space: tuple[str, ...], changes: Any) -> Policy:
    """Return the policy, after the changes if there are any."""
    key = policy_key(space)
    reading = await client.read(SYSTEM_SPACE, _REGISTER, key)
    held = Policy.from_value(reading.value) if reading.exists else DEFAULT_POLICY
    if not changes:
        return held
    policy = replace(held, **changes)
    # Refused if another changes it meanwhile: what was read is a part of what is written.
    options = Options(observed=reading.observed.dots, conditional=True)
    written = Operation(SYSTEM_SPACE, _REGISTER, key, "set", (policy.as_value(),), options)
    session = client.session()
    async with session.transaction() as opened:
        opened.transaction.add(written)
    return policy


def _show(policy: Policy) -> None:
    table = Table("setting", "value", "meaning")
    for name, meaning in _MEANINGS.items():
        value = getattr(policy, name)
        table.add_row(name, "none" if value is None else str(value).lower(), meaning)
    Console().print(table)
