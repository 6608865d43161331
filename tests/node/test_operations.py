"""What crosses a socket comes out as it went in, and nothing else is let in."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdtmem import errors, operations
from crdtmem.batch import unpack_keys
from crdtmem.causality import Context
from crdtmem.changes import Change, Lagging, Part
from crdtmem.codec import pack, unpack
from crdtmem.control_frames import decode_body, encode_body
from crdtmem.control_path import SocketPath
from crdtmem.entries import Siblings, Stamp
from crdtmem.errors import ConfigError, CrdtmemError, InvalidValue, LocalError, MalformedFrame
from crdtmem.exporting import from_json, record_transaction, to_json
from crdtmem.handles import Conflict, WriteOptions
from crdtmem.limits import DEFAULT_LIMITS
from crdtmem.operations import decode_transaction
from crdtmem.reading import Reading
from crdtmem.replica import Committed
from crdtmem.transaction import Operation, Options, PutRun, Transaction

WIDE = 1 << 64
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 63), WIDE - 1),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    st.binary(max_size=5),
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(st.characters(exclude_categories=["Cs"]), max_size=3), inner, max_size=3
        )
    ),
    max_leaves=8,
)
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5)
spaces = st.lists(names, min_size=1, max_size=3).map(tuple)
dots = st.frozensets(st.integers(1, (1 << 128) - 1), max_size=3)


def across(body: Any) -> Any:
    """Send plain values over the socket, so to speak."""
    return decode_body(encode_body(body))


def described(transaction: Transaction) -> Any:
    steps = [
        (type(step).__name__, step.space, step.datatype, list(step.keys), list(step.values))
        if not isinstance(step, Operation)
        else step
        for step in transaction.steps
    ]
    return transaction.author, transaction.trust, transaction.operation_id, steps


@given(data=st.data())
def test_transactions_cross(data: st.DataObject) -> None:
    given_one = Transaction(
        author=data.draw(names),
        trust=data.draw(st.integers(-5, 5)),
        operation_id=data.draw(st.none() | st.binary(min_size=1, max_size=16)),
    )
    for _ in range(data.draw(st.integers(1, 4))):
        space, key = data.draw(spaces), data.draw(names)
        if data.draw(st.booleans()):
            for value in data.draw(st.lists(values, min_size=1, max_size=3)):
                given_one.put(space, 1, key, value)
        else:
            options = Options(
                observed=data.draw(st.none() | dots),
                conditional=data.draw(st.booleans()),
                expires_at_us=data.draw(st.none() | st.integers(0, 1 << 52)),
            )
            arguments = tuple(data.draw(st.lists(values, max_size=3)))
            given_one.add(Operation(space, 10, key, "set", arguments, options))
    given_one.seal(DEFAULT_LIMITS)
    found = operations.decode_transaction(across(operations.encode_transaction(given_one)))
    found.seal(DEFAULT_LIMITS)
    assert described(found) == described(given_one)


@given(
    value=values,
    entries=st.lists(st.tuples(st.integers(1, (1 << 128) - 1), values), max_size=3),
    flags=st.tuples(st.booleans(), st.booleans(), st.booleans()),
)
def test_readings_cross(value: Any, entries: list[Any], flags: tuple[bool, bool, bool]) -> None:
    stamp = Stamp(7, 8, 9, "ann", "eu", 1, 10, {"c": 0.5})
    held = Siblings((dot, item, stamp) for dot, item in entries)
    reading = Reading(
        value, held, contested=flags[0], resolver="latest@1", also=("counter",), exists=flags[1],
        unknown_resolver=flags[2],
    )  # fmt: skip
    found = operations.decode_reading(across(operations.encode_reading(reading)))
    assert found.value == value
    assert found.siblings == reading.siblings
    assert found.observed == reading.observed
    assert (found.contested, found.exists, found.unknown_resolver) == flags
    assert (found.resolver, found.also) == ("latest@1", ("counter",))


def test_outcomes_contexts_conflicts_and_changes_cross() -> None:
    context = Context({5: 7, (1 << 64) - 1: 1})
    committed = Committed(context, [WIDE * 5 + 1, [1], None], WIDE * 5 + 1, 3, repeated=True)
    assert operations.decode_committed(across(operations.encode_committed(committed))) == committed
    assert operations.decode_context(across(operations.encode_context(context))) == context
    assert operations.decode_context(across(operations.encode_context(None))) is None
    conflict = Conflict(("a", "b"), "map", "k", b"\x01", "latest@1", [1], [{"value": {"a": [2]}}])
    assert operations.decode_conflict(across(operations.encode_conflict(conflict))) == conflict
    change = Change(("a",), "set", "k", "5:7", True, "ann", "eu", 9)
    assert operations.decode_change(across(operations.encode_change(change))) == change
    for part in (Part(context, [change]), Part(None, [change]), Part(Context(), []), Lagging(7)):
        assert operations.decode_part(across(operations.encode_part(part))) == part
    options = WriteOptions(durability="all", timeout_ms=5, after=context)
    found = operations.decode_write_options(across(operations.encode_write_options(options)))
    assert found == options


@pytest.mark.parametrize("name", sorted(set(errors.__all__) - {"error_from_code"}))
def test_every_error_crosses_as_itself(name: str) -> None:
    kind: type[CrdtmemError] = getattr(errors, name)
    error = kind("what", hint="do", siblings=[{"value": (1, 2)}], odd={3, "x"}, dot=WIDE)
    found = operations.decode_error(across(operations.encode_error(error)))
    assert type(found) is kind
    assert (found.message, found.hint) == ("what", "do")
    assert found.details["siblings"] == [{"value": [1, 2]}]
    assert found.details["dot"] == WIDE


DECODERS = [getattr(operations, name) for name in operations.__all__ if name.startswith("decode_")]


@given(decode=st.sampled_from(DECODERS), body=values | st.lists(values, min_size=3, max_size=8))
def test_whatever_comes_decodes_or_is_malformed(decode: Any, body: Any) -> None:
    with contextlib.suppress(MalformedFrame):
        decode(across(body))


@given(data=st.binary(max_size=60))
def test_bytes_decode_or_are_malformed(data: bytes) -> None:
    with contextlib.suppress(MalformedFrame):
        decode_body(data)


@pytest.mark.parametrize("value", [1 << 135, object(), {1, 2}, "\ud800", [[[object()]]]])
def test_what_cannot_cross_is_said(value: Any) -> None:
    with pytest.raises(InvalidValue):
        encode_body([value])


# ------------------------------------------------------------------ exported records


@given(value=values)
def test_json_keeps_values(value: Any) -> None:
    assert from_json(to_json(value)) == value


@pytest.mark.parametrize(
    "value",
    [{"$bytes": "x"}, {"$dict": {"$bytes": b"x"}}, {"$float": 1, "a": 2}, math.inf, -math.inf],
)
def test_json_keeps_what_looks_like_its_own_marks(value: Any) -> None:
    assert from_json(to_json(value)) == value


def test_json_keeps_what_is_no_number() -> None:
    assert math.isnan(from_json(to_json(math.nan)))


@pytest.mark.parametrize("body", [{"$bytes": "§"}, {"$bytes": 5}, {"$dict": 5}])
def test_wrong_marks_are_refused(body: Any) -> None:
    with pytest.raises(InvalidValue):
        from_json(body)


@pytest.mark.parametrize(
    "change",
    [
        {"space": "a"},
        {"type": "tree"},
        {"key": 5},
        {"operation": "_remove"},
        {"arguments": 5},
        {"author": 5},
        {"more": 1},
    ],
)
def test_a_record_that_is_none_is_refused(change: dict[str, Any]) -> None:
    record = {"space": ["a"], "type": "register", "key": "k", "operation": "set", "arguments": [1]}
    assert record_transaction([record], DEFAULT_LIMITS).operation_id is None
    with pytest.raises(InvalidValue):
        record_transaction([record | change], DEFAULT_LIMITS)


# ------------------------------------------------------------------ the socket's path


def _claim(path: str, outcomes: Any) -> None:
    """Claim and release a path many times; two holders at once would be noticed."""
    flag = Path(path + ".held")
    for _ in range(60):
        claimed = SocketPath(path)
        try:
            listening = claimed.claim()
        except ConfigError:
            continue
        try:
            flag.touch(exist_ok=False)
        except FileExistsError:
            outcomes.put("two held it")
            return
        flag.unlink()
        listening.close()
        claimed.release()
    outcomes.put("fine")


def test_a_path_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    outcomes = context.Queue()
    processes = [
        context.Process(target=_claim, args=(str(tmp_path / "s.sock"), outcomes)) for _ in range(3)
    ]
    for process in processes:
        process.start()
    assert [outcomes.get(timeout=20) for _ in processes] == ["fine"] * 3
    for process in processes:
        process.join()
        process.close()
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_is_too_long_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="bytes"):
        SocketPath(str(tmp_path / ("x" * 120))).claim()
    with pytest.raises(ConfigError):
        SocketPath(str(tmp_path / "missing" / "s.sock")).claim()


_KEYS = [f"key-{number}" for number in range(10)]
_SHORTEST = pack(("key-", ("\0".join(key[4:] for key in _KEYS),)))


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (_SHORTEST, _SHORTEST),
        (pack(_KEYS), pack(_KEYS)),
        # The same column, its array's header longer than need be.
        (b"\xdc\x00\x02" + _SHORTEST[1:], _SHORTEST),
    ],
)
def test_keys_that_came_packed_are_kept_so_only_in_their_one_encoding(
    sent: bytes, kept: bytes
) -> None:
    step = (0, ("space",), 1, sent, pack(list(range(10))))
    transaction = decode_transaction(("", 0, None, None, (step,))).seal(DEFAULT_LIMITS)
    (run,) = transaction.steps
    assert isinstance(run, PutRun)
    assert (run.keys, run.packed_keys) == (_KEYS, kept)


@pytest.mark.parametrize(
    "column", [[""] * 10, ["k" * 2_000], ("k" * 1_000, ("\0".join("k" * 100 for _ in range(10)),))]
)
def test_keys_that_came_packed_are_held_to_the_limits(column: Any) -> None:
    values = pack([1] * (1 if column == ["k" * 2_000] else 10))
    step = (0, ("space",), 1, pack(column), values)
    transaction = decode_transaction(("", 0, None, None, (step,)))
    with pytest.raises(LocalError):
        transaction.seal(DEFAULT_LIMITS)


def test_a_run_that_grows_after_it_came_packed_is_packed_anew() -> None:
    step = (0, ("space",), 1, _SHORTEST, pack(list(range(10))))
    transaction = decode_transaction(("", 0, None, None, (step,)))
    (run,) = transaction.steps
    assert isinstance(run, PutRun)
    run.keys.append("other")
    run.values.append(11)
    transaction.seal(DEFAULT_LIMITS)
    assert list(unpack_keys(unpack(run.packed_keys))) == [*_KEYS, "other"]
