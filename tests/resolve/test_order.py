"""The total order of values."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdtmem.codec import freeze, pack
from crdtmem.resolve.order import order_key
from tests.conformance.strategies import VALUES

# Strictly ascending: every type in its place, and the hard cases within each.
ASCENDING: list[Any] = [
    None,
    False,
    True,
    float("nan"),
    float("-inf"),
    -(2**63),
    -1,
    -0.0,
    0,
    0.0,
    0.5,
    1,
    1.0,
    2**53,
    float(2**53),
    2**53 + 1,
    float("inf"),
    "",
    "a",
    "ab",
    "b",
    "é",
    b"",
    b"a",
    (),
    (None,),
    (None, 1),
    (1,),
    {},
    {"a": 1},
    {"a": 1, "b": 0},
    {"a": 2},
    {"b": 0},
]


def test_the_order_is_the_one_that_is_stated() -> None:
    keys = [order_key(value) for value in ASCENDING]
    assert all(low < high for low, high in pairwise(keys))


@given(left=VALUES, right=VALUES)
def test_equal_keys_mean_equal_encodings(left: Any, right: Any) -> None:
    one, other = freeze(left), freeze(right)
    assert (order_key(one) == order_key(other)) is (pack(one) == pack(other))


@given(values=st.lists(VALUES, max_size=5))
def test_any_values_can_be_sorted_in_one_way(values: list[Any]) -> None:
    frozen = [freeze(value) for value in values]
    forward = sorted(frozen, key=order_key)
    frozen.reverse()
    backward = sorted(frozen, key=order_key)
    assert [pack(value) for value in forward] == [pack(value) for value in backward]


def test_what_cannot_be_stored_has_no_place() -> None:
    with pytest.raises(TypeError, match="no place in the order"):
        order_key(object())
