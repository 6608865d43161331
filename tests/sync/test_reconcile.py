"""Set reconciliation: exactly the difference, in bytes that follow it."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crdtmem.entries import pack_dot
from crdtmem.reconcile import Comparison, DotSet, decode_answer

RANGE_BYTES = 16


def dot_set(dots: set[tuple[int, int]]) -> DotSet:
    return DotSet({
        replica: np.array(sorted(n for r, n in dots if r == replica), np.uint64)
        for replica in {replica for replica, _ in dots}
    })  # fmt: skip


def reconcile(
    mine: set[tuple[int, int]], theirs: set[tuple[int, int]], through: dict[int, int], both: bool
) -> tuple[Comparison, int, int]:
    """Run a comparison to its end; return it, the bytes of both ways, and the rounds."""
    teller = dot_set(theirs)
    comparison = Comparison(dot_set(mine), teller.tops(through), both=both)
    comparison.start(through)
    size = rounds = 0
    while not comparison.done:
        asked = comparison.ask(64)
        answers = [teller.answer(dots) for dots in asked]
        size += sum(map(len, answers)) + RANGE_BYTES * len(asked)
        rounds += 1
        comparison.take(answers)
    return comparison, size, rounds


dots = st.sets(st.tuples(st.integers(1, 3), st.integers(1, 5_000)), max_size=300)


@given(dots, dots, st.booleans())
@settings(max_examples=60)
def test_the_difference_is_exact(
    mine: set[tuple[int, int]], theirs: set[tuple[int, int]], both: bool
) -> None:
    through = {1: 5_000, 2: 5_000, 3: 2_500}
    comparison, _, _ = reconcile(mine, theirs, through, both)

    def within(found: set[tuple[int, int]]) -> set[int]:
        return {pack_dot(r, n) for r, n in found if n <= through[r]}

    assert comparison.surplus == within(mine - theirs)
    assert comparison.lacking == (within(theirs - mine) if both else set())


@pytest.mark.parametrize(("size", "differing"), [(50_000, 5), (50_000, 200), (100_000, 1_000)])
@pytest.mark.parametrize("spread", [1, 20])
def test_bytes_follow_the_difference(size: int, differing: int, spread: int) -> None:
    draw = Random(size + differing + spread)
    shared = {(1, number) for number in draw.sample(range(1, size * spread + 1), size)}
    gone = set(draw.sample(sorted(shared), differing))
    mine, theirs = shared, shared - gone
    through = {1: size * spread}
    comparison, spent, rounds = reconcile(mine, theirs, through, both=False)
    assert len(comparison.surplus) == differing
    assert spent <= 300 * differing + 8 * 1_024
    assert rounds <= 40


def test_equal_sets_cost_nothing() -> None:
    same = {(1, number) for number in range(1, 50_000)}
    _, spent, rounds = reconcile(same, same, {1: 50_000}, both=True)
    assert (spent, rounds) == (0, 0)


@given(st.binary(max_size=60), st.integers(1, 1 << 40), st.integers(0, 1 << 20))
def test_an_answer_stays_within_its_range_or_is_refused(
    answer: bytes, first: int, length: int
) -> None:
    last = first + length
    try:
        decoded = decode_answer((1, first, last), answer)
    except ValueError:
        return
    if isinstance(decoded, list):
        assert decoded[0][0][1] == first
        assert decoded[-1][0][2] == last
        for (part, _), (following, _) in pairwise(decoded):
            assert part[1] <= part[2] == following[1] - 1
    else:
        assert all(first <= int(number) <= last for number in decoded)
        assert list(decoded) == sorted(set(decoded.tolist()))


def test_as_many_answers_as_questions() -> None:
    comparison = Comparison(dot_set({(1, 1)}), {1: 99}, both=True)
    comparison.start({1: 10})
    comparison.ask(10)
    with pytest.raises(ValueError, match="as many"):
        comparison.take([])
