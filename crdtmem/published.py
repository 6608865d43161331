"""Published batches for those outside: what a subscriber may keep, and even change.

Problem: a decoded batch shares its values with the state that it was joined into; a
subscriber that changed a dict in one would change what every reader sees. Copying
every batch for every subscriber would cost more than joining it.

Idea: a subscriber is given the batch's bytes, which nobody can change, and decodes
them anew when it looks inside: whoever only counts, forwards or stores batches pays
nothing.

Invariant: nothing reached from a ``PublishedBatch`` is shared with the state.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crdtmem.batch import Batch, BatchHeader, Segment, decode_batch
from crdtmem.crdt import NESTED

if TYPE_CHECKING:
    from crdtmem.entries import Metadata

__all__ = ["PublishedBatch"]


class PublishedBatch:
    """One published batch: its bytes and hash, and what they say, decoded when asked for."""

    __slots__ = ("_decoded", "data", "hash")

    def __init__(self, batch: Batch) -> None:
        self.data = batch.data
        self.hash = batch.hash
        self._decoded: Batch | None = None

    def _own(self) -> Batch:
        if self._decoded is None:
            self._decoded = decode_batch(self.data, known_fields=NESTED)
        return self._decoded

    @property
    def header(self) -> BatchHeader:
        """Who wrote it, which sequences, after what."""
        return self._own().header

    @property
    def segments(self) -> list[Segment]:
        """Its deltas, in runs: see ``Segment``."""
        return self._own().segments

    @property
    def transactions(self) -> list[tuple[int, int, Metadata, int]]:
        """Its transactions: see ``Batch``."""
        return self._own().transactions
