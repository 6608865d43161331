"""A member that said farewell was listed as dead for ever.

A farewell is asked about before it is believed. Where the one who asked was slow, or its timers
came late, others' suspicion called the member dead before the silence could confirm its
farewell; and who was dead by then was not taken for one who had left. Its region counted it
among the lost, sought it for ever, and waited for it.
"""

from __future__ import annotations

from gossip.messages import Dead, State, Suspect
from tests.gossip.alone import Alone, record
from tests.gossip.pool import SECOND


def test_a_farewell_holds_although_its_member_was_called_dead_meanwhile() -> None:
    alone = Alone()
    gone, accuser, third = record(2), record(3), record(4)
    alone.meet(gone, accuser, third)
    # One's own timers are late, so that the question of the farewell takes its time.
    for _ in range(7):
        alone.hear(accuser, Suspect(alone.swim.me.stamp, 3))
    alone.hear(accuser, Suspect(gone.stamp, 3))
    alone.wait(5 * SECOND // 2)
    alone.hear(gone, Dead(gone.stamp, 2))
    alone.hear(accuser, Dead(gone.stamp, 3))
    listed = alone.swim.view(2)
    assert listed is not None
    assert listed.state is State.DEAD
    alone.wait(10 * SECOND)
    listed = alone.swim.view(2)
    assert listed is not None
    assert listed.state is State.LEFT
    # What was told of it last is what it said itself.
    assert [one for _, one in alone.sent if isinstance(one, Dead) and one.accuser == 2]
