"""Retirement: what a store must set aside when its replica id is given up.

Problem: a replica that was evicted, or whose store turned out to be an old copy,
holds what may not be joined any more: its own writes beyond the cut, and what
others wrote that follows from them. None of it may be lost either, and a crash
at any moment of the clearing up must lead to the same end.

Idea: first the verdict itself is made durable, as one item of metadata. Whoever
opens the store next finds it and *surveys* the log from its first record: a batch
may stay if it continues what stays of its replica, lies within the cuts, and its
dependencies stay; a snapshot that was joined may stay if it lies within the cuts
and is not the difference to something that goes. The rest is diverted into the
quarantine. Checkpoints go first: they are fuzzy, so one at a vector within the cuts
may hold what was written beyond it.

What is given up of a replica is remembered by where it ended (``LOST``), under every later id of
the store. Others may still hold that very history and hand it back; from there no state is joined
that goes on with another one, for it does not show where the two part (``engine``).

Invariants: what stays is closed under causality and a prefix per replica, so the
survey of a log that is partly cleared gives the same answer; the verdict is erased
only in the transaction that claims the new id. A log that does not reach back to
the beginning leaves nothing: the state is then fetched again from peers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Final

from crdtmem.batch import BatchHeader, decode_batch
from crdtmem.causality import VersionVector
from crdtmem.codec import pack, unpack
from crdtmem.crdt import NESTED, SHAPES
from crdtmem.errors import MalformedFrame, StoreCorrupt
from crdtmem.install import Assembler, Installation, Kind
from crdtmem.store import Store
from crdtmem.store.base import KIND_MARKER, LogRecord

__all__ = ["LOST", "RETIRED", "Retirement", "add_lost", "read_lost", "set_aside"]

RETIRED: Final = "retired"
"""The name of the metadata that holds the verdict, until a new id was claimed."""

LOST: Final = "lost histories"
"""The name of the metadata that says where histories that were given up had ended."""

_LOST_MOST: Final = 1_000

Tips = Mapping[int, tuple[int, bytes]]


@dataclass(frozen=True, slots=True)
class Retirement:
    """Why an id was given up; the last valid sequence per replica; what had been joined."""

    reason: str
    cuts: Mapping[int, int]
    vector: VersionVector

    def encode(self) -> bytes:
        """Return it as the value of the metadata ``RETIRED``."""
        return pack((self.reason, sorted(self.cuts.items()), self.vector.flat()))

    @classmethod
    def decode(cls, data: bytes) -> Retirement:
        """Return what ``encode`` made. Raises ``StoreCorrupt``."""
        try:
            reason, cuts, vector = unpack(data)
            return cls(str(reason), dict(cuts), VersionVector.from_flat(vector))
        except (MalformedFrame, TypeError, ValueError) as error:
            raise StoreCorrupt(
                f"the verdict on this store's replica id cannot be read: {error}",
                hint="restore a backup, or start on an empty path and refetch from peers",
            ) from error

    @property
    def is_beyond(self) -> bool:
        """Whether anything that had been joined lies beyond the cuts."""
        return any(self.vector.get(replica, 0) > last for replica, last in self.cuts.items())


def add_lost(packed: bytes | None, cuts: Mapping[int, int], tips: Tips) -> bytes:
    """Return ``LOST`` with the ends of what goes beyond these cuts; the latest 1,000 are kept."""
    lost = dict(read_lost(packed))
    for replica in cuts.keys() & tips.keys():
        if tips[replica][0] > cuts[replica]:
            lost.pop(replica, None)
            lost[replica] = tips[replica]
    kept = islice(lost.items(), max(0, len(lost) - _LOST_MOST), None)
    return pack([(replica, *tip) for replica, tip in kept])


def read_lost(packed: bytes | None) -> Tips:
    """Return where histories that this store gave up had ended. Raises ``StoreCorrupt``."""
    try:
        listed = () if packed is None else unpack(packed)
        return {int(replica): (int(last), bytes(hashed)) for replica, last, hashed in listed}
    except (MalformedFrame, TypeError, ValueError) as error:
        raise StoreCorrupt(
            f"the histories that this store gave up cannot be read: {error}",
            hint="restore a backup, or start on an empty path and refetch from peers",
        ) from error


def set_aside(store: Store, retirement: Retirement) -> str | None:
    """Clear a retired store up, durably; return what an operator should know, if anything.

    May be repeated after a crash at any moment. Raises ``StoreError``s.
    """
    if not retirement.is_beyond:
        return None
    store.drop_checkpoints()
    survey = _Survey(retirement.cuts)
    survey.walk(store)
    moved = 0
    if survey.cut_from is not None:
        moved += store.quarantine_after(survey.cut_from - 1, retirement.reason)
    for replica, head in store.heads().items():
        valid = survey.vector.get(replica, 0)
        if head > valid:
            moved += store.divert(replica, valid)
    told = f"{moved} records were set aside, to be listed and rescued"
    if not survey.vector:
        told += "; nothing of the log may stay, so all is fetched again from peers"
    return told


class _Survey:
    """Finds what may stay. ``cut_from`` is the ordinal from which on nothing may, if any."""

    def __init__(self, cuts: Mapping[int, int]) -> None:
        self.vector = VersionVector()
        self.cut_from: int | None = None
        self._cuts = cuts
        self._assembler = Assembler(SHAPES, NESTED)
        self._installing_from: int | None = None

    def walk(self, store: Store) -> None:
        """Look at every record; a damaged one ends it, for nothing after it can be trusted."""
        try:
            for record in store.replay(after_ordinal=0):
                try:
                    stays = self._look_at(record)
                except MalformedFrame:
                    self.cut_from = record.ordinal
                    return
                if not stays:
                    self.cut_from = self._installing_from
                    return
        except StoreCorrupt as damage:
            self.cut_from = damage.details["ordinal"]

    def _look_at(self, record: LogRecord) -> bool:
        """Count one record if it may stay; ``False`` for a snapshot that may not."""
        if record.kind != KIND_MARKER:
            header = decode_batch(record.data, known_fields=NESTED).header
            if self._may_stay(header):
                self.vector[header.replica] = header.last
            return True
        if self._installing_from is None:
            self._installing_from = record.ordinal
        installation = self._assembler.feed(record.data)
        if installation is None:
            return True
        if not self._may_install(installation):
            return False
        self._installing_from = None
        self.vector = installation.vector(self.vector)
        return True

    def _may_stay(self, header: BatchHeader) -> bool:
        vector, replica = self.vector, header.replica
        return (
            header.last <= self._cuts.get(replica, header.last)
            and header.first == vector.get(replica, 0) + 1
            and vector.dominates(header.dependencies)
        )

    def _may_install(self, installation: Installation) -> bool:
        if installation.kind is Kind.CORRECTION:
            return True
        covered = installation.header.vector
        if any(covered.get(replica, 0) > last for replica, last in self._cuts.items()):
            return False
        return installation.kind is Kind.WHOLE or self.vector.dominates(installation.base)
