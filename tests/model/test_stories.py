"""Named interleavings behind the design's rules, each told as a schedule and its outcome.

Where ``test_broken`` shows that a rule is needed, these show what keeping it gives.
"""

from __future__ import annotations

from tests.model.explore import settle
from tests.model.schedule import World, parse

__all__: list[str] = []


def told(founders: str, text: str) -> World:
    """Run a schedule of which no step may be refused; a line ending in ``!`` must be."""
    world = World(founders)
    for line in (line.partition("#")[0].strip() for line in text.splitlines()):
        if line:
            outcome = world.step(parse(line.removesuffix("!"))[0])
            went = outcome in ("done", "nothing to take", "nothing new")
            assert went != line.endswith("!"), f"{line}: {outcome}"
    return world


EVICTION_OF_C = """
    a: evict c
    b: pull a
    b: promise
    a: pull b
    a: acknowledge b
    b: acknowledge a
"""


def test_a_write_survives_a_delete_that_did_not_observe_it() -> None:
    world = told("ab", "a: put k x\nb: pull a\na: put k y\nb: delete k\nb: pull a\na: pull b")
    assert world.replicas["a"].value("register", "k") == ["y"]


def test_increment_reset_collect_increment_counts_the_last_only() -> None:
    world = told(
        "ab",
        """
        a: increment c 5
        b: pull a
        b: reset c
        a: pull b
        a: acknowledge b
        a: collect
        a: increment c 2
        """,
    )
    assert world.replicas["a"].value("counter", "c") == 2
    settle(world)
    assert world.replicas["b"].value("counter", "c") == 2


def test_a_transaction_is_seen_whole_or_not_at_all() -> None:
    world = told("ab", "a: put k x; increment c 1; include s e\nb: deliver a a")
    assert world.replicas["b"].vector == {"a": 3}
    refused = World("a")
    assert refused.run(parse("a: mint q 1\na: put k x; spend q 2"))[1] == "insufficient rights"
    assert refused.replicas["a"].value("register", "k") == []


def test_a_conditional_write_meets_what_it_had_not_seen() -> None:
    told("ab", "a: put k x\na: read k @s\nb: put k y\na: pull b\na: replace k z @s !")


def test_a_read_in_one_region_followed_by_a_write_in_another_waits() -> None:
    world = told(
        "ab",
        """
        a: put k x
        a: read k @seen
        b: put k y @seen !      # b has not joined what was read
        b: pull a
        b: put k y @seen
        """,
    )
    assert world.replicas["b"].value("register", "k") == ["y"]


def test_repair_gives_back_what_one_side_lost() -> None:
    world = told("ab", "a: put k x\nb: pull a\na: trim\na: lose k\na: repair b")
    assert world.replicas["a"].value("register", "k") == ["x"]


def test_repair_derives_from_the_log_first() -> None:
    world = told("ab", "a: put k x\nb: pull a\nb: lose k\nb: trim\na: lose k\na: repair b")
    assert world.replicas["b"].value("register", "k") == ["x"]


def test_repair_between_unequal_vectors_is_refused() -> None:
    told("ab", "a: put k x\na: lose k\na: repair b !")


def test_what_was_collected_stays_away_after_a_snapshot_from_a_laggard() -> None:
    world = told(
        "ab",
        """
        b: include s x
        b: backup
        a: pull b
        a: exclude s x
        b: pull a
        a: acknowledge b
        a: collect
        a: snapshot b*
        """,
    )
    assert world.replicas["a"].value("remove_wins", "s") == frozenset()
    assert world.replicas["a"].state() == {}


def test_an_evicted_replica_halts_and_its_tail_is_rescued_once() -> None:
    world = told(
        "abc",
        "c: increment t 1\na: pull c\nc: increment t 10; put k lost\n"
        + EVICTION_OF_C
        + """
        c: pull a
        c: pull b
        c: put k more !
        n: rejoin c
        a: admit n
        n: pull a
        n: rescue c !           # not yet known to be the only one
        b: pull a
        a: pull b
        n: acknowledge a
        n: acknowledge b
        n: rescue c
        n: rescue c !
        a: pull n
        """,
    )
    assert world.replicas["a"].value("counter", "t") == 11
    assert world.replicas["a"].value("register", "k") == ["lost"]


def test_a_write_that_got_through_is_not_rescued() -> None:
    world = told(
        "abc",
        "c: increment t 1\nb: pull c\n"
        + EVICTION_OF_C
        + """
        n: rejoin c
        a: admit n
        n: pull a
        b: pull a
        n: acknowledge a
        n: acknowledge b
        n: rescue c !           # nothing is lost
        """,
    )
    assert world.replicas["n"].value("counter", "t") == 1


def test_a_lost_increment_that_a_lost_reset_saw_is_not_rescued() -> None:
    world = told(
        "abc",
        "c: increment t 1\na: pull c\nc: increment t 10\nc: reset t\nc: increment t 3\n"
        + EVICTION_OF_C
        + """
        n: rejoin c
        a: admit n
        n: pull a
        b: pull a
        n: acknowledge a
        n: acknowledge b
        n: rescue c
        """,
    )
    assert world.replicas["n"].value("counter", "t") == 3


def test_two_that_evict_each_other_are_both_cut_by_the_majority() -> None:
    world = told(
        "abcde",
        """
        a: evict b
        b: evict a
        c: pull a               # and from now on takes nothing from b itself
        c: promise
        d: pull b               # nor d from a
        d: promise
        e: pull c
        e: pull d
        e: promise
        c: pull e
        c: promise
        d: pull e
        d: promise
        e: pull c
        e: pull d
        a: pull e
        a: put k x !
        b: pull e
        b: put k x !
        """,
    )
    settle(world)
    assert world.replicas["c"].settled.keys() == {"a", "b"}


def test_a_second_eviction_restarts_the_round_for_both() -> None:
    world = told(
        "abcde",
        """
        d: include s x
        e: pull d
        a: evict d
        e: pull a
        e: promise              # e took d:1, and only e
        a: evict e              # before the first cut is final
        b: pull a
        b: promise
        c: pull b
        c: promise
        a: pull c
        a: acknowledge b
        a: acknowledge c
        b: pull c
        b: pull a
        a: acknowledge b
        c: pull a
        c: pull b
        a: acknowledge c
        """,
    )
    assert world.replicas["a"].settled == {"d": 0, "e": 0}


def test_an_admission_beyond_the_cut_is_void_and_so_what_it_admitted() -> None:
    world = told(
        "abc",
        """
        n: boot
        c: admit n
        n: pull c
        m: boot
        n: admit m
        m: pull n
        m: put k x
        a: evict c
        b: pull a
        b: promise
        a: pull b
        a: pull m
        m: pull b
        m: put k y !
        n: pull b
        n: put k y !
        """,
    )
    settle(world)
    assert world.replicas["a"].value("register", "k") == []


def test_a_newcomer_takes_its_sponsors_word_on_who_survives() -> None:
    world = told(
        "abc",
        """
        d: rejoin c
        a: evict b
        b: admit d              # d knows no other word on d than b's, whom a gives up
        d: pull b
        d: pull a
        d: evict a b c force
        n: boot
        d: admit n
        n: deliver d a          # a's promise, before b's admission of d
        n: deliver d b
        n: pull d
        n: put k x
        """,
    )
    settle(world)
    assert world.replicas["d"].value("register", "k") == ["x"]


def test_rights_that_are_stranded_are_spent_by_nobody() -> None:
    world = told(
        "abc",
        "a: mint q 4; transfer q c 3\nc: pull a\nb: pull a\n"
        + EVICTION_OF_C
        + """
        n: rejoin c
        a: admit n
        n: pull a
        n: spend q 1 !
        a: spend q 2 !
        a: spend q 1
        """,
    )
    assert world.replicas["a"].value("bounded", "q") == 3
