"""Values and bytes: canonical, private, bounded."""

from __future__ import annotations

import math
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdtmem.codec import MAX_DEPTH, check_label, freeze, pack, thaw, unpack
from crdtmem.errors import InvalidValue, LimitExceeded, MalformedFrame

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8"))
    | st.binary()
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)


def shuffled(value: Any) -> Any:
    """The same value with its dicts in the other order, and tuples for lists."""
    if isinstance(value, dict):
        return {name: shuffled(value[name]) for name in reversed(list(value))}
    if isinstance(value, list):
        return tuple(shuffled(item) for item in value)
    return value


def mutables(value: Any) -> list[int]:
    """The identities of everything inside that could be changed."""
    if isinstance(value, dict):
        return [id(value), *(i for item in value.values() for i in mutables(item))]
    if isinstance(value, list):
        return [id(value), *(i for item in value for i in mutables(item))]
    return []


@given(VALUES)
def test_a_value_comes_back_equal_and_private(value: Any) -> None:
    frozen = freeze(value)
    given_back = thaw(frozen)
    assert given_back == value
    assert repr(thaw(unpack(pack(frozen)))) == repr(given_back)
    assert not set(mutables(value)) & set(mutables(given_back))
    assert not set(mutables(given_back)) & set(mutables(thaw(frozen)))


@given(VALUES)
def test_equal_values_have_equal_bytes(value: Any) -> None:
    packed = pack(freeze(value))
    assert pack(freeze(shuffled(value))) == packed
    assert pack(freeze(thaw(unpack(packed)))) == packed


def test_all_nans_are_one() -> None:
    other = struct.unpack(">d", b"\xff\xf8\x00\x00\x00\x00\x00\x01")[0]
    assert math.isnan(other)
    assert pack(freeze(other)) == pack(freeze(math.nan)) == pack(freeze([-math.nan])[0])


def test_numbers_of_different_types_stay_different() -> None:
    assert len({pack(freeze(value)) for value in (1, 1.0, True, "1", b"1")}) == 5


@pytest.mark.parametrize(
    "value",
    [1 << 64, -(1 << 63) - 1, "\udfff", {"\ud800": 1}, {1: 1}, {b"k": 1}, object(), {1}, 1j, ...],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_stored_is_refused_with_a_hint(value: Any) -> None:
    for nested in (value, [value], {"k": [value]}):
        with pytest.raises(InvalidValue) as refused:
            freeze(nested)
        assert refused.value.hint


def test_subclasses_are_refused_rather_than_flattened() -> None:
    class Text(str):
        __slots__ = ()

    with pytest.raises(InvalidValue):
        freeze(Text("x"))


def nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


def test_depth_is_bounded_where_values_enter() -> None:
    assert freeze(nested(MAX_DEPTH))
    with pytest.raises(LimitExceeded):
        freeze(nested(MAX_DEPTH + 1))
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(LimitExceeded):
        freeze(loop)


@given(st.binary(max_size=300))
def test_bytes_from_outside_decode_or_are_malformed(data: bytes) -> None:
    try:
        value = unpack(data)
    except MalformedFrame:
        return
    assert contains_only_values(value)


def contains_only_values(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(contains_only_values, value))
    if isinstance(value, dict):
        return all(map(contains_only_values, value.values()))
    return type(value) in (type(None), bool, int, float, str, bytes)


def test_a_timestamp_is_a_plain_number() -> None:
    assert unpack(b"\xd6\xff\x00\x00\x00\x05") == 5.0
    assert contains_only_values(unpack(b"\x92\xd6\xff\x00\x00\x00\x05\xc0"))


@pytest.mark.parametrize(
    "data",
    [
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xdb\x7f\xff\xff\xff",
        b"\x91" * 100_000,
        b"\x81\xa1a" * 100_000,
        b"\xc7\x00\x01",
        b"\x81\x01\x01",
        b"\x01\x01",
    ],
    ids=lambda data: data[:6].hex(),
)
def test_bytes_that_claim_more_than_they_bring_are_refused(data: bytes) -> None:
    with pytest.raises(MalformedFrame):
        unpack(data)


def test_labels_are_text_within_the_limit() -> None:
    assert check_label("é" * 4, "key", 8) == "é" * 4
    for label, error in (("é" * 5, LimitExceeded), ("", InvalidValue), ("\ud800", InvalidValue)):
        with pytest.raises(error):
            check_label(label, "key", 8)
    with pytest.raises(InvalidValue):
        check_label(b"bytes", "key", 8)
