"""The words that the specification is written in: dots, deltas, batches, operations.

Problem: the rules are easier to believe when nothing but rules stands beside them.

Idea: immutable tuples, and a table of the operations that a schedule may name, each with the
datatype that it belongs to and whether it writes or removes.

Invariants: nothing here is ever mutated; every tuple can be compared and hashed.

After the design's "Words".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

__all__ = [
    "FIELD_IS_NAMED",
    "PRESENT",
    "REMOVAL_KINDS",
    "REMOVED",
    "VERBS",
    "Account",
    "Baseline",
    "Batch",
    "Delta",
    "Dot",
    "Entry",
    "Event",
    "FrozenVector",
    "Operation",
    "Place",
    "Refused",
    "Table",
    "Total",
    "Update",
    "Vector",
    "covers",
    "freeze",
    "parse_dot",
]

Vector: TypeAlias = Mapping[str, int]
FrozenVector: TypeAlias = tuple[tuple[str, int], ...]


class Dot(NamedTuple):
    """The name of one delta for ever."""

    replica: str
    sequence: int

    def __str__(self) -> str:
        return f"{self.replica}:{self.sequence}"


class Place(NamedTuple):
    """The datatype is part of the address. ``field`` is an element, or a birth dot as text."""

    kind: str
    key: str
    field: str


class Entry(NamedTuple):
    """One value that its delta left in a place."""

    value: Any
    order: int
    trust: int


class Delta(NamedTuple):
    """Remove ``supersedes`` from ``place``; put ``entry`` there, if any."""

    dot: Dot
    place: Place
    supersedes: frozenset[Dot]
    entry: Entry | None


class Operation(NamedTuple):
    """What a user asked for. ``observed`` is None when nothing was passed in."""

    verb: str
    arguments: tuple[str, ...] = ()
    observed: frozenset[Dot] | None = None
    trust: int = 1


class Event(NamedTuple):
    """One operation and its dots, for the oracle. A rescued one names the first dot of the
    operation that it repeats; ``knew`` is that one's causal past, where it decides the meaning.
    """

    operation: Operation
    dots: tuple[Dot, ...]
    rescues: Dot | None = None
    knew: FrozenVector | None = None


class Batch(NamedTuple):
    """One transaction: the unit of log, delivery and visibility (rules 4 and 7)."""

    origin: str
    first: int
    last: int
    after: FrozenVector
    order: int
    deltas: tuple[Delta, ...]
    events: tuple[Event, ...]


class Total(NamedTuple):
    """A counter field's running totals, written by its owner only."""

    plus: int
    minus: int


class Baseline(NamedTuple):
    """How much of a counter field resets have taken away."""

    plus: int
    minus: int


class Update(NamedTuple):
    """What one edit of a document adds, and which earlier additions it removes."""

    adds: frozenset[str]
    removes: frozenset[str]


class Account(NamedTuple):
    """A replica's own running totals in a bounded counter."""

    minted: int = 0
    spent: int = 0
    transferred: tuple[tuple[str, int], ...] = ()


class Refused(Exception):
    """The rules forbid this step; nothing was changed."""


Table: TypeAlias = dict[Place, dict[Dot, Entry]]

PRESENT = "present"
REMOVED = "removed"
REMOVAL_KINDS = ("remove_wins", "disable_wins")

VERBS: dict[str, tuple[str, str]] = {
    "put": ("register", "write"),
    "replace": ("register", "write"),
    "delete": ("register", "remove"),
    "add": ("add_wins", "write"),
    "discard": ("add_wins", "remove"),
    "enable": ("enable_wins", "write"),
    "disable": ("enable_wins", "remove"),
    "include": ("remove_wins", "write"),
    "exclude": ("remove_wins", "remove"),
    "allow": ("disable_wins", "write"),
    "forbid": ("disable_wins", "remove"),
    "increment": ("counter", "write"),
    "decrement": ("counter", "write"),
    "reset": ("counter", "remove"),
    "mint": ("bounded", "write"),
    "spend": ("bounded", "write"),
    "transfer": ("bounded", "write"),
    "append": ("log", "write"),
    "strike": ("log", "remove"),
    "edit": ("document", "write"),
    "erase": ("document", "remove"),
}
FIELD_IS_NAMED = ("add_wins", "remove_wins")


def freeze(vector: Vector) -> FrozenVector:
    """Return a vector that can be compared and hashed."""
    return tuple(sorted(vector.items()))


def covers(vector: Vector, other: Iterable[tuple[str, int]]) -> bool:
    """Say whether every dot under ``other`` is under ``vector``."""
    return all(vector.get(replica, 0) >= sequence for replica, sequence in other)


def parse_dot(text: str) -> Dot:
    """Read back what ``str(dot)`` wrote."""
    replica, _, sequence = text.partition(":")
    return Dot(replica, int(sequence))
