"""The peers, as their own documentation would have one use them for the same work.

Both are in-memory: they keep no log, make nothing durable and notify nobody. loro commits
once per transaction, and its counters are counter containers. pycrdt groups a transaction in
a ``with`` block; Yjs has no counters, so a replica keeps its own total under its own name, as
its users do.
"""

from __future__ import annotations

from typing import Any, Protocol

import loro
import pycrdt

from tests.bench.shapes import Shape

__all__ = ["PEERS", "Peer"]

Transactions = list[dict[str, Any]]


class Peer(Protocol):
    """What is measured of a peer."""

    def write(self, transactions: Transactions) -> None:
        """Carry out all transactions."""

    def write_captured(self, transactions: Transactions) -> list[bytes]:
        """Carry out all transactions; return each one's update, to be sent."""

    def join(self, updates: list[bytes]) -> None:
        """Apply another replica's updates, one by one."""

    def read(self, keys: list[str]) -> Any:
        """Read each key's value; returns the last."""


class Loro:
    """A ``LoroDoc`` with one map."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._doc = loro.LoroDoc()
        self._map = self._doc.get_map("m")
        self._counters: dict[str, Any] = {}

    def write(self, transactions: Transactions) -> None:
        """Carry out all transactions."""
        for items in transactions:
            self._write_one(items)

    def _write_one(self, items: dict[str, Any]) -> None:
        if self._shape.counts:
            counters, holder = self._counters, self._map
            for key, amount in items.items():
                counter: Any = counters.get(key)
                if counter is None:
                    counter = holder.get_or_create_container(key, loro.LoroCounter())
                    counters[key] = counter
                counter.increment(amount)
        else:
            insert = self._map.insert
            for key, value in items.items():
                insert(key, value)
        self._doc.commit()

    def write_captured(self, transactions: Transactions) -> list[bytes]:
        """Carry out all transactions; return each one's update."""
        updates = []
        for items in transactions:
            before = self._doc.oplog_vv
            self._write_one(items)
            updates.append(self._doc.export(loro.ExportMode.Updates(before)))
        return updates

    def join(self, updates: list[bytes]) -> None:
        """Import each update."""
        for update in updates:
            self._doc.import_(update)

    def read(self, keys: list[str]) -> Any:
        """Read each key's value."""
        get: Any = self._map.get
        if self._shape.counts:
            for key in keys:
                value = self._counters[key].value
        else:
            for key in keys:
                value = get(key).value
        return value


class Pycrdt:
    """A ``Doc`` with one ``Map``."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._doc: pycrdt.Doc[Any] = pycrdt.Doc()
        self._map: pycrdt.Map[Any] = self._doc.get("m", type=pycrdt.Map)
        self._totals: dict[str, int] = {}

    def write(self, transactions: Transactions) -> None:
        """Carry out all transactions."""
        held, totals = self._map, self._totals
        for items in transactions:
            with self._doc.transaction():
                if self._shape.counts:
                    for key, amount in items.items():
                        totals[key] = total = totals.get(key, 0) + amount
                        held[key] = total
                else:
                    for key, value in items.items():
                        held[key] = value

    def write_captured(self, transactions: Transactions) -> list[bytes]:
        """Carry out all transactions; return each one's update."""
        updates: list[bytes] = []
        subscription = self._doc.observe(lambda event: updates.append(event.update))
        self.write(transactions)
        self._doc.unobserve(subscription)
        return updates

    def join(self, updates: list[bytes]) -> None:
        """Apply each update."""
        for update in updates:
            self._doc.apply_update(update)

    def read(self, keys: list[str]) -> Any:
        """Read each key's value."""
        held = self._map
        for key in keys:
            value = held[key]
        return value


PEERS: dict[str, type[Loro] | type[Pycrdt]] = {"loro": Loro, "pycrdt": Pycrdt}
