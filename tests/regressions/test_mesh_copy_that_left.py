"""A copy that left shut the original out of the mesh for good.

The copy of a store starts in a life above the original's. Found out, it takes another id and says
farewell to the old one in that later life, or dies in it. The original, which lives on under the
old id in the earlier life, was then older than that farewell: everybody refused its word, and
where packets are sealed its packets. Found by the simulator (``gathering``).
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from random import Random

import pytest

from gossip.frames import View
from gossip.keyring import Keyring
from gossip.messages import Dead, Packet, Record, Stamp, State
from gossip.sealing import Seal
from gossip.succession import GENERATION_JUMP, QUIET_US, SETTLING_US, Succession, outlived
from gossip.views import RegionView
from gossip.wire import encode_packet
from tests.gossip.hostile import record
from tests.gossip.nodes import NodeWorld
from tests.gossip.pool import SECOND, Host

COPIED = 3
ELSEWHERE = "10.9.9.9:7946"


class HostsWorld(NodeWorld):
    """Nodes whose hosts begin again when the mesh asks them to, as a node does."""

    def __init__(self, seed: int, *, sealed: bool) -> None:
        def seal(_member: int) -> Seal:
            if not sealed:
                return Seal.plain("test")
            return Seal("test", Keyring([b"k" * 32]), self.chance.randbytes(16))

        super().__init__(seed, seals=seal)
        self.successions: dict[str, Succession] = {}
        self.begun: list[tuple[int, int, int]] = []

    def look(self) -> None:
        """Let every host that was outlived begin again once that is due."""
        for host in self.running():
            succession = self.successions.setdefault(host.address, Succession(Random(1)))
            for generation, over in host.outlived:
                note = succession.heard if over else succession.heard_of
                note(generation, self.now_us)
            host.outlived.clear()
            claimed = succession.take(self.now_us, host.swim.me.generation)
            if claimed is not None:
                self.begun.append((self.now_us, host.member, claimed))
                host.up = False
                again = self.host(
                    host.member, address=host.address, generation=claimed,
                    region=host.swim.me.profile.region, remembered=host.remembered,
                )  # fmt: skip
                self.start(again, [self.place(1)])

    def gathers(self) -> bool:
        """Let the hosts look, and say whether everybody shows everybody in the lives of now."""
        self.look()
        lives = {host.member: host.swim.me.generation for host in self.running()}
        return self.complete() and all(
            view.record.generation == lives[member]
            for host in self.running()
            for member, view in self.views(host.member).items()
            if view.state is State.ALIVE
        )

    def live_through(self, copy: Host, *, farewell: bool) -> None:
        """Let a copy of the paused node live, elsewhere, and end; then the original goes on."""
        original = self.hosts[COPIED]
        self.start(copy, [self.place(1)])

        def shown() -> bool:
            view = self.views(1).get(COPIED)
            return view is not None and (view.record.generation, view.state) == (2, State.ALIVE)

        self.until(shown, 120 * SECOND)
        self.run(5 * SECOND)
        if farewell:
            self.call(copy, copy.swim.leave(self.now_us, self.wall(copy)))
        copy.up = False
        self.until(lambda: self.views(1)[COPIED].state >= State.DEAD, 120 * SECOND)
        self.hosts[COPIED] = original
        self.resume(COPIED)


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("farewell", [False, True])
@pytest.mark.parametrize("region", ["r0", "r1"])
def test_the_original_of_a_copy_that_ended_comes_back(
    sealed: bool, farewell: bool, region: str
) -> None:
    world = HostsWorld(7, sealed=sealed)
    members = (1, 2, COPIED, 100, 101)
    world.begin(members)
    world.until(world.complete, 60 * SECOND)
    world.pause(COPIED)
    world.until(
        lambda: all(world.views(one)[COPIED].state is State.DEAD for one in (1, 2, 100)),
        240 * SECOND,
    )
    copy = world.host(COPIED, address=ELSEWHERE, generation=2, region=region)
    world.live_through(copy, farewell=farewell)
    world.until(world.gathers, 300 * SECOND)
    assert world.hosts[COPIED].swim.me.generation == 3
    assert len(world.begun) == 1
    world.run(120 * SECOND)
    assert world.gathers()
    assert len(world.begun) == 1


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("region", ["r0", "r1"])
def test_the_twin_of_one_that_left_in_the_same_life_comes_back(sealed: bool, region: str) -> None:
    """Both had started as often: a farewell is final for its life, whoever else lives that."""
    world = HostsWorld(11, sealed=sealed)
    world.begin((1, 2, COPIED, 100, 101))
    world.until(world.complete, 60 * SECOND)
    original = world.hosts[COPIED]
    copy = world.host(COPIED, address=ELSEWHERE, generation=1, region=region)
    world.start(copy, [world.place(1), world.place(100)])
    world.run(5 * SECOND)
    world.call(original, original.swim.leave(world.now_us, world.wall(original)))
    original.up = False
    world.until(lambda: world.views(2)[COPIED].state is State.LEFT, 60 * SECOND)
    world.until(world.gathers, 400 * SECOND)
    assert world.hosts[COPIED].address == ELSEWHERE
    assert world.begun[-1][2] == world.hosts[COPIED].swim.me.generation
    assert len(world.begun) == 1


def test_two_that_both_live_under_one_id_do_not_outbid_each_other() -> None:
    world = HostsWorld(8, sealed=False)
    world.begin((1, 2, COPIED))
    world.until(world.complete, 60 * SECOND)
    original = world.hosts[COPIED]
    copy = world.host(COPIED, address=ELSEWHERE, generation=2, region="r0")
    world.start(copy, [world.place(1)])
    for _ in range(240):
        world.run(SECOND)
        assert not any(over for _, over in [*original.outlived, *copy.outlived])
    assert "doubled" in [warning.name for warning in [*original.warnings, *copy.warnings]]


def test_a_liar_makes_a_node_begin_again_seldom_and_not_up_to_the_end_of_numbers() -> None:
    world = HostsWorld(9, sealed=False)
    world.begin((1, 2, COPIED))
    world.until(world.complete, 60 * SECOND)
    start_us, liar = world.now_us, world.hosts[2]
    for second in range(900):
        victim = world.hosts[COPIED]
        generation = victim.swim.me.generation
        for above in (1, GENERATION_JUMP, GENERATION_JUMP + 1, 2**47):
            stamp = Stamp(COPIED, generation + above, 0)
            for accuser in (2, COPIED):
                packet = Packet("region:r0", liar.swim.me.stamp, 0, (Dead(stamp, accuser),))
                data = Seal.plain("test").seal(encode_packet(packet))
                now_us, wall_us = world.now_us, world.wall(victim)
                heard = victim.swim.receive_datagram(data, liar.address, now_us, wall_us)
                world.call(victim, heard)
        world.look()
        world.run(SECOND)
        if second == 10:
            assert len(world.begun) <= 1
    times = [at_us for at_us, _, _ in world.begun]
    assert 3 <= len(times) <= 10
    assert times[0] - start_us >= SETTLING_US
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert all(gap >= 2 * SETTLING_US for gap in gaps)
    assert gaps[-1] > 4 * gaps[0]
    assert world.hosts[COPIED].swim.me.generation <= 1 + len(times) * (GENERATION_JUMP + 1)
    world.until(world.gathers, 60 * SECOND)


# ---------------------------------------------------------------------- views from elsewhere


def test_a_copys_life_that_its_region_never_met_is_not_shown_elsewhere_for_ever() -> None:
    """It was listed alive in another region's view, and the original's older life left out."""
    author, follower = RegionView("eu"), RegionView("eu")
    who = Stamp(1, 1, 0)

    def catch_up(now_us: int) -> None:
        request = follower.wants(author.announce(who))
        if request is not None:
            follower.follow(author.answer(request, who), 100, now_us)

    copied = replace(record(COPIED), generation=2)
    author.replace([(copied, State.ALIVE)])
    catch_up(0)
    author = RegionView("eu")
    author.replace([(record(COPIED), State.ALIVE)])
    who = Stamp(2, 1, 0)
    for second in range(0, 300, 30):
        catch_up(second * SECOND)
        follower.sweep(second * SECOND)
        row = follower.get(COPIED)
        assert row is None or second > 120 or row.record == copied
    assert row is not None
    assert row.record == record(COPIED)
    # One that the author meets in time is kept.
    follower.follow(_whole(2, copied), 100, 300 * SECOND)
    follower.follow(_whole(3, record(COPIED)), 100, 310 * SECOND)
    follower.follow(_whole(3, copied), 100, 320 * SECOND)
    follower.sweep(900 * SECOND)
    row = follower.get(COPIED)
    assert row is not None
    assert row.record == copied


def _whole(author: int, said: Record) -> View:
    return View("eu", author, 1, 5, 0, 0, ((said, State.ALIVE),), ())


# ---------------------------------------------------------------------- the rule and the clock


def test_only_a_credible_later_life_is_outbid() -> None:
    me = Record(1, 5, 0, record(1).profile)
    assert outlived(me, 4) is None
    assert outlived(me, 5) is None
    assert outlived(me, 5, twin=True) is not None
    assert outlived(me, 4, twin=True) is None
    assert outlived(me, 6) is not None
    assert outlived(me, 5 + GENERATION_JUMP) is not None
    assert outlived(me, 6 + GENERATION_JUMP) is None
    top = Record(1, 2**48 - 3, 0, record(1).profile)
    assert outlived(top, 2**48 - 2) is not None
    assert outlived(top, 2**48 - 1) is None


def test_claims_settle_and_those_that_follow_each_other_slow_down() -> None:
    succession = Succession(Random(2))
    generation, claims = 1, []
    for now_us in range(0, 3_600 * SECOND, SECOND // 10):
        succession.heard(generation + 1, now_us)
        claimed = succession.take(now_us, generation)
        if claimed is not None:
            assert claimed == generation + 2
            generation = claimed
            claims.append(now_us)
    gaps = [later - earlier for earlier, later in pairwise(claims)]
    assert min(claims[0], *gaps) >= SETTLING_US
    assert 8 <= len(claims) <= 16
    assert max(gaps) <= 611 * SECOND
    # After a long calm the next one waits no longer than the first.
    calm_us = 3 * 3_600 * SECOND
    succession.cancel()
    succession.heard(generation + 7, calm_us)
    assert succession.take(calm_us + SETTLING_US - 1, generation) is None
    assert succession.take(calm_us + 2 * SETTLING_US, generation) == generation + 8


def test_a_later_life_that_goes_on_is_outbid_once_it_is_heard_of_no_more() -> None:
    succession, now_us = Succession(Random(4)), 0
    for now_us in range(0, 10 * QUIET_US, QUIET_US // 2):
        succession.heard_of(7, now_us)
        assert succession.take(now_us, 6) is None
    assert succession.take(now_us + QUIET_US - 1, 6) is None
    assert succession.take(now_us + QUIET_US + SETTLING_US, 6) == 8
    # Its end, once that is known, is not waited for any longer.
    now_us *= 10
    succession.heard_of(9, now_us)
    succession.heard(9, now_us)
    succession.heard_of(9, now_us + SECOND)
    assert succession.take(now_us + 2 * SETTLING_US, 8) == 10


def test_what_was_passed_meanwhile_is_not_claimed() -> None:
    succession = Succession(Random(3))
    succession.heard(4, 0)
    assert succession.take(2 * SETTLING_US, 5) is None
    assert succession.due_us is None
