"""The resolvers, in one table.

A new resolver is a function in a module of this package, and one line here. A
resolver whose meaning changes keeps its line and gets a second one, with the
next version: spaces whose policy names the old version go on reading as before.
"""

from __future__ import annotations

from typing import Final

from crdtmem.errors import UnknownName
from crdtmem.resolve.base import Resolve, Resolver
from crdtmem.resolve.choices import (
    latest,
    majority,
    manual,
    maximum,
    minimum,
    most_confident,
    most_trusted,
)
from crdtmem.resolve.gathering import keep_all, union
from crdtmem.resolve.order import order_key

__all__ = [
    "DEFAULT_RESOLVER",
    "RESOLVERS",
    "Resolve",
    "Resolver",
    "find_resolver",
    "order_key",
    "require_resolver",
]

_TABLE: Final = (
    Resolver("latest", 1, latest, "the value written last"),
    Resolver("keep_all", 1, keep_all, "all values, as a list"),
    Resolver("maximum", 1, maximum, "the greatest value"),
    Resolver("minimum", 1, minimum, "the least value"),
    Resolver("union", 1, union, "what all values hold together"),
    Resolver("most_trusted", 1, most_trusted, "the value of the most trusted author"),
    Resolver("most_confident", 1, most_confident, "the value given with the most confidence"),
    Resolver("majority", 1, majority, "the value that the most authors gave"),
    Resolver("manual", 1, manual, "nothing until someone decides"),
)

RESOLVERS: Final[dict[tuple[str, int], Resolver]] = {
    (resolver.name, resolver.version): resolver for resolver in _TABLE
}
"""Every resolver that this program knows, by name and version."""

DEFAULT_RESOLVER: Final = RESOLVERS["latest", 1]


def find_resolver(name: str, version: int) -> Resolver | None:
    """Return the resolver, or ``None`` where this program lacks it: serve the siblings then."""
    return RESOLVERS.get((name, version))


def require_resolver(name: str, version: int) -> Resolver:
    """Return the resolver, for a policy that is being written; raises ``UnknownName``."""
    resolver = find_resolver(name, version)
    if resolver is None:
        known = ", ".join(f"{name} (version {version})" for name, version in RESOLVERS)
        raise UnknownName(
            f"this node knows no resolver {name!r:.80} of version {version}",
            hint=f"it knows {known}; write a later one through a node that has it",
        )
    return resolver
