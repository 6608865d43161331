"""What a datatype is: a reading of the decomposed table, and mutators that make deltas.

Problem: counters, sets, maps, logs and documents must all obey the same join,
the same persistence, the same sync and the same digests, or each would have its
own bugs in each of them.

Idea: there is one join, and it knows nothing of datatypes. A datatype is an
object with two sides. Its *mutators* look at what the replica holds of a key
(through a ``WriteView``) and stage deltas: put an entry, or remove entries, each
naming the dots that it supersedes. Its *reading* (``value``) turns live entries
into what a person sees. A datatype that leaves entries which a later moment
makes pointless (a removal that everyone has seen) says so in ``collect``, whose
effects are deltas too.

*Flat* datatypes keep all entries of a key in one slot; *nested* ones keep a slot
per field. Fields are text, canonical bytes, or the dot of the delta that made
them (``OWN_DOT``).

Invariants for every datatype: a mutator stages only through its view, raises
only ``LocalError``s, and raises before it stages anything that would not be
valid alone; ``value`` is a pure function of the entries and the reader; reading
never changes anything; returned values never alias the state; every datatype has
an operation ``delete`` without arguments, which takes back what was observed;
what ``collect`` drops can be noticed by no reader, now or later.

A new datatype is one new module and one line in the table of this package.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar, Final, Protocol

from crdtmem.batch import Segment
from crdtmem.codec import freeze, pack, thaw, unpack
from crdtmem.entries import Entry, Field, Slot
from crdtmem.errors import InvalidValue, UnknownName

__all__ = [
    "OWN_DOT",
    "DataType",
    "FlatType",
    "NestedType",
    "Reader",
    "WriteView",
    "element_field",
    "field_element",
]

OWN_DOT: Final = 0
"""The field that stands for the dot of the very delta that is being put."""


class WriteView(Protocol):
    """What a mutator sees of one key while a transaction is staged.

    Earlier operations of the same transaction are visible through it.
    """

    @property
    def replica(self) -> int:
        """The id of the replica that writes."""

    @property
    def key(self) -> str:
        """The key that the operation addresses."""

    @property
    def now_us(self) -> int:
        """The physical stamp that the transaction carries, in microseconds."""

    @property
    def observed(self) -> frozenset[int] | None:
        """The dots of the operation's ``Observed``, or ``None`` for a blind operation."""

    def next_dot(self) -> int:
        """Return the dot that the next ``put`` or ``remove`` will carry."""

    def slot(self, field: Field | None = None) -> tuple[Entry, ...]:
        """Return the entries of one place, in dot order; flat datatypes pass no field."""

    def fields(self) -> Iterator[tuple[Field, tuple[Entry, ...]]]:
        """Yield the non-empty fields of the key (nested datatypes)."""

    def supersede(self, entries: Iterable[Entry]) -> tuple[int, ...]:
        """Return the dots of those entries that this operation may supersede.

        With an ``Observed`` only the observed ones; never one of higher trust
        than the author's where the space orders trust.
        """

    def supersede_all(self, entries: Iterable[Entry]) -> tuple[int, ...]:
        """Like ``supersede``, but whatever the caller observed: for types whose rule is so."""

    def put(self, value: Any, superseded: Iterable[int] = (), field: Field | None = None) -> int:
        """Stage an entry with a frozen value; returns its dot."""

    def remove(self, superseded: Iterable[int], field: Field | None = None) -> None:
        """Stage a delta that only removes; does nothing when ``superseded`` is empty."""


class Reader(Protocol):
    """What a reading may depend on besides the entries."""

    @property
    def now_us(self) -> int:
        """The time against which expiry is judged, in microseconds."""

    def live(self, slot: Slot | None) -> tuple[Entry, ...]:
        """Return the slot's entries that have not expired, in dot order."""

    def resolve(self, entries: tuple[Entry, ...]) -> Any:
        """Return what the space's resolver makes of one or more siblings (frozen)."""


class DataType(ABC):
    """One datatype. Stateless: instances are shared by all replicas of a process."""

    name: ClassVar[str]
    code: ClassVar[int]
    nested: ClassVar[bool]
    conflicting: ClassVar[bool] = False
    """Whether several entries in one place are a conflict to list."""
    collectible: ClassVar[bool] = False
    """Whether ``collect`` ever has anything to do."""

    expiring: ClassVar[bool] = True
    """Whether its entries may carry an expiry; see ``may_expire``."""

    operations: ClassVar[Mapping[str, str]]
    """Operation name to the name of the method that carries it out."""

    def apply(self, view: WriteView, operation: str, arguments: tuple[Any, ...]) -> Any:
        """Carry out one operation; returns its result. Raises ``LocalError``s."""
        method = self.operations.get(operation)
        if method is None:
            raise UnknownName(
                f"a {self.name} has no operation {operation!r}",
                hint=f"it has {', '.join(sorted(self.operations))}",
            )
        bound = getattr(self, method)
        try:
            return bound(view, *arguments)
        except TypeError as error:
            # A wrong number of arguments is the caller's mistake; anything else is ours.
            try:
                inspect.signature(bound).bind(view, *arguments)
            except TypeError as misfit:
                raise InvalidValue(
                    f"{self.name}.{operation}: {misfit}", hint="pass the arguments that it takes"
                ) from error
            raise

    @abstractmethod
    def touches(
        self, view: WriteView, operation: str, arguments: tuple[Any, ...]
    ) -> tuple[Entry, ...]:
        """Return the entries that the operation is about: what an ``Observed`` refers to."""

    def contests(
        self, view: WriteView, operation: str, arguments: tuple[Any, ...]
    ) -> Iterable[tuple[str, tuple[Entry, ...]]]:
        """Return the places that the operation writes where several entries are a conflict.

        Each with its name for messages, and what it holds: the limit on siblings binds these.
        """
        return ()

    @abstractmethod
    def value(self, place: Any, reader: Reader) -> Any:
        """Return what a reader sees; ``place`` is a slot (flat) or field → slot (nested)."""

    @abstractmethod
    def exists(self, place: Any, reader: Reader) -> bool:
        """Tell whether a reader is shown the key at all.

        Entries that only guard against what may still arrive (a baseline, a
        removal) keep a place in the state, but not on the shelf.
        """

    @abstractmethod
    def conflicts(
        self, place: Any, reader: Reader
    ) -> Iterator[tuple[Field | None, tuple[Entry, ...]]]:
        """Yield the places of this key that hold a conflict, each with its live siblings."""

    def may_expire(self, operation: str, arguments: tuple[Any, ...]) -> bool:
        """Tell whether an operation may be given an expiry for the entries that it writes.

        Not where an entry guards against others: a baseline that expired would
        let a counter count again what was reset.
        """
        return self.expiring

    def also(self, place: Any, reader: Reader) -> tuple[str, ...]:
        """Return the names under which ``value`` shows what competes for another name."""
        return ()

    def leaves_behind(self, segment: Segment) -> bool:
        """Tell whether a segment may hold what ``collect`` will one day drop.

        May say yes too often, never no where there is something: the keys of
        such segments are the only ones that are looked at again.
        """
        return self.collectible and segment.values is not None

    def collect(self, view: WriteView, stable: Callable[[int], bool]) -> None:
        """Stage deltas that drop what no reader can notice any more, given stability.

        ``stable`` tells of a dot whether nothing concurrent with it can still
        arrive. Only called where ``collectible``; for one key at a time.
        """
        raise UnknownName(f"a {self.name} has nothing to collect")


class FlatType(DataType):
    """A datatype whose entries share one slot per key."""

    nested = False

    def touches(
        self, view: WriteView, operation: str, arguments: tuple[Any, ...]
    ) -> tuple[Entry, ...]:
        """Return all entries of the key."""
        return view.slot()

    def contests(
        self, view: WriteView, operation: str, arguments: tuple[Any, ...]
    ) -> Iterable[tuple[str, tuple[Entry, ...]]]:
        """Return the key itself where several entries are a conflict."""
        return ((view.key, view.slot()),) if self.conflicting else ()

    def exists(self, place: Slot | None, reader: Reader) -> bool:
        """Tell whether any entry is live."""
        return bool(reader.live(place))

    def conflicts(
        self, place: Slot | None, reader: Reader
    ) -> Iterator[tuple[Field | None, tuple[Entry, ...]]]:
        """Yield the key itself where several entries are live and that is a conflict."""
        if self.conflicting and len(entries := reader.live(place)) > 1:
            yield None, entries


class NestedType(DataType):
    """A datatype with a slot per field."""

    nested = True

    def touches(
        self, view: WriteView, operation: str, arguments: tuple[Any, ...]
    ) -> tuple[Entry, ...]:
        """Return all entries of all fields; types with an addressed field return its entries."""
        return tuple([entry for _, entries in view.fields() for entry in entries])

    def exists(self, place: Mapping[Field, Slot] | None, reader: Reader) -> bool:
        """Tell whether any entry of any field is live."""
        return place is not None and any(reader.live(slot) for slot in place.values())

    def conflicts(
        self, place: Mapping[Field, Slot] | None, reader: Reader
    ) -> Iterator[tuple[Field | None, tuple[Entry, ...]]]:
        """Yield the fields where several entries are live and that is a conflict."""
        if self.conflicting and place is not None:
            for field, slot in place.items():
                if len(entries := reader.live(slot)) > 1:
                    yield field, entries


def element_field(element: Any) -> Field:
    """Return the field that stands for a set element: text itself, else canonical bytes.

    Text maps to text and everything else to MessagePack bytes, so that ``1``,
    ``True``, ``1.0`` and ``"1"`` stay four elements. The empty text maps to bytes
    too: a field always says something.
    """
    frozen = freeze(element)
    return frozen if type(frozen) is str and frozen else pack(frozen)


def field_element(field: Field) -> Any:
    """Return the element that a field stands for: the inverse of ``element_field``."""
    return thaw(unpack(field)) if type(field) is bytes else field
