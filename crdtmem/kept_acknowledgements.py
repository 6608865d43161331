"""Keeping acknowledged vectors: what members are known to have, durable, now and then.

Problem: what a member acknowledged decides what is stable, who is established and
whether an eviction can be carried. Frames say it once; after a crash, a member
that is gone for good never says it again, and those who stay could not give it up.

Idea: the epoch's knowledge goes into the store's metadata, not once per
acknowledgement but once it has been news for a second: with the flight that is
staged next anyway, else in one of its own. What takes long to write is written
less often, so that a large cluster spends at most ``BYTES_PER_S`` on it.

Invariants: what is kept was true of the published, hence durable, state when its
flight was staged; losing the last second of it only delays; a flight that failed
leaves its news due.
"""

from __future__ import annotations

from typing import Final

from crdtmem.codec import pack, unpack
from crdtmem.epoch import Epoch

__all__ = ["ACKNOWLEDGED", "BYTES_PER_S", "KeptAcknowledgements"]

ACKNOWLEDGED: Final = "acknowledged"
"""The name of the metadata that holds the epoch's exported value."""

BYTES_PER_S: Final = 64 * 1024
_SECOND_US: Final = 1_000_000


class KeptAcknowledgements:
    """When an epoch's acknowledged vectors are to be made durable, and what is then written."""

    def __init__(self, epoch: Epoch) -> None:
        self._epoch = epoch
        self._pause_us = _SECOND_US
        self._at_us: int | None = None
        self.due = False

    def note(self, now_us: int) -> None:
        """Look whether there is news; it becomes due after a while."""
        if self._epoch.has_news and self._at_us is None and not self.due:
            self._at_us = now_us + self._pause_us

    def handle_timeout(self, now_us: int) -> None:
        """Let what has been news long enough become due."""
        if self._at_us is not None and self._at_us <= now_us:
            self._at_us = None
            self.due = True

    def next_deadline_us(self) -> int | None:
        """Return when ``handle_timeout`` has something to do, or ``None``."""
        return self._at_us

    def metadata(self) -> dict[str, bytes]:
        """Return what the flight that is being staged must carry; it is no news any more."""
        self.due = self._epoch.has_news = False
        data = pack(self._epoch.to_value())
        self._pause_us = _SECOND_US * max(1, len(data) // BYTES_PER_S)
        return {ACKNOWLEDGED: data}

    def failed(self) -> None:
        """Take note that a flight which carried it was lost."""
        self._epoch.has_news = self.due = True

    def recover(self, data: bytes | None) -> None:
        """Take up what was kept; raises ``ValueError`` and ``MalformedFrame``."""
        if data is not None:
            self._epoch.from_value(unpack(data))
