"""What a datatype's mutator sees of one key while its transaction is staged.

Problem: a mutator decides upon what is there, earlier operations of its own
transaction included, and must not reach further than its rules allow.

Idea: a ``WriteView`` over the transaction's stage, which filters what may be
superseded: only what the writer observed, and nothing of higher trust than its
author's where the space orders trust.

Invariant: everything that goes through a view is journalled by the stage, and
taken back if the transaction is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from crdtmem.entries import (
    EMPTY,
    NO_METADATA,
    Entry,
    Field,
    Metadata,
    as_siblings,
)
from crdtmem.policy import Policy
from crdtmem.staging import TransactionStage
from crdtmem.table import Table
from crdtmem.transaction import Options

__all__ = ["StagedView"]

_NO_OPTIONS = Options()


class StagedView:
    """What a datatype's mutator sees of one key: a ``WriteView`` over a transaction's stage."""

    __slots__ = ("_metadata", "_options", "_policy", "_stage", "_table", "key")

    def __init__(
        self,
        stage: TransactionStage,
        table: Table,
        key: str,
        options: Options | None,
        policy: Policy,
        metadata: Metadata,
    ) -> None:
        self._stage = stage
        self._table = table
        self._options = options or _NO_OPTIONS
        self._policy = policy
        self._metadata = metadata
        self.key = key

    @property
    def replica(self) -> int:
        """The id of the replica that writes."""
        return self._stage.batch.replica

    @property
    def now_us(self) -> int:
        """The physical stamp of the transaction."""
        return self._stage.physical_us

    @property
    def observed(self) -> frozenset[int] | None:
        """The dots of the operation's ``Observed``, or ``None`` for a blind one."""
        return self._options.observed

    def next_dot(self) -> int:
        """Return the dot that the next delta will carry."""
        return self._stage.batch.dot

    def slot(self, field: Field | None = None) -> tuple[Entry, ...]:
        """Return the entries of one place, staged changes included."""
        return as_siblings(self._stage.overlay.slot(self._table, self.key, field))

    def fields(self) -> Iterator[tuple[Field, tuple[Entry, ...]]]:
        """Yield the key's non-empty fields, staged changes included."""
        over, base = self._stage.overlay.fields(self._table, self.key)
        for field_name, slot in list(base.items()):
            if field_name not in over:
                yield field_name, as_siblings(slot)
        for field_name, slot in list(over.items()):
            if slot is not EMPTY and slot:
                yield field_name, as_siblings(slot)

    def supersede(self, entries: Iterable[Entry]) -> tuple[int, ...]:
        """Return the dots that the writer observed, among those that it may displace."""
        observed = self._options.observed
        dots = self.supersede_all(entries)
        return dots if observed is None else tuple(dot for dot in dots if dot in observed)

    def supersede_all(self, entries: Iterable[Entry]) -> tuple[int, ...]:
        """Return the dots of the entries that the author's trust may displace."""
        if not self._policy.trust_ordered:
            return tuple([entry[0] for entry in entries])
        trust = self._stage.transaction.trust
        return tuple([entry[0] for entry in entries if entry[2].trust <= trust])

    def put(self, value: Any, superseded: Iterable[int] = (), field: Field | None = None) -> int:
        """Stage an entry; returns its dot."""
        options = (False, self._metadata)
        return self._stage.append(self._table, self.key, field, value, tuple(superseded), options)

    def remove(self, superseded: Iterable[int], field: Field | None = None) -> None:
        """Stage a removal of those dots, if there are any."""
        dots = tuple(superseded)
        if dots:
            self._stage.append(self._table, self.key, field, None, dots, (True, NO_METADATA))
