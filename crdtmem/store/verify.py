"""Checking every record of a store, to find out whether it is what was written.

Checksums find rot, density finds what is missing, and the hash chain finds what was
replaced by something well-formed. ``previous_of`` may raise any ``CrdtmemError`` or
``ValueError`` for a batch that it cannot decode. Problems are collected, not raised: one bad
record must not hide the next. Pure, and shared by all engines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from crdtmem.errors import CrdtmemError
from crdtmem.store.base import KIND_BATCH, KIND_MARKER, LogRecord, Progress, VerifyReport

__all__ = ["PreviousOf", "RecordCheck", "no_progress"]

_MAX_PROBLEMS = 1000
_PROGRESS_EVERY = 256

PreviousOf = Callable[[bytes], bytes | None]
"""Extracts from an encoded batch the digest of the batch before it."""


def no_progress(_done: int, _total: int) -> None:
    """Where nobody asked for progress."""


class RecordCheck:
    """Feeds on every record in arrival order; collects counts and problems."""

    def __init__(self, previous_of: PreviousOf | None) -> None:
        self._previous_of = previous_of
        self._latest: dict[int, LogRecord] = {}
        self._marker_ordinal = 0
        self._last_ordinal = 0
        self.records = 0
        self.record_bytes = 0
        self.markers = 0
        self.problems: list[str] = []

    def feed(self, walk: Iterable[tuple[LogRecord, bool]], progress: Progress, total: int) -> None:
        """Check every (record, sound) pair of ``walk``."""
        for record, sound in walk:
            self.records += 1
            if self.records % _PROGRESS_EVERY == 0:
                progress(self.records, total)
            if not sound:
                self.report(f"record {record.ordinal} fails its checksum")
                continue
            self.record_bytes += len(record.data)
            if record.ordinal <= self._last_ordinal:
                self.report(f"record {record.ordinal} comes after {self._last_ordinal}")
            self._last_ordinal = record.ordinal
            if record.kind == KIND_MARKER:
                self.markers += 1
                self._marker_ordinal = record.ordinal
            elif record.kind == KIND_BATCH:
                self._check_batch(record)
            else:
                self.report(f"record {record.ordinal} is of unknown kind {record.kind}")

    def report(self, problem: str) -> None:
        """Collect a problem, up to a bound."""
        if len(self.problems) < _MAX_PROBLEMS:
            self.problems.append(problem)

    def outcome(self, *, chunks: int, quarantined: int) -> VerifyReport:
        """The report so far."""
        return VerifyReport(
            records=self.records,
            record_bytes=self.record_bytes,
            markers=self.markers,
            chunks=chunks,
            quarantined=quarantined,
            problems=tuple(self.problems),
        )

    def _check_batch(self, record: LogRecord) -> None:
        before = self._latest.get(record.replica)
        self._latest[record.replica] = record
        if before is None:
            return
        name = f"batch {record.first_sequence}..{record.last_sequence} of {record.replica:x}"
        if record.first_sequence <= before.last_sequence:
            self.report(f"{name} overlaps the one before, which ends at {before.last_sequence}")
        elif record.first_sequence > before.last_sequence + 1:
            # A snapshot that arrived between the two accounts for what the log lacks.
            if self._marker_ordinal < before.ordinal:
                self.report(f"{name} follows {before.last_sequence}: a gap with no snapshot")
        elif self._previous_of is not None:
            self._check_chain(name, record, before, self._previous_of)

    def _check_chain(
        self, name: str, record: LogRecord, before: LogRecord, previous_of: PreviousOf
    ) -> None:
        try:
            previous = previous_of(record.data)
        except (CrdtmemError, ValueError) as error:
            self.report(f"{name} cannot be decoded: {error}")
            return
        if previous != before.digest:
            self.report(f"{name} is not chained to the batch before it: a fork or a replacement")
