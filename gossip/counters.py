"""What one pool counts: everything that an operator or a benchmark may ask about.

Idea: plain integers that only rise, but for the gauges named so; refusals by reason.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Any

__all__ = ["Counters"]


@dataclass(slots=True)
class Counters:
    """Totals since the start of one pool."""

    packets_sent: int = 0
    bytes_sent: int = 0
    packets_received: int = 0
    bytes_received: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    """Input that changed nothing, by reason: names of errors, and ``stale``, ``impersonation``,
    ``accusation``, ``incarnation``, ``left``, ``members``, ``unproven``, ``coordinate``…"""

    probes: int = 0
    probes_failed: int = 0
    probes_voided: int = 0
    """Probes that say nothing, because one's own timer was late or the member answered anew."""
    acks: int = 0
    late_acks: int = 0
    nacks: int = 0
    relayed: int = 0
    """Probes made in another's stead."""
    indirect_probes: int = 0
    stream_probes: int = 0
    late_timers: int = 0
    health: int = 0
    """The local health score now; 0 is well."""

    suspicions: int = 0
    confirmations: int = 0
    cleared: int = 0
    """Suspicions that ended because the member answered or refuted."""
    deaths: int = 0
    false_alarms: int = 0
    """Members called dead here that came back in the same life."""
    refutations: int = 0
    """Accusations of oneself that were answered."""
    inquiries: int = 0
    """News that was verified with its subject before it was believed."""

    exchanges: int = 0
    exchanges_failed: int = 0
    exchanges_deferred: int = 0
    """Exchanges not made because as many as are allowed were out already."""
    push_pulls: int = 0
    push_pulls_equal: int = 0
    push_pulls_early: int = 0
    """Those made because the hash on a packet differed for longer than news takes."""
    rejoin_attempts: int = 0
    rejoined: int = 0

    broadcasts: int = 0
    delivered: int = 0
    duplicates: int = 0
    queue_dropped: int = 0
    queue_length: int = 0
    """How many broadcasts are waiting now."""

    def as_value(self) -> dict[str, Any]:
        """Return all of them as plain values, by name."""
        found = {each.name: getattr(self, each.name) for each in fields(self)}
        # asdict would take a Counter for a map to be made of pairs, and count the pairs.
        return {
            name: dict(value) if isinstance(value, Counter) else value
            for name, value in found.items()
        }
