"""One member's failure detector, step by step."""

from __future__ import annotations

from dataclasses import replace

from gossip.config import LAN, Config
from gossip.effects import Annotated, MemberChanged, Warn
from gossip.messages import Ack, Alive, Dead, Nack, Ping, PingRequest, State, Suspect
from tests.gossip.alone import Alone, record
from tests.gossip.pool import MS, SECOND

TIMEOUT, INTERVAL = LAN.probe_timeout_us, LAN.probe_interval_us


def state(alone: Alone, member: int) -> State:
    view = alone.swim.view(member)
    assert view is not None
    return view.state


def test_helpers_are_asked_at_the_timeout_and_silence_is_a_suspicion_at_the_interval() -> None:
    alone = Alone()
    alone.meet(record(2), record(3), record(4))
    place, ping = alone.probe()
    target = ping.target
    alone.wait(TIMEOUT - 1)
    assert not [one for _, one in alone.sent if isinstance(one, PingRequest)]
    alone.wait(1)
    requests = [(to, one) for to, one in alone.sent if isinstance(one, PingRequest)]
    assert len(requests) == 2
    assert place not in [to for to, _ in requests]
    assert {(one.target, one.address, one.sequence) for _, one in requests} == {
        (target, place, ping.sequence)
    }
    alone.wait(INTERVAL - TIMEOUT - 1)
    assert state(alone, target) is State.ALIVE
    alone.wait(1)
    assert state(alone, target) is State.SUSPECT
    assert alone.swim.counters.suspicions == 1


def test_an_answer_through_a_helper_is_an_answer() -> None:
    alone = Alone()
    alone.meet(record(2), record(3))
    _, ping = alone.probe()
    target, helper = record(ping.target), record(5 - ping.target)
    early = Ack(ping.sequence, target.stamp, 0, 0)
    alone.hear(helper, early)
    assert alone.swim.counters.refused["answer"] == 1, "it was not asked yet"
    alone.wait(TIMEOUT)
    alone.hear(helper, early)
    alone.wait(INTERVAL)
    assert state(alone, target.member) is State.ALIVE
    assert alone.swim.counters.acks == 1
    view = alone.swim.view(target.member)
    assert view is not None
    assert view.round_trip_us is None, "a relayed answer measures nothing"


def test_health_falls_where_helpers_are_silent_too_and_not_where_they_answer() -> None:
    for answered, expected in ((True, 0), (False, 1)):
        alone = Alone()
        alone.meet(record(2), record(3), record(4))
        _, ping = alone.probe()
        alone.wait(TIMEOUT)
        for member in {2, 3, 4} - {ping.target}:
            if answered:
                alone.hear(record(member), Nack(ping.sequence))
        alone.wait(INTERVAL - TIMEOUT)
        assert state(alone, ping.target) is State.SUSPECT
        assert alone.swim.counters.health == expected


def test_bad_health_stretches_interval_and_timeout() -> None:
    alone = Alone()
    alone.meet(record(2), record(3), record(4))
    for _ in range(3):
        alone.hear(record(2), Suspect(alone.swim.me.stamp, 2))
    assert alone.swim.counters.health == 3
    _, ping = alone.probe()
    alone.wait(4 * TIMEOUT - 1)
    assert not [one for _, one in alone.sent if isinstance(one, PingRequest)]
    alone.wait(1)
    assert [one for _, one in alone.sent if isinstance(one, PingRequest)]
    alone.hear(record(ping.target), Ack(ping.sequence, record(ping.target).stamp, 0, 0))
    assert alone.swim.counters.health == 2


def test_a_refused_stream_hastens_the_verdict_and_confirms_it_once() -> None:
    alone = Alone()
    alone.meet(record(2), record(3), record(4))
    _, ping = alone.probe()
    alone.wait(TIMEOUT)
    alone.refuse_streams()
    alone.wait(TIMEOUT // 5)
    assert state(alone, ping.target) is State.SUSPECT
    assert alone.swim.counters.confirmations == 1
    assert alone.swim.counters.health == 0, "its host has said whose fault it is"


def test_a_stream_is_tried_early_and_its_refusal_asks_helpers_at_once() -> None:
    alone = Alone()
    alone.meet(record(2), record(3), record(4))
    _, ping = alone.probe()
    alone.wait(TIMEOUT // 5 - 1)
    assert alone.swim.counters.stream_probes == 0
    alone.wait(1)
    assert alone.swim.counters.stream_probes == 1
    assert alone.swim.counters.indirect_probes == 0
    alone.refuse_streams()
    assert alone.swim.counters.indirect_probes == 2
    alone.wait(TIMEOUT // 5 - 1)
    assert state(alone, ping.target) is State.ALIVE, "a helper may know better"
    alone.wait(1)
    assert state(alone, ping.target) is State.SUSPECT
    assert alone.swim.counters.indirect_probes == 2, "they were asked once"


def test_an_answer_in_time_spares_the_stream() -> None:
    alone = Alone()
    alone.meet(record(2), record(3), record(4))
    _, ping = alone.probe()
    alone.hear(record(ping.target), Ack(ping.sequence, record(ping.target).stamp, 0, 0))
    alone.wait(TIMEOUT)
    assert alone.swim.counters.stream_probes == 0


def test_a_suspect_is_told_first_and_its_answer_ends_the_suspicion_at_once() -> None:
    alone = Alone()
    subject, accuser = record(2), record(3)
    alone.meet(subject, accuser)
    alone.hear(accuser, Suspect(subject.stamp, 3))
    assert state(alone, 2) is State.SUSPECT
    alone.sent.clear()
    for _ in range(3):
        place, ping = alone.probe()
        if ping.target == 2:
            break
    assert place == subject.profile.gossip_address
    alone.hear(subject, Ack(ping.sequence, subject.stamp, 0, 0))
    assert state(alone, 2) is State.ALIVE
    assert alone.swim.counters.cleared == 1
    alone.sent.clear()
    alone.hear(accuser, Suspect(subject.stamp, 4))
    assert state(alone, 2) is State.ALIVE, "it has just answered for that word"
    assert (place, Suspect(subject.stamp, 1)) in alone.sent, "it hears what is said of it"
    alone.wait(60 * MS)
    alone.hear(accuser, Suspect(subject.stamp, 5))
    assert len([one for one in alone.sent if one == (place, Suspect(subject.stamp, 1))]) == 1


def test_the_accusation_comes_before_the_ping_in_one_packet() -> None:
    alone = Alone()
    alone.meet(record(2), record(3))
    alone.hear(record(3), Suspect(record(2).stamp, 3))
    alone.sent.clear()
    for _ in range(4):
        alone.wait(INTERVAL)
    place = record(2).profile.gossip_address
    said = [one for to, one in alone.sent if to == place]
    at = next(n for n, one in enumerate(said) if isinstance(one, Ping))
    assert isinstance(said[at - 1], Suspect)


def test_who_is_held_for_dead_hears_it_in_answer_to_whatever_it_says() -> None:
    alone = Alone()
    dead = record(2)
    alone.meet(dead, record(3))
    alone.wait(200 * SECOND)
    assert state(alone, 2) is State.DEAD
    alone.sent.clear()
    alone.hear(dead, Ping(7, 1, dead.profile.gossip_address, SECOND))
    told = [one for to, one in alone.sent if to == dead.profile.gossip_address]
    assert Dead(dead.stamp, 1) in told
    alone.hear(dead, Alive(replace(dead, incarnation=1)))
    assert state(alone, 2) is State.ALIVE
    assert alone.swim.counters.false_alarms == 1


def test_a_late_timer_voids_the_probes_and_counts_against_oneself() -> None:
    alone = Alone()
    alone.meet(record(2), record(3), record(4))
    alone.hear(record(3), Suspect(record(4).stamp, 3))
    alone.probe()
    alone.now_us += 100 * SECOND
    alone.effects.clear()
    alone.wait(0)
    assert alone.swim.counters.late_timers == 1
    assert alone.swim.counters.health == 1
    assert alone.swim.counters.probes_voided >= 1
    changes = [effect for effect in alone.effects if isinstance(effect, MemberChanged)]
    assert not changes, "nothing is concluded before what waits was read"
    alone.wait(SECOND)
    assert state(alone, 4) is State.DEAD, "the grace is one interval"


def test_an_answer_after_the_verdict_still_ends_the_suspicion() -> None:
    alone = Alone()
    alone.meet(record(2), record(3), record(4))
    _, ping = alone.probe()
    alone.wait(INTERVAL + 100 * MS)
    assert state(alone, ping.target) is State.SUSPECT
    alone.hear(record(ping.target), Ack(ping.sequence, record(ping.target).stamp, 0, 0))
    assert state(alone, ping.target) is State.ALIVE
    assert alone.swim.counters.late_acks == 1


def test_in_another_s_stead() -> None:
    alone = Alone()
    asker, target = record(2), record(3)
    alone.meet(asker, target)
    alone.hear(asker, PingRequest(77, 3, target.profile.gossip_address, "10.8.8.8:8"))
    [(place, ping)] = [(to, one) for to, one in alone.sent if isinstance(one, Ping)]
    assert place == target.profile.gossip_address
    assert ping.target == 3
    assert ping.sequence != 77
    alone.wait(TIMEOUT * 4 // 5)
    assert ("10.8.8.8:8", Nack(77)) in alone.sent
    alone.hear(asker, Ack(ping.sequence, target.stamp, 5, 5))
    assert not [one for _, one in alone.sent if isinstance(one, Ack)], "only the target's own"
    alone.hear(target, Ack(ping.sequence, target.stamp, 5, 5, None, b"note"))
    assert ("10.8.8.8:8", Ack(77, target.stamp, 0, 0, None, b"note")) in alone.sent


def test_stead_is_bounded() -> None:
    alone = Alone()
    alone.meet(record(2))
    for number in range(300):
        alone.hear(record(2), PingRequest(number, 3, "10.3.3.3:3", "10.2.2.2:2"))
    assert alone.swim.counters.relayed == 256
    assert alone.swim.counters.refused["relays"] == 44
    alone.wait(2 * SECOND)
    alone.hear(record(2), PingRequest(1, 3, "10.3.3.3:3", "10.2.2.2:2"))
    assert alone.swim.counters.relayed == 257


def test_a_death_that_comes_before_any_suspicion_is_a_suspicion_and_a_probe() -> None:
    alone = Alone()
    alone.meet(record(2), record(3), record(4))
    alone.hear(record(3), Dead(record(2).stamp, 3))
    assert state(alone, 2) is State.SUSPECT
    assert [one for _, one in alone.sent if isinstance(one, Ping) and one.target == 2]
    alone.hear(record(4), Dead(record(2).stamp, 4))
    assert state(alone, 2) is State.SUSPECT
    alone.wait(2 * SECOND)
    alone.hear(record(3), Dead(record(2).stamp, 3))
    assert state(alone, 2) is State.DEAD, "suspected for half of the least, it is believed"


def test_two_members_of_one_name_are_both_kept_and_reported() -> None:
    alone = Alone()
    twin = replace(record(3), profile=replace(record(3).profile, name="m2"))
    alone.hear(record(2), Alive(record(2)))
    alone.hear(twin, Alive(twin))
    assert {view.record.member for view in alone.swim.members()} == {2, 3}
    [warning] = [effect for effect in alone.effects if isinstance(effect, Warn)]
    assert warning.name == "name_conflict"
    assert warning.details["other"] == 2


def test_an_annotation_is_reported_when_it_changes() -> None:
    alone = Alone()
    alone.meet(record(2))
    for note in (b"a", b"a", b"b"):
        alone.hear(record(2), Ping(1, 1, "", SECOND, note))
    found = [one.annotation for one in alone.effects if isinstance(one, Annotated)]
    assert found == [b"a", b"b"]


def test_without_stream_probes_no_stream_is_tried() -> None:
    alone = Alone(Config(stream_probes=False, push_pull_interval_us=3_600 * SECOND))
    alone.meet(record(2), record(3))
    alone.wait(20 * SECOND)
    assert alone.swim.counters.stream_probes == 0
    assert alone.swim.counters.probes_failed > 0
