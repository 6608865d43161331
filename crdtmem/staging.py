"""Staging: turn ready batches and queued transactions into one flight.

Problem: a group commit must evaluate many transactions against the state and
against each other, before any of it may be seen; a refused transaction must
leave nothing behind; and the common case, runs of plain writes, must be a
tight loop.

Idea: a ``Flight`` is everything that one durable commit will carry: the remote
batches whose dependencies are met, then the local transactions, staged in that
order into one overlay. Local deltas are collected column by column as they are
staged, so that the batch's bytes need no second pass. ``TransactionStage``
journals what it changes, so that a refused transaction is taken back exactly.

Invariants: a flight's batches are causally closed on top of the published
state; dots are allocated densely in staging order; a flight that is dropped has
changed nothing but the overlay that is dropped with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any

from crdtmem.batch import (
    ReplicaTable,
    Segment,
    SpaceName,
    array_header,
    encode_dots_column,
)
from crdtmem.bulk import as_column_item, stage_counts, stage_puts
from crdtmem.codec import pack
from crdtmem.columns import as_column
from crdtmem.entries import (
    NO_METADATA,
    SEQUENCE_BITS,
    Entry,
    Field,
    Metadata,
    Siblings,
    Slot,
    Stamp,
    ascending,
)
from crdtmem.errors import LimitExceeded
from crdtmem.flight import LocalBatch
from crdtmem.joining import join_slot
from crdtmem.limits import Limits
from crdtmem.policy import Policy
from crdtmem.table import Overlay, Table
from crdtmem.transaction import CountRun, PutRun, Transaction, check_value_size

__all__ = ["TransactionStage"]


@dataclass(slots=True)
class _Column:
    """A run of general deltas that share space, datatype, metadata and kind, still open."""

    table: Table
    stamp: Stamp
    metadata: Metadata
    removal: bool
    first: int
    keys: list[str] = field(default_factory=list)
    fields: list[Any] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)
    superseded: list[Any] = field(default_factory=list)


class TransactionStage:
    """Stages one transaction into a batch and an overlay, and can take it back."""

    def __init__(
        self, batch: LocalBatch, overlay: Overlay, transaction: Transaction, clock: tuple[int, int]
    ) -> None:
        self.batch = batch
        self.overlay = overlay
        self.transaction = transaction
        self.order, self.physical_us = clock
        self.shared = transaction.shared_metadata()
        self.stamp = self._stamp(NO_METADATA)
        self.first = batch.next
        # Whether a lone run must be able to be taken back too.
        self.journalled = False
        self.parts: list[bytes] = []
        self.segments: list[Segment] = []
        self._open: _Column | None = None
        self._undo: list[tuple[dict[Any, Slot], Any, Slot | None]] = []
        self._added = len(overlay.added)
        self._replaced = len(overlay.replaced)
        removed = overlay.removed
        self._removed = {space: len(removed[space]) for space in removed} if removed else {}

    def _stamp(self, metadata: Metadata) -> Stamp:
        transaction = self.transaction
        rest = transaction.metadata
        if metadata or transaction.operation_id:
            rest = {**rest, **metadata}
            rest.pop("e", None)
            if transaction.operation_id:
                rest["i"] = transaction.operation_id
            rest = ascending(rest)
        return Stamp(
            self.batch.replica,
            self.order,
            self.physical_us,
            transaction.author,
            self.batch.region,
            transaction.trust,
            metadata.get("e"),
            rest or NO_METADATA,
        )

    def put_run(self, run: PutRun, policy: Policy) -> None:
        """Stage a run of plain writes. Cannot fail: the run was sealed, the limit checked.

        Alone in its transaction it leaves no journal, unless ``journalled`` asks for one.
        """
        self.flush()
        alone = len(self.transaction.steps) == 1 and not self.journalled
        undo = None if alone else self._undo
        table = self.overlay.state.table(run.space, run.datatype)
        column = stage_puts(self.overlay, table, run, policy, self.batch.dot, self.stamp, undo)
        self._close_run(run, run.values, run.packed_values, column)

    def count_run(self, run: CountRun) -> None:
        """Stage a run of increments; raises ``LimitExceeded`` for a total that grows too large."""
        self.flush()
        table = self.overlay.state.table(run.space, run.datatype)
        alone = len(self.transaction.steps) == 1 and not self.journalled
        totals, packed, column = stage_counts(
            self.overlay, table, run, self.batch.dot, self.stamp, self._undo, alone=alone
        )
        self._close_run(run, totals, packed, column)

    def _close_run(
        self, run: PutRun, values: Sequence[Any], packed_values: bytes, column: Any
    ) -> None:
        """Keep a staged run as a segment, in memory and in bytes."""
        batch, count = self.batch, len(run.keys)
        first = batch.dot
        self.overlay.added.append((run.space, first, count))
        self.segments.append(
            Segment(
                run.space,
                run.datatype,
                first,
                count,
                run.keys,
                None,
                values,
                column,
                self.stamp,
            )
        )
        self.parts.append(
            b"".join(
                (
                    b"\x97",
                    # Both numbers as if in an array of their own, without its header.
                    pack((batch.space_index(run.space), run.datatype))[1:],
                    run.packed_keys,
                    b"\xc0",
                    packed_values,
                    pack(encode_dots_column(column, batch.table)),
                    b"\xc0",
                )
            )
        )
        batch.next += count

    def append(
        self, table: Table, key: str, field: Field | None, value: Any, superseded: Any, options: Any
    ) -> int:
        """Stage one general delta; ``options`` is (whether it only removes, metadata)."""
        removal, metadata = options
        column = self._open
        if (
            column is None
            or column.table is not table
            or column.removal is not removal
            or column.metadata is not metadata
        ):
            self.flush()
            stamp = self.stamp if not metadata else self._stamp(metadata)
            column = self._open = _Column(table, stamp, metadata, removal, self.batch.dot)
        dot = self.batch.dot
        overlay = self.overlay
        over, base = overlay.names(table, key)
        name = key if not table.nested else (dot if field == 0 and type(field) is int else field)
        previous = over.get(name)
        self._undo.append((over, name, previous))
        current = previous if previous is not None else base.get(name)
        entry: Entry | None = None if removal else (dot, value, column.stamp)
        slot = join_slot(current, entry, superseded, overlay.removed_of(table.space))
        over[name] = slot
        if type(slot) is Siblings:
            if slot:
                overlay.note_contested(table, key, field)
            else:
                overlay.emptied = True
        if not removal:
            overlay.added.append((table.space, dot, 1))
        column.keys.append(key)
        column.fields.append(field)
        column.values.append(value)
        column.superseded.append(as_column_item(superseded, dot))
        self.batch.next += 1
        return dot

    def flush(self) -> None:
        """Close the open column: encode it, and keep it as a segment."""
        column = self._open
        if column is None:
            return
        self._open = None
        table, batch = column.table, self.batch
        count = len(column.keys)
        values = None if column.removal else column.values
        superseded = as_column(column.superseded)
        fields = column.fields if table.nested else None
        encoded_fields = _encode_fields(fields, column.first, batch.table)
        one_key = count > 1 and column.keys.count(column.keys[0]) == count
        # The one key for all does not say how many there are: another column must.
        if values is None and encoded_fields is None:
            one_key = False
        keys: Any = column.keys[0] if one_key else column.keys
        segment = Segment(
            table.space,
            table.datatype,
            column.first,
            count,
            keys,
            fields,
            values,
            superseded,
            column.stamp,
        )
        self.segments.append(segment)
        self.parts.append(
            pack(
                (
                    batch.space_index(table.space),
                    table.datatype,
                    keys,
                    encoded_fields,
                    values,
                    encode_dots_column(superseded, batch.table),
                    column.metadata or None,
                )
            )
        )

    def finish(self, limits: Limits) -> bool:
        """Add the staged transaction to the batch; raises ``LimitExceeded`` if it grew too big.

        Returns ``False``, having added nothing, when it is not too big for a
        batch but for this one: it must be taken back and begin the next.
        """
        self.flush()
        batch = self.batch
        count = batch.next - self.first
        if not count:
            return True
        head = pack(
            (
                self.order - batch.order_base,
                self.physical_us - batch.physical_base,
                self.shared,
                (),
            )
        )
        body = b"".join((head[:-1], array_header(len(self.parts)), *self.parts))
        # A lone run was measured when it was sealed, and may keep no journal to undo it.
        steps = self.transaction.steps
        plain = len(steps) == 1 and isinstance(steps[0], PutRun) and not self._undo
        if not plain and (len(body) > limits.batch_bytes or count > limits.batch_deltas):
            raise LimitExceeded(
                f"a transaction of {count} deltas and {len(body)} bytes; the "
                f"limits are {limits.batch_deltas} and {limits.batch_bytes}",
                hint="split it into several transactions",
            )
        if not plain and (
            batch.size + len(body) > limits.batch_bytes
            or batch.next - batch.first > limits.batch_deltas
        ):
            return False
        if not plain and len(body) > limits.key_bytes:
            self._check_sizes(limits, check_values=len(body) > limits.value_bytes)
        index = len(batch.segments)
        shared = self.shared or NO_METADATA
        batch.transactions.append((self.order, self.physical_us, shared, index))
        batch.segments += self.segments
        batch.bodies.append(body)
        batch.size += len(body)
        return True

    def _check_sizes(self, limits: Limits, *, check_values: bool) -> None:
        """Raise ``LimitExceeded`` for a field or a value over its limit."""
        for segment in self.segments:
            for name in segment.fields or ():
                if type(name) is not int and len(name) * 4 > limits.key_bytes:
                    size = len(name.encode() if type(name) is str else name)
                    if size > limits.key_bytes:
                        raise LimitExceeded(
                            f"a field of {size} bytes, the limit is {limits.key_bytes}",
                            hint="store a digest or move the bulk into the value",
                        )
            if check_values and segment.values is not None:
                keys = repeat(segment.keys) if type(segment.keys) is str else segment.keys
                for key, value in zip(keys, segment.values, strict=False):
                    check_value_size(key, value, limits)

    def entries_added(self, space: SpaceName) -> int:
        """Return how many live entries more a space holds for what was staged here."""
        overlay = self.overlay
        added = sum(count for name, _, count in overlay.added[self._added :] if name == space)
        replaced = sum(
            len(distances)
            for name, _, distances in overlay.replaced[self._replaced :]
            if name == space
        )
        removed = len(overlay.removed.get(space, ())) - self._removed.get(space, 0)
        return added - replaced - removed

    def take_back(self) -> None:
        """Undo everything that this transaction staged through ``append``."""
        for over, name, previous in reversed(self._undo):
            if previous is None:
                # The published slot shows through again.
                over.pop(name, None)
            else:
                over[name] = previous
        overlay = self.overlay
        del overlay.added[self._added :]
        del overlay.replaced[self._replaced :]
        for space, dots in overlay.removed.items():
            del dots[self._removed.get(space, 0) :]
        self.batch.next = self.first


def _encode_fields(fields: list[Any] | None, first: int, table: ReplicaTable) -> Any:
    if fields is None or not any(fields):
        return None
    encoded: list[Any] = []
    for index, name in enumerate(fields):
        if type(name) is not int or name == 0:
            encoded.append(name)
        elif name >> SEQUENCE_BITS == first >> SEQUENCE_BITS:
            encoded.append(first + index - name)
        else:
            encoded.append(table.flat((name,)))
    return encoded
