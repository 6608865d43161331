"""Views of regions: changes since a number add up to the whole, and never go back."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from gossip.frames import Announcement, View, ViewRequest
from gossip.messages import Profile, Record, Stamp, State
from gossip.regions import REPEAT_US, Regions
from gossip.views import RegionView, view_hash

SECOND = 1_000_000
ANN = Stamp(1, 4, 0)
BOB = Stamp(2, 9, 0)


def record(member: int, generation: int = 1, incarnation: int = 0, region: str = "eu") -> Record:
    profile = Profile(f"n{member}", region, f"10.0.0.{member}:7")
    return Record(member, generation, incarnation, profile)


def rows(view: RegionView) -> dict[int, tuple[Record, State]]:
    return {row.record.member: (row.record, row.state) for row in view}


def catch_up(follower: RegionView, author: RegionView, who: Stamp = ANN) -> View | None:
    request = follower.wants(author.announce(who))
    if request is None:
        return None
    answer = author.answer(request, who)
    follower.follow(answer, room=1_000, now_us=0)
    return answer


steps = st.lists(
    st.one_of(
        st.tuples(st.integers(1, 8), st.integers(1, 3), st.sampled_from(list(State))),
        st.tuples(st.just("gone"), st.integers(1, 8)),
        st.just("follow"),
        st.just("another follows"),
    ),
    max_size=40,
)


@given(steps)
def test_followers_hold_what_the_author_holds(happens: list[object]) -> None:
    author, follower, second = (RegionView("eu") for _ in range(3))
    held: dict[int, tuple[Record, State]] = {}
    said: dict[int, tuple[int, int, bool]] = {}
    for step in happens:
        if step == "follow":
            catch_up(follower, author)
        elif step == "another follows":
            # Second hand: the follower is an author itself.
            catch_up(second, follower, BOB)
        elif isinstance(step, tuple) and step[0] == "gone":
            held.pop(step[1], None)
            author.replace(held.values())
        elif isinstance(step, tuple):
            member, word, state = step
            # Lives and words only rise, also of those that were not listed for a while.
            life, last, left = said.get(member, (1, 0, False))
            if left:
                life, last = life + 1, 0
            said[member] = (life, max(word, last), state is State.LEFT)
            held[member] = (record(member, *said[member][:2]), state)
            author.replace(held.values())
        assert author.hash == view_hash(rows(author).values())
    catch_up(follower, author)
    catch_up(second, follower, BOB)
    assert rows(author) == held
    assert rows(follower) == held
    assert rows(second) == held
    assert follower.wants(author.announce(ANN)) is None


def test_only_changes_travel_to_who_follows() -> None:
    author, follower = RegionView("eu"), RegionView("eu")
    entries = {member: (record(member), State.ALIVE) for member in range(1, 101)}
    author.replace(entries.values())
    first = catch_up(follower, author)
    assert first is not None
    assert first.since == 0
    assert len(first.entries) == 100
    entries[7] = (record(7), State.DEAD)
    del entries[9]
    author.replace(entries.values())
    second = catch_up(follower, author)
    assert second is not None
    assert second.since == first.number
    assert [entry[0].member for entry in second.entries] == [7]
    assert second.gone == (9,)


def test_another_author_with_the_same_view_costs_nothing() -> None:
    ann, bob, follower = RegionView("eu"), RegionView("eu"), RegionView("eu")
    for author in (ann, bob):
        author.replace([(record(1), State.ALIVE), (record(2), State.ALIVE)])
    catch_up(follower, ann)
    assert follower.wants(bob.announce(BOB)) is None
    bob.replace([(record(1), State.ALIVE), (record(2), State.DEAD)])
    answer = catch_up(follower, bob, BOB)
    assert answer is not None
    assert answer.since == 1, "it is followed from there on"
    assert rows(follower) == rows(bob)


def test_a_new_life_of_the_author_is_asked_for_the_whole() -> None:
    author, follower = RegionView("eu"), RegionView("eu")
    author.replace([(record(1), State.ALIVE), (record(2), State.ALIVE)])
    catch_up(follower, author)
    again = RegionView("eu")
    again.replace([(record(1, 2), State.ALIVE)])
    answer = catch_up(follower, again, ANN._replace(generation=5))
    assert answer is not None
    assert answer.since == 0
    assert set(rows(follower)) == {1, 2}, "the author may be about to meet it again"
    assert follower.sweep(121 * SECOND) == {2}
    assert rows(follower) == rows(again)
    assert follower.sweep(500 * SECOND) == set()


def test_whom_another_author_lists_later_is_never_struck() -> None:
    first, second, follower = RegionView("eu"), RegionView("eu"), RegionView("eu")
    first.replace([(record(1), State.ALIVE)])
    second.replace([(record(2), State.ALIVE)])
    catch_up(follower, first)
    catch_up(follower, second, BOB)
    assert set(rows(follower)) == {1, 2}
    second.replace([(record(1), State.ALIVE), (record(2), State.ALIVE)])
    catch_up(follower, second, BOB)
    assert follower.sweep(500 * SECOND) == set()
    second.replace([(record(2), State.ALIVE)])
    catch_up(follower, second, BOB)
    assert set(rows(follower)) == {2}, "who is followed strikes at once"


def test_more_gone_than_are_remembered_cost_a_whole_view() -> None:
    author, follower = RegionView("eu"), RegionView("eu")
    author.replace([(record(1), State.ALIVE)])
    catch_up(follower, author)
    for member in range(2, 1_200):
        author.replace([(record(1), State.ALIVE), (record(member), State.ALIVE)])
    answer = catch_up(follower, author)
    assert answer is not None
    assert answer.since == 0
    assert rows(follower) == rows(author)


def test_a_row_never_goes_back() -> None:
    follower = RegionView("eu")
    follower.follow(View("eu", 1, 1, 1, 0, 0, ((record(5, 3, 2), State.LEFT),)), 10, 0)
    for stale in ((record(5, 2, 9), State.ALIVE), (record(5, 3, 9), State.ALIVE),
                  (record(5, 3, 1), State.DEAD)):  # fmt: skip
        assert not follower.follow(View("eu", 2, 1, 1, 0, 0, (stale,)), 10, 0)
        assert rows(follower)[5] == (record(5, 3, 2), State.LEFT)
    assert follower.follow(View("eu", 2, 1, 2, 1, 0, ((record(5, 4), State.ALIVE),)), 10, 0) == {5}


def test_rows_of_other_regions_and_beyond_the_room_are_left_out() -> None:
    follower = RegionView("eu")
    entries = tuple((record(member), State.ALIVE) for member in range(1, 9))
    foreign = (record(50, region="us"), State.ALIVE)
    assert follower.follow(View("eu", 1, 1, 1, 0, 0, (*entries, foreign)), 3, 0) == {1, 2, 3}
    assert follower.follow(View("eu", 1, 1, 2, 0, 0, (*entries, foreign)), 0, 0) == set()
    assert set(rows(follower)) == {1, 2, 3}


def test_a_region_without_a_voice_is_doubted_until_it_speaks_again() -> None:
    author, follower = RegionView("eu"), RegionView("eu")
    author.replace([(record(1), State.ALIVE), (record(2), State.DEAD)])
    catch_up(follower, author)
    assert follower.doubt(0) == {1}
    assert rows(follower)[1][1] is State.SUSPECT
    assert follower.doubt(0) == set()
    assert catch_up(follower, author) is not None
    assert rows(follower) == rows(author)


# ------------------------------------------------------------------ fetches


def said(view: RegionView, who: Stamp = ANN) -> Announcement:
    return view.announce(who)


def anybody(_region: str, _author: int) -> bool:
    """Whoever announces speaks for the region."""
    return True


def test_one_fetch_per_region_and_the_last_word_afterwards() -> None:
    author, regions = RegionView("eu"), Regions("us", 100, Random(1))
    author.replace([(record(1), State.ALIVE)])
    fetch = regions.hear(said(author), 0, first=1, wide=True)
    assert fetch is not None
    assert fetch.request == ViewRequest("eu")
    old = author.answer(fetch.request, ANN)
    author.replace([(record(1), State.ALIVE), (record(2), State.ALIVE)])
    assert regions.hear(said(author), 0, first=1, wide=True) is None
    changed, following = regions.fetched("eu", old, 0, anybody)
    assert changed == {1}
    assert following is not None
    assert following.request == ViewRequest("eu", 1, 4, old.number)
    changed, following = regions.fetched("eu", author.answer(following.request, ANN), 0, anybody)
    assert (changed, following) == ({2}, None)
    assert regions.row(2) is not None


def test_a_failed_fetch_is_tried_again_a_few_times() -> None:
    author, regions = RegionView("eu"), Regions("us", 100, Random(1))
    author.replace([(record(1), State.ALIVE)])
    assert regions.hear(said(author), 0, first=1, wide=True)
    now_us, tries = 0, 1
    while True:
        assert regions.fetched("eu", None, now_us, anybody) == (set(), None)
        due_us = regions.next_deadline_us()
        if due_us is None:
            break
        assert due_us > now_us
        assert not regions.due(due_us - 1)
        assert [fetch.region for fetch in regions.due(due_us)] == ["eu"]
        now_us, tries = due_us, tries + 1
    assert tries == 4
    assert regions.hear(said(author), now_us, first=1, wide=True), "the next one starts again"


def test_a_view_of_somebody_else_is_no_answer() -> None:
    author, regions = RegionView("eu"), Regions("us", 100, Random(1))
    author.replace([(record(1), State.ALIVE)])
    assert regions.hear(said(author), 0, first=1, wide=True)
    assert regions.fetched("eu", author.answer(ViewRequest("eu"), BOB), 0, anybody) == (set(), None)
    assert regions.row(1) is None


def test_who_should_speak_is_not_talked_over() -> None:
    full, half = RegionView("eu"), RegionView("eu")
    full.replace([(record(1), State.ALIVE), (record(2), State.ALIVE)])
    half.replace([(record(2), State.ALIVE)])
    regions = Regions("us", 100, Random(1))
    fetch = regions.hear(said(half, BOB), 0, first=1, wide=True)
    assert fetch is not None, "better than nothing"
    regions.fetched("eu", half.answer(fetch.request, BOB), 0, anybody)
    fetch = regions.hear(said(full), 0, first=1, wide=True)
    assert fetch is not None
    regions.fetched("eu", full.answer(fetch.request, ANN), 0, anybody)
    assert regions.hear(said(half, BOB), 10, first=1, wide=True) is None
    assert regions.hear(said(half, BOB), 4 * REPEAT_US, first=1, wide=True) is not None


def test_regions_and_their_members_are_bounded() -> None:
    regions = Regions("us", 10, Random(1))
    assert regions.hear(Announcement("us", 1, 1, 1, 5), 0, first=1, wide=True) is None
    for number in range(300):
        regions.hear(Announcement(f"r{number}", 1, 1, 1, 5), 0, first=1, wide=True)
    assert len(regions.others) == 256
    for number in range(256):
        region = f"r{number}"
        entry = (record(number + 1, region=region), State.ALIVE)
        regions.fetched(region, View(region, 1, 1, 1, 0, 0, (entry,)), 0, anybody)
    assert len(regions.rows()) == 10


def test_of_a_member_that_moved_the_newer_life_counts() -> None:
    regions = Regions("us", 100, Random(1))
    for region, generation in (("eu", 2), ("ap", 3)):
        fetch = regions.fetch(ViewRequest(region), 1, wide=True)
        assert fetch is not None
        entry = (record(7, generation, region=region), State.ALIVE)
        regions.fetched(region, View(region, 1, 1, 1, 0, 0, (entry,)), 0, anybody)
    row = regions.row(7)
    assert row is not None
    assert row.record.profile.region == "ap"
    regions.forget(7)
    assert regions.row(7) is None
