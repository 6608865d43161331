"""Reading: what a caller sees of one key, and what its answer stood on.

Problem: a reader wants a plain value; a careful reader wants to know whether it
was contested, by whom, and a token that makes the next write supersede exactly
what was seen.

Idea: ``Reading`` holds the value and makes the rest when asked for it. A space's
resolver turns siblings into the value; a resolver version that this node lacks
is reported, and the siblings are served instead. Expiry is judged against
``now_us``, an argument.

Invariants: equal entries, policy and ``now_us`` give equal readings on every
replica; nothing returned aliases the state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from crdtmem.causality import Context, Observed
from crdtmem.codec import thaw
from crdtmem.entries import EMPTY, Entry, Slot, as_siblings, unpack_dot
from crdtmem.policy import DEFAULT_POLICY, Policy
from crdtmem.resolve import find_resolver

__all__ = ["EntryView", "Reading", "SpaceReader", "describe", "entries_of_place"]


@dataclass(frozen=True, slots=True)
class EntryView:
    """One entry for people: its value, and who wrote it, where and when."""

    value: Any
    author: str
    region: str
    physical_us: int
    order: int
    trust: int
    dot: str
    expires_at_us: int | None
    metadata: dict[str, Any]

    def as_value(self) -> dict[str, Any]:
        """Return the entry as a plain dict, with ``time_us`` for the physical stamp."""
        body = {
            "value": self.value,
            "author": self.author,
            "region": self.region,
            "time_us": self.physical_us,
            "order": self.order,
            "trust": self.trust,
            "dot": self.dot,
        }
        if self.expires_at_us is not None:
            body["expires_at_us"] = self.expires_at_us
        if self.metadata:
            body["metadata"] = self.metadata
        return body


def describe(entry: Entry) -> EntryView:
    """Return an entry in the form that is shown to people."""
    dot, value, stamp = entry
    return EntryView(
        thaw(value),
        stamp.author,
        stamp.region,
        stamp.physical_us,
        stamp.order,
        stamp.trust,
        str(unpack_dot(dot)),
        stamp.expires_at_us,
        thaw(stamp.metadata),
    )


class SpaceReader:
    """What a datatype may use to read: the time, and the space's resolver."""

    __slots__ = ("_resolve", "now_us", "policy", "unknown_resolver")

    def __init__(self, now_us: int, policy: Policy = DEFAULT_POLICY) -> None:
        self.now_us = now_us
        self.policy = policy
        resolver = find_resolver(policy.resolver, policy.resolver_version)
        self.unknown_resolver = resolver is None
        self._resolve: Callable[[tuple[Entry, ...]], Any] | None = (
            resolver.resolve if resolver is not None else None
        )

    def live(self, slot: Slot | None) -> tuple[Entry, ...]:
        """Return the slot's entries that have not expired."""
        entries = as_siblings(slot)
        now_us = self.now_us
        for entry in entries:
            expires_at_us = entry[2].expires_at_us
            if expires_at_us is not None and expires_at_us <= now_us:
                return tuple(
                    entry
                    for entry in entries
                    if entry[2].expires_at_us is None or entry[2].expires_at_us > now_us
                )
        return entries

    def resolve(self, entries: tuple[Entry, ...]) -> Any:
        """Return the resolved (frozen) value; the values themselves if the resolver is unknown."""
        if self._resolve is None:
            return tuple(value for _, value, _ in entries)
        return self._resolve(entries)


class Reading:
    """The answer to one read.

    ``value`` is what the datatype makes of the entries; ``exists`` tells an
    absent key from one whose value is ``None``; ``also`` names the other datatypes
    that hold something under the same key; ``unknown_resolver`` says that this node
    lacks the resolver that the policy names, and serves the siblings instead;
    ``context`` is what the replica had joined when it was read.
    """

    __slots__ = (
        "_entries",
        "_vector",
        "also",
        "contested",
        "exists",
        "resolver",
        "unknown_resolver",
        "value",
    )

    def __init__(
        self,
        value: Any,
        entries: tuple[Entry, ...],
        *,
        contested: bool,
        resolver: str,
        also: tuple[str, ...] = (),
        exists: bool = True,
        unknown_resolver: bool = False,
        vector: Mapping[int, int] | None = None,
    ) -> None:
        self._vector = vector
        self.value = value
        self.exists = exists
        self.unknown_resolver = unknown_resolver
        self.contested = contested
        self.resolver = resolver
        self.also = also
        self._entries = entries

    @property
    def context(self) -> Context:
        """What had been joined: pass it as ``at_least`` to read no older world elsewhere."""
        return Context(self._vector)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The entries themselves, never mutated: for those who send a reading on."""
        return self._entries

    @property
    def siblings(self) -> list[EntryView]:
        """The entries that the value was made of, in dot order."""
        return [describe(entry) for entry in self._entries]

    @property
    def observed(self) -> Observed:
        """The dots that this read returned, for a later write of the same place."""
        return Observed(entry[0] for entry in self._entries)


def entries_of_place(place: Any, *, nested: bool, reader: SpaceReader) -> tuple[Entry, ...]:
    """Return all live entries of a key, whatever its layout."""
    if place is None:
        return EMPTY
    if not nested:
        return reader.live(place)
    # Fields lie in the order of their arrival, which differs between replicas; dots do not.
    return tuple(sorted([e for slot in place.values() for e in reader.live(slot)], key=_dot))


def _dot(entry: Entry) -> int:
    return entry[0]
