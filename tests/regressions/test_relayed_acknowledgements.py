"""In a large cluster everybody's acknowledgements are passed on, not only those of the first.

Harm: of what others had acknowledged the first 64 members that had news were passed on, always in
one order. Where over 64 wrote all the time, those at the end were never heard of by peers without
a stream to them: nothing became stable, and nobody who waited for all regions was answered.
"""

from __future__ import annotations

from typing import Any, cast

from crdtmem.causality import VersionVector
from crdtmem.frames import FrameReader
from crdtmem.sync_host import SyncConfig, SyncHost
from crdtmem.sync_session import Session
from crdtmem.sync_telling import Telling

SECOND_US = 1_000_000
CONFIG = SyncConfig()
ROUND_US = CONFIG.relayed_us + 5_000 * CONFIG.relayed_number_us
"""After this the next ones have their turn, however much the last turn was."""


class Busy:
    """A host of a cluster in which everybody joins something all the time."""

    replica_id = 1

    def __init__(self, members: int) -> None:
        self.members = range(2, 2 + members)
        self.last = 0

    def acknowledged(self) -> dict[int, VersionVector]:
        self.last += 1
        vector = dict.fromkeys(self.members, self.last)
        return {member: VersionVector(vector) for member in self.members}


def session_of(host: Any) -> tuple[Telling, Session]:
    session = Session("peer", True, FrameReader(1 << 20), 0, 1 << 20, 1 << 20)
    return Telling(cast("SyncHost", host), CONFIG, {}), session


def test_everybody_is_passed_on_in_turn() -> None:
    host = Busy(200)
    telling, session = session_of(host)
    heard: set[int] = set()
    rounds = 0
    while heard != set(host.members):
        told = telling.relayed(session, rounds * ROUND_US)
        assert told, "there is always news"
        assert sum(map(len, told.values())) <= 4_096 + 200
        rest = set(host.members) - heard
        assert len(rest & told.keys()) == min(len(rest), len(told)), "the next ones, not the same"
        heard |= told.keys()
        rounds += 1
    assert rounds <= 200 * 200 // 4_096 + 1


def test_few_members_are_passed_on_all_at_once_and_only_their_news() -> None:
    host = Busy(40)
    telling, session = session_of(host)
    assert telling.relayed(session, 0).keys() == set(host.members)
    assert telling.relayed(session, SECOND_US // 2) == {}, "now and then"
    host.last -= 1
    assert telling.relayed(session, ROUND_US) == {}, "nothing that was told before"
