"""What the datatypes share: operations by name, and refusals that say what to do."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from crdtmem.batch import decode_batch
from crdtmem.crdt import DATATYPES, NESTED
from crdtmem.crdt.base import FlatType, Reader, WriteView
from crdtmem.entries import Slot, Stamp
from crdtmem.errors import InvalidValue, UnknownName
from tests.conformance.harness import Fleet, HarnessReader


class Odd(FlatType):
    """A datatype with a bug in it."""

    name = "odd"
    code = 99
    operations: ClassVar[dict[str, str]] = {"break": "broken", "delete": "broken"}

    def broken(self, view: WriteView, argument: Any = None) -> None:
        """Fail in a way that mentions an argument, as Python's own errors do."""
        raise TypeError("an argument of some function deep below")

    def value(self, place: Slot | None, reader: Reader) -> None:
        """Return nothing."""


def test_a_wrong_number_of_arguments_is_the_callers_and_a_bug_is_ours() -> None:
    view: Any = None
    with pytest.raises(InvalidValue, match="too many"):
        Odd().apply(view, "break", (1, 2))
    with pytest.raises(TypeError, match="deep below"):
        Odd().apply(view, "break", ())


def test_a_missing_argument_is_named() -> None:
    with pytest.raises(InvalidValue, match=r"register\.set: missing a required argument: 'value'"):
        Fleet(1).act(0, "register", "set")


def test_what_never_collects_says_so() -> None:
    view: Any = None
    for datatype in DATATYPES.values():
        if not datatype.collectible:
            with pytest.raises(UnknownName, match="nothing to collect"):
                datatype.collect(view, lambda dot: True)


def test_expired_entries_are_not_read_but_what_guards_is() -> None:
    expired = Stamp(1, 1, 1, expires_at_us=10)
    slot = (1 << 64 | 1, True, expired)
    later, earlier = HarnessReader(10), HarnessReader(9)
    assert DATATYPES["flag"].value(slot, earlier) is True
    assert DATATYPES["flag"].value(slot, later) is False
    # A removal that came with an expiry all the same goes on removing.
    removal = (1 << 64 | 1, False, expired)
    assert DATATYPES["flag_disable_wins"].value(removal, later) is False
    counted = (1 << 64 | 1, (0, 5), expired)
    assert DATATYPES["counter"].value(counted, later) == 5


def test_only_types_whose_entries_stand_alone_may_expire() -> None:
    expiring = {name for name, datatype in DATATYPES.items() if datatype.may_expire("delete", ())}
    assert expiring == {"register", "multi_value", "flag", "set", "log"}


def test_a_segment_that_leaves_nothing_to_collect_is_passed_over() -> None:
    fleet = Fleet(1)
    left: dict[str, list[bool]] = {}
    steps: dict[str, list[tuple[Any, ...]]] = {
        "counter": [("increment",), ("reset",)],
        "set_remove_wins": [("add", "a"), ("remove", "a")],
        "flag_disable_wins": [("enable",), ("disable",)],
        "map": [("set", "a", 1), ("apply", "b", "flag_disable_wins", "enable")],
        "register": [("set", 1), ("delete",)],
    }
    for type_name, operations in steps.items():
        datatype = DATATYPES[type_name]
        for operation in operations:
            fleet.act(0, type_name, *operation)
            segments = segments_of(fleet.everything()[-1])
            left.setdefault(type_name, []).append(any(map(datatype.leaves_behind, segments)))
    expected = {type_name: [False, type_name != "register"] for type_name in steps}
    assert left == expected


def segments_of(data: bytes) -> list[Any]:
    """Return the segments of an encoded batch."""
    return list(decode_batch(data, known_fields=NESTED).segments)
