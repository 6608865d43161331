"""gossip: who is there, and short news that everybody hears; members and opaque bytes.

SWIM with Lifeguard, anti-entropy, rejoining for ever, two tiers, sealed packets. The
protocol is a pure machine (``swim``, ``mesh``); ``driver`` and ``transport`` run it on
asyncio. See ``DESIGN.md`` for how and why.
"""

from __future__ import annotations

__all__: list[str] = []
