"""The digest of live dots: a function of the set, whatever the way it was reached."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdtmem.digest import DotDigest, hash_dots
from crdtmem.entries import pack_dot

DOTS = st.builds(pack_dot, st.sampled_from([1, 2**63, 2**64 - 1]), st.integers(1, 2**64 - 1))


@given(st.lists(DOTS, unique=True, max_size=20), st.randoms(), st.data())
def test_order_and_folding_do_not_matter(
    dots: list[int], source: random.Random, data: st.DataObject
) -> None:
    gone = data.draw(st.sets(st.sampled_from(dots), max_size=len(dots))) if dots else set()
    digest = DotDigest()
    source.shuffle(dots)
    for dot in dots:
        digest.add_range(dot, 1)
        if source.random() < 0.3:
            digest.value()
    digest.remove(sorted(gone))
    assert digest.value() == hash_dots(set(dots) - gone)
    assert digest.hex() == "{:016x}{:016x}".format(*digest.value())


@given(st.sampled_from([1, 2**63]), st.integers(1, 2**60), st.integers(1, 50))
def test_a_range_is_the_sum_of_its_dots(replica: int, first: int, count: int) -> None:
    digest, single = DotDigest(), DotDigest()
    digest.add_range(pack_dot(replica, first), count)
    single.add([pack_dot(replica, first + n) for n in range(count)])
    assert digest.value() == single.value() != (0, 0)


def test_it_folds_by_itself_when_much_has_gathered() -> None:
    digest = DotDigest()
    total = DotDigest.FOLD_AT + 100
    for first in range(1, total, 100):
        digest.add_range(pack_dot(9, first), 100)
    assert len(digest._ranges) < total // 100
    many = range(1, len(range(1, total, 100)) * 100 + 1)
    assert digest.value() == hash_dots(pack_dot(9, n) for n in many)
    digest.remove([pack_dot(9, n) for n in many])
    assert digest.value() == (0, 0)


def test_the_list_of_removed_dots_is_copied() -> None:
    digest, gone = DotDigest(), [pack_dot(1, 1)]
    digest.add_range(pack_dot(1, 1), 2)
    digest.remove(gone)
    gone.append(pack_dot(1, 2))
    assert digest.value() == hash_dots([pack_dot(1, 2)])


def test_the_hash_is_the_one_that_other_machines_compute() -> None:
    """Golden numbers: peers compare these, so they belong to the wire format."""
    assert hash_dots([]) == (0, 0)
    assert [f"{lane:016x}" for lane in hash_dots([pack_dot(1, 1)])] == GOLDEN_ONE
    assert [f"{lane:016x}" for lane in hash_dots([pack_dot(2**63, 7)])] == GOLDEN_TWO


def test_no_two_of_many_dots_collide_in_either_lane() -> None:
    seen: list[set[int]] = [set(), set()]
    for replica in (1, 2, 2**63):
        for sequence in range(1, 2_001):
            for lane, value in enumerate(hash_dots([pack_dot(replica, sequence)])):
                seen[lane].add(value)
    assert [len(values) for values in seen] == [6_000, 6_000]


@pytest.mark.parametrize("swap", [((1, 2), (2, 1)), ((1, 1), (1, 2))])
def test_replica_and_sequence_are_not_confused(
    swap: tuple[tuple[int, int], tuple[int, int]],
) -> None:
    one, two = swap
    assert hash_dots([pack_dot(*one)]) != hash_dots([pack_dot(*two)])


GOLDEN_ONE = ["8ea1d94bff77f99d", "58011d1f907c6f6f"]
GOLDEN_TWO = ["3e40e0446e00dbaf", "979a9534b933fd8a"]
