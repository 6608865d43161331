"""Vectors, ranges and tokens as sets of dots: each is checked against a plain set."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdtmem.causality import Context, DotRanges, Observed, VersionVector
from crdtmem.entries import pack_dot
from crdtmem.errors import InvalidToken

REPLICAS = [1, 2, 2**64 - 1]
VECTORS = st.dictionaries(st.sampled_from(REPLICAS), st.integers(1, 6)).map(VersionVector)
DOTS = st.builds(pack_dot, st.sampled_from(REPLICAS), st.integers(1, 7))


def dots_of(vector: VersionVector) -> set[int]:
    return {pack_dot(r, n) for r, last in vector.items() for n in range(1, last + 1)}


# ---------------------------------------------------------------------- version vectors


@given(VECTORS, VECTORS)
def test_a_vector_is_the_set_of_dots_that_it_covers(one: VersionVector, two: VersionVector) -> None:
    left, right = dots_of(one), dots_of(two)
    assert one.dominates(two) == (left >= right)
    assert dots_of(one.meet(two)) == left & right
    joined = one.copy()
    joined.join(two)
    assert dots_of(joined) == left | right
    beyond = {
        pack_dot(r, n)
        for r, (first, last) in one.beyond(two).items()
        for n in range(first, last + 1)
    }
    assert beyond == left - right
    assert 0 not in joined.values()
    assert 0 not in one.meet(two).values()


@given(VECTORS, st.lists(DOTS))
def test_a_vector_covers_exactly_its_dots(vector: VersionVector, dots: list[int]) -> None:
    held = dots_of(vector)
    assert [vector.covers(dot) for dot in dots] == [dot in held for dot in dots]
    assert vector.covers_all(dots) == (set(dots) <= held)


@given(VECTORS)
def test_the_flat_form_is_canonical_and_read_back(vector: VersionVector) -> None:
    assert VersionVector.from_flat(vector.flat()) == vector
    assert VersionVector(reversed(list(vector.items()))).flat() == vector.flat()


@pytest.mark.parametrize(
    "numbers",
    [[1], [1, 0], [1, -1], [1, 2, 1, 3], [1, True], [1, 2.0], ["1", 2], [1 << 64, 1], [1, 1 << 64]],
    ids=repr,
)
def test_what_is_no_flat_vector_is_refused(numbers: list[int]) -> None:
    with pytest.raises(ValueError, match=r"flat vector|below"):
        VersionVector.from_flat(numbers)


# ---------------------------------------------------------------------- ranges

RANGES = st.lists(
    st.tuples(st.sampled_from([1, 2]), st.integers(1, 20), st.integers(0, 6)).map(
        lambda item: (item[0], item[1], item[1] + item[2])
    ),
    max_size=8,
)


@given(RANGES, RANGES)
def test_ranges_are_the_set_of_their_dots(
    some: list[tuple[int, int, int]], more: list[tuple[int, int, int]]
) -> None:
    def made(items: list[tuple[int, int, int]]) -> tuple[DotRanges, set[int]]:
        ranges = DotRanges()
        for replica, first, last in items:
            ranges.add(replica, first, last)
        return ranges, {pack_dot(r, n) for r, first, last in items for n in range(first, last + 1)}

    one, left = made(some)
    two, right = made(more)
    every = [pack_dot(r, n) for r in (1, 2, 3) for n in range(1, 30)]
    assert {dot for dot in every if dot in one} == left
    assert {dot for dot in every if dot in one.union(two)} == left | right
    assert bool(one) == bool(left)
    assert made(list(reversed(some)))[0] == one
    assert [replica for replica, _ in one.items()] == sorted({dot >> 64 for dot in left})
    for replica, pairs in one.items():
        assert replica in (1, 2)
        assert all(high + 1 < low for (_, high), (low, _) in pairwise(pairs))
    for replica in (1, 2):
        missing = {n for low, high in one.gaps(replica, 25) for n in range(low, high + 1)}
        assert missing == {n for n in range(1, 26) if pack_dot(replica, n) not in left}


def test_a_gap_is_never_read_as_known() -> None:
    """The anomaly of dot-gap compression: dots behind a gap are not contiguous knowledge."""
    ranges = DotRanges({1: [(1, 3), (5, 9)], 2: [(2, 4)]})
    assert ranges.contiguous() == {1: 3}
    ranges.add(1, 4, 4)
    assert ranges.contiguous() == {1: 9}


@pytest.mark.parametrize(("first", "last"), [(0, 1), (2, 1), (-1, -1)])
def test_what_is_no_range_is_refused(first: int, last: int) -> None:
    with pytest.raises(ValueError, match="no range"):
        DotRanges().add(1, first, last)


# ---------------------------------------------------------------------- tokens


@given(VECTORS, VECTORS)
def test_contexts_are_ordered_by_inclusion(one: VersionVector, two: VersionVector) -> None:
    left, right = Context(one), Context(two)
    assert (left <= right) == (dots_of(one) <= dots_of(two))
    assert (left < right) == (dots_of(one) < dots_of(two))
    assert (left >= right) == (dots_of(one) >= dots_of(two))
    assert left.concurrent_with(right) == right.concurrent_with(left)
    assert left.merge(right) == right.merge(left)
    assert left <= left.merge(right) >= right
    assert Context.parse(str(left)) == left
    assert (str(left) == str(right)) == (left == right)
    if left == right:
        assert hash(left) == hash(right)


def test_a_context_does_not_alias_the_vector_that_it_was_made_of() -> None:
    vector = VersionVector({1: 1})
    context = Context(vector)
    vector[1] = 2
    assert context.vector == {1: 1}


@given(st.sets(DOTS), st.sets(DOTS))
def test_observed_are_sets_of_dots(one: set[int], two: set[int]) -> None:
    token = Observed(one)
    assert Observed.parse(str(token)) == token
    assert token.merge(Observed(two)).dots == one | two
    assert bool(token) == bool(one)
    assert (str(token) == str(Observed(two))) == (one == two)


@given(st.text(max_size=30))
def test_text_that_is_no_token_is_refused(text: str) -> None:
    for prefix in ("", "c1.", "o1."):
        for kind in (Context, Observed):
            try:
                token = kind.parse(prefix + text)
            except InvalidToken:
                continue
            assert kind.parse(str(token)) == token


@pytest.mark.parametrize(
    "token",
    ["", "o1.kA", "c1.", "c1.!!", "c2.kA", "c1." + "A" * 70_000, None, 7, b"c1.kA"],
    ids=str,
)
def test_what_is_no_context_is_refused(token: object) -> None:
    with pytest.raises(InvalidToken):
        Context.parse(token)  # type: ignore[arg-type]


def test_the_two_tokens_are_not_taken_for_each_other() -> None:
    with pytest.raises(InvalidToken):
        Context.parse(str(Observed({pack_dot(1, 1)})))
    with pytest.raises(InvalidToken):
        Observed.parse(str(Context({1: 1})))


def test_tokens_are_the_same_on_every_machine() -> None:
    """Golden text: users store these."""
    assert str(Context({2: 3, 1: 1})) == "c1.lAEBAgM"
    assert str(Observed({pack_dot(1, 9)})) == "o1.kgEJ"
