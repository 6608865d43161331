"""A later life of one's own id that is over: when to begin again above it, and as what.

Problem: where a store was copied or put back, two may bear one id. The one that lived the later
life finds another id and leaves; the other, which lives on, is then older than that farewell:
everybody refuses it, for ever, and the more so where a seal has noted the later life.

Idea: a member that hears that a life above its own is *over* claims the one above that; so it does
for a farewell in its very life that was said at another address, for that is final too. One that
still goes on is not outbid: both would outbid each other for ever; it is warned of (``doubled``)
until one of the two is found out. It may end where nobody lists it, though some have noted its
life: so if it is heard of no more for ``QUIET_US``, it is over. What is heard is hearsay, and
cannot be asked of anybody else, for the subject is oneself. So it is bounded instead: the claim
is at most ``GENERATION_JUMP`` above, waits until it has settled, and each that follows soon waits
twice as long.

Invariants: at most one claim per ``SETTLING_US``, whoever says whatever; the generation claimed
is above one's own and above every one heard that was credible. The host makes it durable before
it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gossip.effects import Outlived
from gossip.messages import Record
from gossip.shapes import COUNT_MAXIMUM

if TYPE_CHECKING:
    from random import Random

__all__ = ["GENERATION_JUMP", "QUIET_US", "SETTLING_US", "Succession", "outlived"]

GENERATION_JUMP: Final = 1_024
"""So many starts may lie between two that bear one id. What is further is not credible: who lies
would use the numbers up."""

SETTLING_US: Final = 5_000_000
"""The least time from hearing to claiming: the layer above may find out the copy meanwhile, and
that the copy is oneself."""

QUIET_US: Final = 60_000_000
"""After so long without a word of it, a later life that went on elsewhere is over."""

_LONGEST_US: Final = 600_000_000


def outlived(me: Record, generation: int, *, twin: bool = False) -> Outlived | None:
    """Return what to ask of the host when a life of that generation is said to be over, or
    ``None`` where that is no later one, or not credible. ``twin``: it was lived at another
    address, and left, so that one's own generation counts as well."""
    if not me.generation + (not twin) <= generation < COUNT_MAXIMUM:
        return None
    return Outlived(generation) if generation - me.generation <= GENERATION_JUMP else None


class Succession:
    """When a host begins again. One for all lives of a process; times are steady microseconds."""

    def __init__(self, chance: Random) -> None:
        self.due_us: int | None = None
        """When ``take`` may have something."""
        self._chance = chance
        self._above = 0
        # Whether nothing is known to be over, and what goes on is waited out.
        self._quiet = False
        self._gap_us = 0
        self._rest_us: int | None = None

    def heard(self, generation: int, now_us: int) -> None:
        """Note that a life of that generation is over (``Outlived``)."""
        self._above = max(self._above, generation)
        if self.due_us is None or self._quiet:
            self._quiet = False
            from_us = now_us if self._rest_us is None else max(now_us, self._rest_us)
            self.due_us = from_us + SETTLING_US + self._chance.randrange(SETTLING_US)

    def heard_of(self, generation: int, now_us: int) -> None:
        """Note that a life of that generation goes on elsewhere (``Outlived``, not ``over``)."""
        if self.due_us is None or self._quiet:
            self._above = max(self._above, generation)
            self._quiet = True
            self.due_us = now_us + QUIET_US + self._chance.randrange(SETTLING_US)
            if self._rest_us is not None:
                self.due_us = max(self.due_us, self._rest_us)

    def take(self, now_us: int, generation: int) -> int | None:
        """Return the generation to claim now, if one is due; ``generation`` is that of now."""
        if self.due_us is None or now_us < self.due_us:
            return None
        above = self._above
        self.cancel()
        if above < generation:
            return None
        calm = self._rest_us is None or now_us - self._rest_us > _LONGEST_US
        self._gap_us = SETTLING_US if calm else min(2 * self._gap_us, _LONGEST_US)
        self._rest_us = now_us + self._gap_us
        return above + 1

    def cancel(self) -> None:
        """Forget what was heard: it was of an id that is borne no more, or has been claimed."""
        self.due_us, self._above, self._quiet = None, 0, False
