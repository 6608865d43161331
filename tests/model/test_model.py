"""The specification against its oracle: small scopes exhaustively, larger ones from seeds.

The default run takes seconds; ``-m slow`` walks wider scopes and many more seeds. A failure
prints the shortest schedule found, which ``schedule.parse`` reads back.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

import pytest

from tests.model import broken, profiles
from tests.model.explore import Profile, Scope, draw, walk
from tests.model.oracle import Violation
from tests.model.schedule import World, parse, transcript
from tests.model.vocabulary import Dot, Place

__all__: list[str] = []

SEEDS_BY_PROFILE = {
    "data_two": (profiles.data("ab"), 300, 30),
    "data_three": (profiles.data("abc"), 200, 45),
    "trust": (profiles.trust("abc"), 250, 40),
    "members_three": (profiles.members("abc"), 120, 60),
    "members_four": (profiles.members("abcd"), 40, 80),
}


def scope(*programs: tuple[str, ...], **options: object) -> Scope:
    """Return the scope in which replicas a, b, ... run these programs."""
    founders = "abc"[: len(programs)]
    return Scope(founders, tuple(zip(founders, programs, strict=True)), **options)  # type: ignore[arg-type]


def programs(alphabet: tuple[str, ...], *lengths: int) -> Iterator[tuple[tuple[str, ...], ...]]:
    """Yield every choice of programs of these lengths."""
    return itertools.product(*(itertools.product(alphabet, repeat=n) for n in lengths))


def _registers(length: int) -> Iterator[Scope]:
    alphabet = ("put k y @seen", "put k z", "delete k @seen", "delete k")
    for second, third in programs(alphabet, length, 1):
        yield scope(("put k x", "read k @seen"), second, third)


def _counters(length: int, collections: int) -> Iterator[Scope]:
    for chosen in programs(("increment c 1", "reset c"), length, 2):
        yield scope(*chosen, collections=collections)


def _removals(length: int, collections: int) -> Iterator[Scope]:
    for chosen in programs(("include s x", "exclude s x"), length, 2):
        yield scope(*chosen, collections=collections)
    for chosen in programs(("include s x", "exclude s x"), 1, 2):
        yield scope(*chosen, collections=1, snapshots=True)
    for chosen in programs(("include s x trust=1", "exclude s x trust=2"), 2, 1):
        yield scope(*chosen, collections=1, trust_ordered=True)


def _bounded(length: int) -> Iterator[Scope]:
    alphabet = ("spend q 2", "transfer q b 1", "transfer q a 1")
    for first, second in programs(alphabet, length, 2):
        yield scope(("mint q 2", *first), second)


def _documents() -> Iterator[Scope]:
    for first, second in programs(("edit d", "erase d"), 1, 1):
        yield scope(("edit d", *first, "compact d"), second, collections=1)


def _transactions(length: int) -> Iterator[Scope]:
    alphabet = ("put k x; increment c 1", "clear k; reset c", "put k y")
    for first, second in programs(alphabet, length, 2):
        yield scope(first, second, snapshots=True)


def changing(founders: str, options: Mapping[str, object], **lines: tuple[str, ...]) -> Scope:
    """Return a scope whose members change; ``lines`` are programs by replica."""
    return Scope(founders, tuple(lines.items()), **options)  # type: ignore[arg-type]


def _members() -> Iterator[Scope]:
    round_of: dict[str, object] = {"promises": True}
    relayed = {"promises": True, "relayed": True}
    yield changing("abc", relayed, a=("evict c",), c=("include s x",))
    yield changing("abc", relayed, a=("evict b",), b=("evict a",))
    yield changing(
        "abc", round_of | {"collections": 1}, a=("exclude s x", "evict c"), c=("include s x",)
    )
    yield changing(
        "ab", {"collections": 1}, a=("exclude s x", "admit n"), n=("boot", "include s x")
    )
    yield changing(
        "ab",
        {"collections": 1, "collectors": "b"},
        a=("backup", "include s x"),
        b=("exclude s x", "admit n"),
        n=("restore a", "include s x"),
    )


def _more_members() -> Iterator[Scope]:
    relayed = {"promises": True, "relayed": True, "collectors": ""}
    yield changing("abc", relayed, a=("evict c",), c=("admit n",), n=("boot", "include s x"))
    yield changing("abc", relayed, a=("exclude s x", "evict c"), c=("include s x",))
    yield changing("abc", relayed, a=("evict b", "evict c force"), c=("put k x",))
    yield changing(
        "abcd",
        {"promises": True, "collectors": ""},
        a=("evict d",),
        b=("evict c",),
        d=("include s x",),
    )


SCOPES = {
    "registers": lambda: _registers(1),
    "counters": lambda: _counters(2, 1),
    "removals": lambda: _removals(1, 1),
    "bounded": lambda: _bounded(2),
    "documents": _documents,
    "transactions": lambda: _transactions(1),
    "members": _members,
}
WIDE_SCOPES = {
    "registers": lambda: _registers(2),
    "counters": lambda: itertools.chain(_counters(3, 2), _counters(2, 3)),
    "removals": lambda: itertools.chain(
        _removals(2, 2),
        (scope(*p, collections=1) for p in programs(("include s x", "exclude s x"), 1, 1, 1)),
    ),
    "bounded": lambda: _bounded(3),
    "transactions": lambda: _transactions(2),
    "members": _more_members,
}


@pytest.mark.parametrize("name", SCOPES)
def test_every_schedule_of_a_small_scope_keeps_the_rules(name: str) -> None:
    states = [walk(chosen) for chosen in SCOPES[name]()]
    assert max(states) > 30, "a scope that hardly branches covers nothing"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", WIDE_SCOPES)
def test_every_schedule_of_a_wider_scope_keeps_the_rules(name: str) -> None:
    states = [walk(chosen) for chosen in WIDE_SCOPES[name]()]
    assert max(states) > 100


@pytest.mark.parametrize("name", SEEDS_BY_PROFILE)
def test_random_schedules_keep_the_rules_and_come_to_rest(name: str) -> None:
    profile, seeds, length = SEEDS_BY_PROFILE[name]
    done = sum(draw(profile, seed, length) for seed in range(seeds))
    assert done > seeds * length / 5, "most steps are refused: the profile finds nothing"


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", SEEDS_BY_PROFILE)
def test_many_longer_random_schedules_keep_the_rules(name: str) -> None:
    profile, seeds, length = SEEDS_BY_PROFILE[name]
    for seed in range(1_000_000, 1_000_000 + 8 * seeds):
        draw(profile, seed, 2 * length)


def test_a_seed_determines_its_run() -> None:
    profile = profiles.members("abc")
    assert [draw(profile, 7, 40) for _ in range(3)] == [draw(profile, 7, 40)] * 3


def test_what_is_found_is_short_and_can_be_run_again() -> None:
    profile = profiles.data("abc", broken.CollectsUnstable)
    with pytest.raises(Violation) as caught:
        sum(draw(profile, seed, 40) for seed in range(20))
    _, _, shown = str(caught.value).partition("\n")
    steps = parse("\n".join(line for line in shown.splitlines() if not line.startswith(" ")))
    assert len(steps) <= 5
    assert transcript(steps, profile.world()) == shown


def test_a_walk_finds_what_a_broken_rule_lets_through() -> None:
    chosen = scope(("exclude s x",), ("include s x",), collections=1, kind=broken.CollectsUnstable)
    with pytest.raises(Violation, match="a: collect"):
        walk(chosen)


def test_a_schedule_reads_back_as_it_was_written() -> None:
    text = "a: put k x @seen trust=2; increment c 3\nb: pull a"
    assert "\n".join(map(str, parse(text + "   # a comment\n\n"))) == text


def test_a_world_that_never_moves_is_told_from_one_that_rests() -> None:
    empty = Profile("ab", ((1, "{at}: delete k"),))
    assert draw(empty, 0, 5) == 0


def test_the_state_of_a_place_is_its_dots_and_values() -> None:
    world = World("ab")
    world.run(parse("a: put k x\nb: put k y\na: pull b"))
    state = world.replicas["a"].state()
    assert state == {
        Place("register", "k", ""): frozenset({(Dot("a", 1), "x"), (Dot("b", 1), "y")})
    }
