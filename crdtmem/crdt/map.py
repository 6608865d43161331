"""Maps: named members at any depth, plain or typed, merged member by member.

Problem: agents in several regions change different members of one record at
once, remove a member while another region changes it, and put counters and sets
inside. Replacing the record whole would lose all but one of them.

Idea: a member has fields of its own, named by its path and datatype (see
``crdtmem.crdt.member``). A plain member is a register: ``set`` supersedes what
was observed of it. A typed member is any other datatype; ``apply`` carries out
its operations. ``delete`` removes what was observed at a path and below it, each
member in the way of its datatype (a counter writes baselines, a log drops its
entries), so a change made concurrently survives, and so does one that was not
observed.

A dict given to ``set`` is one value, replaced whole. For members that merge one
by one, give paths, or use ``update``.

One name may hold several things: a plain value, members below it, a counter.
Their places differ, so all are kept, and the reading shows them all: members
below come first, then datatypes by code (plain values first). What comes first
has the name; each other one is shown beside it as ``"name (counter)"``, primed
where that name is taken, and ``also`` lists these, so that a reader is told.

Invariants: what is done to one member changes no other; a delete without
``Observed`` removes only what its replica held; a map without members is absent.

Reset-remove in nested maps is where Riak's and delta-based maps went wrong;
superseding by observed dots per place, with baselines for counters, is the
answer here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar

from crdtmem.batch import Segment
from crdtmem.codec import freeze
from crdtmem.crdt.base import DataType, NestedType, Reader, WriteView
from crdtmem.crdt.member import MemberView, Path, check_path, member_field, parse_field
from crdtmem.crdt.register import Register
from crdtmem.entries import Entry, Field, Slot
from crdtmem.errors import InvalidValue, UnknownName

__all__ = ["Map"]

Place = Mapping[Field, Slot]


class _Node:
    """One name while a reading is put together: what it holds, and what lies below."""

    __slots__ = ("below", "values")

    def __init__(self) -> None:
        self.values: dict[int, Any] = {}
        self.below: dict[str, _Node] = {}


class Map(NestedType):
    """A map of named members; ``members`` are the datatypes that may live in it, by name."""

    name = "map"
    code = 10
    conflicting = True
    collectible = True
    operations: ClassVar[Mapping[str, str]] = {
        "set": "set",
        "update": "update",
        "apply": "apply_member",
        "delete": "delete",
    }

    def __init__(self, members: Mapping[str, DataType]) -> None:
        self.members = dict(members)
        self.members_by_code = {datatype.code: datatype for datatype in members.values()}

    def touches(
        self, view: WriteView, operation: str, arguments: tuple[Any, ...]
    ) -> tuple[Entry, ...]:
        """Return the entries of the member that is addressed, or of all that lie below."""
        if operation == "set" and arguments:
            return view.slot(member_field(check_path(arguments[0]), Register.code))
        if operation == "apply" and len(arguments) >= 3:
            path, datatype = check_path(arguments[0]), self._member(arguments[1])
            inner = MemberView(view, path, datatype.code)
            return datatype.touches(inner, arguments[2], tuple(arguments[3:]))
        if operation == "update" and arguments:
            paths = self._update_paths(*arguments[:2])
            return tuple(
                [e for path in paths for e in view.slot(member_field(path, Register.code))]
            )
        prefix = _prefix(arguments[0]) if operation == "delete" and arguments else ()
        return tuple(
            [
                entry
                for field, entries in view.fields()
                if (member := parse_field(field)) is not None
                and member.path[: len(prefix)] == prefix
                for entry in entries
            ]
        )

    def contests(
        self, view: WriteView, operation: str, arguments: tuple[Any, ...]
    ) -> Iterator[tuple[str, tuple[Entry, ...]]]:
        """Yield the plain members that are written, or those of a typed member's own kind."""
        members: Iterable[tuple[Path, int]] = ()
        if operation == "set" and arguments:
            members = [(check_path(arguments[0]), Register.code)]
        elif operation == "update" and arguments:
            paths = self._update_paths(*arguments[:2])
            members = [(path, Register.code) for path in paths]
        elif operation == "apply" and len(arguments) >= 3:
            members = [(check_path(arguments[0]), self._member(arguments[1]).code)]
        elif operation == "delete":
            members = self._typed_members(view, _prefix(arguments[0]) if arguments else ())
        for path, code in members:
            datatype = self.members_by_code.get(code)
            if datatype is not None and datatype.conflicting:
                yield from datatype.contests(MemberView(view, path, code), operation, arguments)

    def set(self, view: WriteView, path: Any, value: Any) -> int:
        """Write a plain value at a path, over what was observed of it; returns its dot."""
        return self._set(view, check_path(path), freeze(value))

    def _set(self, view: WriteView, path: Path, frozen: Any) -> int:
        field = member_field(path, Register.code)
        return view.put(frozen, view.supersede(view.slot(field)), field)

    def update(self, view: WriteView, values: Any, path: Any = ()) -> int:
        """Write a plain value under each name of a dict; returns how many.

        With ``path`` they are written below it. Raises before any is written.
        """
        paths = self._update_paths(values, path)
        frozen = [freeze(value) for value in values.values()]
        for names, value in zip(paths, frozen, strict=True):
            self._set(view, names, value)
        return len(frozen)

    def _update_paths(self, values: Any, path: Any = ()) -> list[Path]:
        """Return the paths that an update writes; raises ``InvalidValue`` for what is none."""
        if type(values) is not dict:
            raise InvalidValue(
                f"an update is a dict, not {type(values).__name__}", hint="pass names and values"
            )
        above = _prefix(path)
        return [check_path([*above, name]) for name in values]

    def apply_member(
        self, view: WriteView, path: Any, type_name: Any, operation: str, *arguments: Any
    ) -> Any:
        """Carry out an operation of a typed member; returns what that returns."""
        datatype = self._member(type_name)
        inner = MemberView(view, check_path(path), datatype.code)
        return datatype.apply(inner, operation, arguments)

    def _member(self, type_name: Any) -> DataType:
        datatype = self.members.get(type_name) if type(type_name) is str else None
        if datatype is None:
            raise UnknownName(
                f"a map has no members of type {type_name!r:.60}",
                hint=f"it may have {', '.join(sorted(self.members))}; maps nest by path",
            )
        return datatype

    def delete(self, view: WriteView, path: Any = ()) -> None:
        """Remove what was observed at a path and below it; without a path, everything.

        Raises what a typed member raises when it may not be deleted.
        """
        prefix = _prefix(path)
        for member_path, code in self._typed_members(view, prefix):
            datatype = self.members_by_code.get(code)
            if datatype is not None:
                datatype.apply(MemberView(view, member_path, code), "delete", ())

    def leaves_behind(self, segment: Segment) -> bool:
        """Tell whether the segment writes a member whose datatype ever collects."""
        if segment.values is None:
            return False
        for field in segment.fields:
            member = parse_field(field)
            datatype = None if member is None else self.members_by_code.get(member.datatype)
            if datatype is not None and datatype.collectible:
                return True
        return False

    def collect(self, view: WriteView, stable: Callable[[int], bool]) -> None:
        """Let each typed member collect what no reader can notice any more."""
        for path, code in self._typed_members(view, ()):
            datatype = self.members_by_code.get(code)
            if datatype is not None and datatype.collectible:
                datatype.collect(MemberView(view, path, code), stable)

    def _typed_members(self, view: WriteView, prefix: Path) -> list[tuple[Path, int]]:
        """Return path and datatype of every member at or below a path, in a fixed order."""
        found = {
            (member.path, member.datatype)
            for field, _ in view.fields()
            if (member := parse_field(field)) is not None and member.path[: len(prefix)] == prefix
        }
        return sorted(found)

    def places(self, place: Place | None) -> dict[tuple[Path, int], Any]:
        """Return each member's own place, by path and datatype code: a slot, or its fields."""
        found: dict[tuple[Path, int], Any] = {}
        for field, slot in (place or {}).items():
            member = parse_field(field)
            if member is None:
                continue
            datatype = self.members_by_code.get(member.datatype)
            if datatype is None or datatype.nested is (member.field is None):
                continue
            if member.field is None:
                found[member.path, member.datatype] = slot
            else:
                found.setdefault((member.path, member.datatype), {})[member.field] = slot
        return found

    def exists(self, place: Place | None, reader: Reader) -> bool:
        """Tell whether any member is shown."""
        return any(
            self.members_by_code[code].exists(inner, reader)
            for (_, code), inner in self.places(place).items()
        )

    def may_expire(self, operation: str, arguments: tuple[Any, ...]) -> bool:
        """Tell whether an operation may be given an expiry: typed members as they say.

        A delete may not, since it writes what guards: baselines and removals.
        """
        if operation == "apply" and len(arguments) >= 3:
            return self._member(arguments[1]).may_expire(arguments[2], tuple(arguments[3:]))
        return operation != "delete"

    def conflicts(
        self, place: Place | None, reader: Reader
    ) -> Iterator[tuple[Field | None, tuple[Entry, ...]]]:
        """Yield the members that hold concurrent values."""
        for field, slot in (place or {}).items():
            member = parse_field(field)
            datatype = None if member is None else self.members_by_code.get(member.datatype)
            if datatype is not None and datatype.conflicting:
                if len(entries := reader.live(slot)) > 1:
                    yield field, entries

    def value(self, place: Place | None, reader: Reader) -> dict[str, Any]:
        """Return the members as a nested dict."""
        return _render(self._tree(place, reader), self.members_by_code, (), [])

    def also(self, place: Place | None, reader: Reader) -> tuple[str, ...]:
        """Return where ``value`` shows what competes for a name, as paths joined by ``/``."""
        told: list[str] = []
        _render(self._tree(place, reader), self.members_by_code, (), told)
        return tuple(told)

    def _tree(self, place: Place | None, reader: Reader) -> _Node:
        root = _Node()
        for (path, code), inner in self.places(place).items():
            datatype = self.members_by_code[code]
            if not datatype.exists(inner, reader):
                continue
            node = root
            for name in path:
                node = node.below.setdefault(name, _Node())
            node.values[code] = datatype.value(inner, reader)
        return root


def _prefix(path: Any) -> Path:
    """Return a path to look below; only the empty tuple, a path not given, means all."""
    return () if path == () and type(path) is tuple else check_path(path)


def _render(
    node: _Node, datatypes: Mapping[int, DataType], path: Path, told: list[str]
) -> dict[str, Any]:
    """Return what lies below a node as a dict; note in ``told`` what had to yield its name."""
    shown: dict[str, Any] = {}
    yielded: list[tuple[str, str, Any]] = []
    for name in sorted(node.below):
        child = node.below[name]
        held = [(datatypes[code].name, child.values[code]) for code in sorted(child.values)]
        if child.below:
            held.insert(0, (Map.name, _render(child, datatypes, (*path, name), told)))
        shown[name] = held[0][1]
        yielded += [(name, type_name, value) for type_name, value in held[1:]]
    for name, type_name, value in yielded:
        label = f"{name} ({type_name})"
        while label in shown:
            label += "'"
        shown[label] = value
        told.append("/".join((*path, label)))
    return shown
