"""A member whose every timer is late: it finds out who is dead all the same, and suspects nobody
of whom it hears."""

from __future__ import annotations

import pytest

from gossip.config import LAN
from gossip.messages import State
from gossip.probe import EXCUSES
from tests.gossip.pool import MS, SECOND, Host, World

LATE = 1


class LateWorld(World):
    """Timers of one host fire so long after they are due; what came meanwhile was read."""

    late_us = 0

    def _schedule(self, host: Host) -> None:
        due_us = host.swim.next_deadline_us()
        if due_us is None or not host.up:
            return
        host.wake += 1
        wake = host.wake
        due_us += self.late_us if host.member == LATE else 0
        self.after(max(0, due_us - self.now_us), lambda: self._wake(host, wake))


def _world(members: int, late_us: int, seed: int = 3, loss: float = 0.0) -> LateWorld:
    world = LateWorld(seed, loss=loss)
    world.grow(members)
    world.run(5 * SECOND)
    world.late_us = late_us
    world.run(30 * SECOND)
    assert world.hosts[LATE].swim.counters.late_timers > EXCUSES
    return world


@pytest.mark.parametrize("late_us", [300 * MS, 1_500 * MS])
@pytest.mark.parametrize("members", [2, 5])
def test_the_dead_are_found(members: int, late_us: int) -> None:
    """All others die at once: nobody is left who could tell it."""
    world = _world(members, late_us)
    for member in range(2, members + 1):
        world.kill(member)
    dead = range(2, members + 1)
    limit_us = 3_600 * SECOND
    world.until(lambda: all(world.state(LATE, one) is State.DEAD for one in dead), limit_us, SECOND)


@pytest.mark.parametrize("loss", [0.0, 0.1])
@pytest.mark.parametrize("late_us", [300 * MS, 1_500 * MS])
def test_the_living_are_not_called_dead(late_us: int, loss: float) -> None:
    world = _world(5, late_us, loss=loss)
    world.run(600 * SECOND)
    for member in range(2, 6):
        assert world.deaths(member) == 0
    assert world.deaths(LATE) == 0


def test_a_long_pause_is_one_excuse_however_long_nobody_was_heard() -> None:
    world = LateWorld(4)
    world.grow(4)
    world.run(10 * SECOND)
    for _ in range(3 * EXCUSES):
        world.pause(LATE)
        world.run(4 * LAN.probe_interval_us)
        world.resume(LATE)
        world.run(100 * MS)
    world.run(60 * SECOND)
    own = [change for _, change in world.hosts[LATE].changes if change.state is State.DEAD]
    assert not own
    assert world.whole()
