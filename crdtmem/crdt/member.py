"""How a map's members are addressed, and how a datatype can live inside a map.

Problem: a map's member may be a plain value or a counter, a set, a log; all of
them must share the map's one level of fields, and none may know that it is
nested.

Idea: a field is the canonical MessagePack of where it is::

    [name, …]                                     a plain value at that path
    [[name, …], datatype]                         a flat member of that datatype
    [[name, …], datatype, field]                  one field of a nested member
    [[name, …], datatype, [replica, sequence]]    the same, where fields are dots

``MemberView`` gives a member's mutators a ``WriteView`` of their own that maps
fields this way, so that every datatype works in a map as it does under a key.

Invariants: different places have different fields, and one place has one; a
field that this program cannot read is passed over, never guessed at.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

from crdtmem.codec import MAX_DEPTH, check_label, pack, unpack
from crdtmem.crdt.base import OWN_DOT, WriteView
from crdtmem.crdt.register import Register
from crdtmem.entries import SEQUENCE_BITS, SEQUENCE_MASK, Entry, Field
from crdtmem.errors import InvalidValue, LimitExceeded, MalformedFrame

__all__ = ["Member", "MemberView", "Path", "check_path", "member_field", "parse_field"]

Path = tuple[str, ...]

_NAME_LIMIT_BYTES = 1024


class Member(NamedTuple):
    """What a field of a map stands for; ``field`` is ``None`` but for nested members."""

    path: Path
    datatype: int
    field: Field | None


def check_path(path: object) -> Path:
    """Return a path given as a name or a list of names.

    Raises ``InvalidValue`` or ``LimitExceeded`` for what is no path.
    """
    names = (path,) if type(path) is str else path
    if not isinstance(names, (list, tuple)) or not names:
        raise InvalidValue(
            f"{path!r:.60} is no path in a map", hint="pass a name, or a list of names"
        )
    if len(names) > MAX_DEPTH:
        raise LimitExceeded(f"a path over {MAX_DEPTH} names long", hint="flatten the map")
    return tuple([check_label(name, "name in a map", _NAME_LIMIT_BYTES) for name in names])


def member_field(path: Path, datatype: int, field: Field | None = None) -> bytes:
    """Return the map's field for a place: the inverse of ``parse_field``."""
    if datatype == Register.code:
        return pack(path)
    if field is None:
        return pack((path, datatype))
    if type(field) is int:
        return pack((path, datatype, (field >> SEQUENCE_BITS, field & SEQUENCE_MASK)))
    return pack((path, datatype, field))


@lru_cache(maxsize=16_384)
def parse_field(field: Field) -> Member | None:
    """Return what a map's field stands for, ``None`` for a form that is not known here."""
    if type(field) is not bytes:
        return None
    try:
        body = unpack(field)
    except MalformedFrame:
        return None
    if _is_path(body):
        return Member(body, Register.code, None)
    if type(body) is not tuple or not 2 <= len(body) <= 3:
        return None
    path, datatype = body[:2]
    if not _is_path(path) or type(datatype) is not int:
        return None
    if len(body) == 2:
        return Member(path, datatype, None)
    inner = body[2]
    if type(inner) is tuple:
        if len(inner) != 2 or {type(number) for number in inner} != {int}:
            return None
        inner = inner[0] << SEQUENCE_BITS | inner[1]
    return Member(path, datatype, inner)


def _is_path(body: object) -> bool:
    return (
        type(body) is tuple
        and 0 < len(body) <= MAX_DEPTH
        and all(type(name) is str for name in body)
    )


class MemberView:
    """A ``WriteView`` of one member of a map."""

    __slots__ = ("_datatype", "_path", "_view")

    def __init__(self, view: WriteView, path: Path, datatype: int) -> None:
        self._view = view
        self._path = path
        self._datatype = datatype

    @property
    def replica(self) -> int:
        """The id of the replica that writes."""
        return self._view.replica

    @property
    def key(self) -> str:
        """The key of the map, and the path within it, for messages."""
        return "/".join((self._view.key, *self._path))

    @property
    def now_us(self) -> int:
        """The physical stamp that the transaction carries, in microseconds."""
        return self._view.now_us

    @property
    def observed(self) -> frozenset[int] | None:
        """The dots of the operation's ``Observed``, or ``None`` for a blind operation."""
        return self._view.observed

    def next_dot(self) -> int:
        """Return the dot that the next delta will carry."""
        return self._view.next_dot()

    def slot(self, field: Field | None = None) -> tuple[Entry, ...]:
        """Return the entries of one place of the member."""
        return self._view.slot(member_field(self._path, self._datatype, field))

    def fields(self) -> Iterator[tuple[Field, tuple[Entry, ...]]]:
        """Yield the non-empty fields of the member."""
        for field, entries in self._view.fields():
            member = parse_field(field)
            if (
                member is not None
                and member.field is not None
                and member.datatype == self._datatype
                and member.path == self._path
            ):
                yield member.field, entries

    def supersede(self, entries: Iterable[Entry]) -> tuple[int, ...]:
        """Return the dots of those entries that this operation may supersede."""
        return self._view.supersede(entries)

    def supersede_all(self, entries: Iterable[Entry]) -> tuple[int, ...]:
        """Like ``supersede``, whatever the caller observed."""
        return self._view.supersede_all(entries)

    def put(self, value: object, superseded: Iterable[int] = (), field: Field | None = None) -> int:
        """Stage an entry; returns its dot."""
        if type(field) is int and field == OWN_DOT:
            # A member's field cannot be left to the encoding: it has to spell the dot out.
            field = self._view.next_dot()
        return self._view.put(value, superseded, member_field(self._path, self._datatype, field))

    def remove(self, superseded: Iterable[int], field: Field | None = None) -> None:
        """Stage a removal of those dots, if there are any."""
        self._view.remove(superseded, member_field(self._path, self._datatype, field))
