"""Members that somebody had made up were asked to help with probes; so the asker doubted itself.

They send no negative acknowledgement, which counts against the asker's own health; so it probed
up to four times more seldom, and the last of eight invented members was listed for almost six
minutes (seed 7151 of the simulator's swarm).
"""

from __future__ import annotations

from gossip.config import LAN
from gossip.messages import Alive, Nack, PingRequest, Record
from tests.gossip.alone import Alone, record
from tests.gossip.pool import SECOND

REAL = (2, 3, 4, 5)
MADE_UP = tuple(range(10, 18))


def _deceived() -> Alone:
    """Meet four members, one of which then tells of eight that nobody has ever heard."""
    alone = Alone()
    for member in REAL:
        # A first packet only makes it ask who that is; what comes later was heard of a member.
        alone.meet(record(member))
        alone.meet(record(member))
    alone.hear(record(2), *(Alive(record(member)) for member in MADE_UP))
    alone.sent.clear()
    return alone


def _asked(alone: Alone) -> list[tuple[str, PingRequest]]:
    return [(to, one) for to, one in alone.sent if isinstance(one, PingRequest)]


def test_those_who_were_heard_are_asked_to_help_first() -> None:
    alone = _deceived()
    real = {_place(record(member)): record(member) for member in REAL}
    for _ in range(20):
        _, ping = alone.probe()
        if ping.target in REAL:
            alone.answer(ping, record(ping.target))
            continue
        alone.wait(SECOND // 2)
        asked = _asked(alone)
        assert len(asked) == LAN.indirect_probes, ping.target
        assert {to for to, _ in asked} <= real.keys()
        for to, request in asked:
            alone.hear(real[to], Nack(request.sequence))
    # None of these failures says anything against oneself.
    assert alone.swim.counters.probes_failed >= len(MADE_UP)
    assert alone.swim.counters.health == 0


def test_where_too_few_were_heard_the_others_are_asked_too() -> None:
    alone = Alone()
    alone.meet(record(2))
    alone.hear(record(2), *(Alive(record(member)) for member in (10, 11, 12)))
    alone.sent.clear()
    alone.probe()
    alone.wait(SECOND // 2)
    assert len(_asked(alone)) == LAN.indirect_probes


def _place(member: Record) -> str:
    return member.profile.gossip_address
