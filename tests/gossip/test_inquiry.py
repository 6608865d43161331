"""Asking a member itself: whom, where, in what order, and how many at a time."""

from __future__ import annotations

from dataclasses import replace

from gossip.config import LAN
from gossip.messages import Ack, Alive, Dead, Ping, Stamp, State
from tests.gossip.alone import Alone, record
from tests.gossip.pool import SECOND


def test_a_later_life_is_asked_for_where_the_known_one_lived_and_then_at_its_own_address() -> None:
    alone = Alone()
    old, new = record(2), record(2, generation=2, address="10.1.9.9:1")
    helper = record(3)
    alone.hear(old, Alive(old))
    alone.hear(helper, Alive(helper))
    alone.questions()
    alone.hear(helper, Alive(new))
    [(place, first)] = alone.questions()
    assert place == old.profile.gossip_address
    alone.wait(2 * LAN.probe_timeout_us + 1)
    assert alone.listed(2) == old
    [(place, second)] = [one for one in alone.questions() if one[0] == new.profile.gossip_address]
    assert second.sequence != first.sequence
    alone.answer(second, new)
    assert alone.listed(2) == new
    assert alone.swim.counters.inquiries == 1


def test_the_known_life_that_answers_ends_the_matter() -> None:
    alone = Alone()
    old, new = record(2), record(2, generation=2, address="10.1.9.9:1")
    alone.hear(old, Alive(old))
    alone.questions()
    alone.hear(record(3), Alive(record(3)), Alive(new))
    [(_, ping)] = alone.questions()
    alone.answer(ping, old)
    alone.wait(3 * LAN.probe_timeout_us)
    assert alone.listed(2) == old
    assert alone.swim.counters.refused["impersonation"] == 1
    assert new.profile.gossip_address not in [place for place, _ in alone.questions()]


def test_an_answer_must_know_the_question() -> None:
    alone = Alone()
    old, new = record(2), record(2, generation=2)
    alone.hear(old, Alive(old))
    alone.hear(record(3), Alive(record(3)), Alive(new))
    [(_, ping)] = alone.questions()
    alone.hear(new, Ack(ping.sequence ^ 1, new.stamp, SECOND, SECOND), Alive(new))
    assert alone.listed(2) == old
    alone.hear(record(3), Ack(ping.sequence, new.stamp, SECOND, SECOND), Alive(new))
    assert alone.listed(2) == old, "only the member itself, not another for it"
    alone.answer(ping, new)
    assert alone.listed(2) == new


def test_only_so_many_are_asked_at_a_time_and_all_in_the_end() -> None:
    alone = Alone()
    members = [record(member) for member in range(10, 110)]
    helper = record(3)
    alone.hear(helper, Alive(helper))
    # Packets of strangers, who do not say who they are.
    for member in members:
        alone.hear(member)
    asked = alone.questions()
    assert len(asked) == 32
    seen = set()
    while asked:
        for place, ping in asked:
            seen.add(place)
            found = next(one for one in members if one.profile.gossip_address == place)
            alone.answer(ping, found)
        asked = alone.questions()
    assert len(seen) == 100
    assert len(alone.swim.members()) == 101


def test_a_stranger_is_asked_where_it_says_that_answers_go() -> None:
    alone = Alone()
    stranger = record(7)
    alone.hear(stranger, Ping(5, 1, "10.1.7.7:9", SECOND))
    assert "10.1.7.7:9" in [place for place, _ in alone.questions()]


def test_silence_confirms_a_farewell_and_an_answer_refuses_it() -> None:
    for answers in (True, False):
        alone = Alone()
        member, helper = record(2), record(3)
        alone.hear(member, Alive(member))
        alone.hear(helper, Alive(helper))
        alone.questions()
        alone.hear(helper, Dead(member.stamp, 2))
        [(place, ping)] = alone.questions()
        assert place == member.profile.gossip_address
        if answers:
            alone.answer(ping, member)
        alone.wait(LAN.probe_timeout_us + 1)
        view = alone.swim.view(2)
        assert view is not None
        assert view.state is (State.ALIVE if answers else State.LEFT)
        assert alone.swim.counters.refused["accusation"] == answers


def test_a_word_that_was_never_said_is_corrected_by_who_did_not_say_it() -> None:
    alone = Alone()
    true = record(2)
    forged = replace(true, generation=9, incarnation=3)
    alone.hear(record(3), Alive(record(3)), Alive(forged))
    assert alone.listed(2) == forged, "a newcomer is believed until it is asked"
    alone.questions()
    alone.hear(true)
    [(_, ping)] = alone.questions()
    alone.answer(ping, true)
    assert alone.listed(2) == true
    alone.hear(record(3), Alive(forged))
    [(_, ping)] = alone.questions()
    alone.answer(ping, true)
    assert alone.listed(2) == true
    assert alone.listed(2).stamp == Stamp(2, 1, 0)
