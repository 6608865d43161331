"""The table: its indexes agree with its entries, its hash with what is known, its bounds hold."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from gossip.config import Config
from gossip.members import GONE_PER_MEMBER, Table, stamp_hash
from gossip.messages import Profile, Record, Stamp, State

ME = Stamp(99, 1, 0)


def record(member: int, incarnation: int = 0, *, generation: int = 1) -> Record:
    profile = Profile(f"name-{member % 3}", "here", f"10.0.0.{member}:1")
    return Record(member, generation, incarnation, profile)


_steps = st.lists(
    st.tuples(
        st.sampled_from(["add", "suspect", "die", "leave", "renew", "drop"]), st.integers(1, 8)
    ),
    max_size=60,
)


@settings(max_examples=200)
@given(_steps)
def test_the_indexes_agree_with_the_entries(steps: list[tuple[str, int]]) -> None:
    table = Table(Config(members=5), ME)
    states = {"suspect": State.SUSPECT, "die": State.DEAD, "leave": State.LEFT}
    for at, (what, member) in enumerate(steps):
        entry = table.get(member)
        if what == "add" and entry is None and table.room():
            table.add(record(member), at)
        elif what == "renew" and entry is not None and (entry.live or table.room()):
            table.renew(entry, record(member, entry.record.incarnation + 1), at)
        elif what == "drop" and entry is not None:
            table.drop(entry, at)
        elif what in states and entry is not None and entry.live:
            table.change(entry, states[what], at)
        live = {one.record.member for one in table if one.live}
        assert set(table.live) == live
        assert len(table.live) == len(live) == table.count - 1
        assert table.count <= 5
        assert set(table.suspects) == {
            one.record.member for one in table if one.state is State.SUSPECT
        }
        assert set(table.lately_dead) == {
            one.record.member for one in table if one.state is State.DEAD
        }
        known = [ME, *(one.record.stamp for one in table if one.live)]
        assert table.hash == sum(map(stamp_hash, known)) % (1 << 64)
        for one in table:
            found = table.at(one.address)
            assert found == (one.record.member if one.live else None)
            same = {
                other for other in live
                if other % 3 == one.record.member % 3 and other != one.record.member
            }  # fmt: skip
            assert set(table.namesakes(one.record)) == same


def test_the_hash_tells_lives_and_words_apart() -> None:
    stamps = [Stamp(m, g, i) for m in range(8) for g in range(8) for i in range(8)]
    assert len({stamp_hash(stamp) for stamp in stamps}) == len(stamps)
    assert all(stamp_hash(stamp) < 1 << 64 for stamp in stamps)


def test_a_suspicion_does_not_change_the_hash_and_a_death_does() -> None:
    table = Table(Config(), ME)
    empty = table.hash
    entry = table.add(record(1), 0)
    full = table.hash
    table.change(entry, State.SUSPECT, 1)
    assert table.hash == full
    table.change(entry, State.DEAD, 2)
    assert table.hash == empty
    table.renew(entry, record(1), 3)
    assert table.hash == full
    table.renew_me(ME._replace(incarnation=1), 4)
    assert table.hash != full


def test_the_gone_are_bounded_and_the_first_gone_makes_room() -> None:
    table = Table(Config(members=2), ME)
    pushed = []
    for member in range(1, 11):
        entry = table.add(record(member), member)
        pushed += table.change(entry, State.DEAD, member)
    assert len(table) == GONE_PER_MEMBER * 2
    assert [entry.record.member for entry in pushed] == [1, 2, 3, 4]


def test_members_are_drawn_evenly_and_only_if_fit() -> None:
    chance = Random(3)
    table = Table(Config(), ME)
    for member in range(1, 201):
        table.add(record(member), 0)
    counts = dict.fromkeys(range(2, 201, 2), 0)
    for _ in range(2_000):
        drawn = table.pick(chance, 3, lambda one: one.record.member % 2 == 0)
        assert len({one.record.member for one in drawn}) == 3
        for one in drawn:
            counts[one.record.member] += 1
    assert min(counts.values()) > 25
    assert max(counts.values()) < 110
    few = [one.record.member for one in table.pick(chance, 9, lambda one: one.record.member < 4)]
    assert set(few) <= {1, 2, 3}


def test_a_moved_member_is_found_at_its_new_address_only() -> None:
    table = Table(Config(), ME)
    entry = table.add(record(1), 0)
    moved = replace(
        entry.record, incarnation=1, profile=replace(entry.record.profile, gossip_address="[::1]:9")
    )
    table.renew(entry, moved, 1)
    assert table.at("10.0.0.1:1") is None
    assert table.at("[::1]:9") == 1
