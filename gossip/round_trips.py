"""Round-trip times and clock offsets, from the probes that are sent anyway.

Problem: the layer above wants to know who is near and whose clock is off, without traffic
of its own; a single measurement is spoilt by any queue on the way.

Idea: each answered probe has four times, as in NTP: sent and received by the one clock, heard
and answered by the other. The offset of the sample with the shortest round trip of the last
eight is the best: its packets waited least. The round trip reported is the median.

Invariants: at most eight samples; a sample whose clocks stepped meanwhile is not taken; the
error of an offset is at most half of its round trip.

Source: NTP's clock filter (RFC 5905, section 10).
"""

from __future__ import annotations

from typing import Final

__all__ = ["RoundTrips"]

_SAMPLES: Final = 8
_CLOCK_US: Final = 1 << 62
_STEP_US: Final = 1_000
"""By how much wall and steady clock may disagree over one probe, besides an eighth of it."""


class RoundTrips:
    """The last samples of one member."""

    __slots__ = ("_samples",)

    def __init__(self) -> None:
        self._samples: list[tuple[int, int | None]] = []

    def add(
        self, *, elapsed_us: int, sent_us: int, heard_us: int, answered_us: int, received_us: int
    ) -> bool:
        """Take one probe; say whether it was usable.

        ``elapsed_us`` is by the own steady clock; ``sent_us`` and ``received_us`` by the own
        wall clock, ``heard_us`` and ``answered_us`` by the other's.
        """
        held_us = answered_us - heard_us
        if not (0 <= held_us <= elapsed_us and 0 <= heard_us < _CLOCK_US):
            return False
        drift_us = abs((received_us - sent_us) - elapsed_us)
        stepped = drift_us > _STEP_US + elapsed_us // 8
        offset_us = ((heard_us - sent_us) + (answered_us - received_us)) // 2
        self._samples.append((elapsed_us - held_us, None if stepped else offset_us))
        del self._samples[:-_SAMPLES]
        return not stepped

    @property
    def round_trip_us(self) -> int | None:
        """The median of the last round trips, or ``None`` before the first."""
        if not self._samples:
            return None
        return sorted(trip for trip, _ in self._samples)[len(self._samples) // 2]

    @property
    def clock_offset_us(self) -> int | None:
        """How far the other's wall clock is ahead of one's own, or ``None`` before the first."""
        usable = [(trip, offset) for trip, offset in self._samples if offset is not None]
        return min(usable)[1] if usable else None
