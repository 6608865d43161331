"""The operations of every datatype as typed bodies, told apart by their names.

Problem: ``{"operation": "increment", "amount": "3"}`` should be refused with a sentence
about ``amount`` before anything is asked, and a generator of clients should find each
operation with its fields.

Idea: one model per operation, named after it, with the arguments of the mutator of the same
name (see ``crdtmem.crdt``) as fields. A datatype's body is the union of its operations,
discriminated by ``operation``; a step of a transaction adds where it happens, and is
discriminated by ``datatype``.

Invariants: each datatype has exactly the operations that its mutators are, with as many
arguments, which a test asserts; a model never changes a value, it only reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from operator import or_
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, create_model

from crdtmem.causality import Observed
from crdtmem.crdt import DATATYPES
from crdtmem.entries import pack_dot
from crdtmem.errors import InvalidValue
from crdtmem.transaction import Operation, Options

__all__ = [
    "BODIES",
    "MEMBER_TYPES",
    "OPERATIONS",
    "STEPS",
    "Add",
    "AddAll",
    "Append",
    "ApplyToMember",
    "Body",
    "Burn",
    "Change",
    "Clear",
    "Consume",
    "Decrement",
    "Delete",
    "DeleteMember",
    "Disable",
    "Discard",
    "DotText",
    "Labels",
    "Enable",
    "Extend",
    "Increment",
    "Mint",
    "PutValue",
    "Release",
    "Remove",
    "RemoveEntries",
    "ReplicaText",
    "Reset",
    "SetMember",
    "SetValue",
    "Step",
    "Transfer",
    "UpdateDocument",
    "UpdateMembers",
]

Plain = Callable[[Any], Any]
"""Turns what a body holds into the value that is meant: bytes in JSON, for one."""


class Body(BaseModel):
    """What all bodies share: nothing unknown, nothing converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


Value: TypeAlias = Annotated[
    Any,
    Field(
        description="Any value: null, boolean, 64-bit integer, number, text, bytes, array, object. "
        'In JSON bytes are written {"$bytes": base64}, what JSON lacks {"$float": "nan"}.'
    ),
]
Path: TypeAlias = Annotated[
    str | Annotated[list[str], Field(strict=False, max_length=32)],
    Field(description="A name, or the names from the top down."),
]
Amount: TypeAlias = Annotated[int, Field(ge=0, lt=1 << 64)]
Token: TypeAlias = Annotated[
    str,
    Field(
        description="What a read returned as observed.",
        pattern=r"^o1\.[A-Za-z0-9_-]*$",
        examples=["o1.kA"],
    ),
]
Labels: TypeAlias = Annotated[
    list[Annotated[str, Field(min_length=1)]], Field(strict=False, min_length=1, max_length=8)
]
DotText: TypeAlias = Annotated[str, Field(pattern=r"^[0-9a-f]{16}:[0-9]{1,20}$")]
ReplicaText: TypeAlias = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
MEMBER_TYPES: Final = tuple(name for name in DATATYPES if name != "map")


class _Qualified(Body):
    """What may qualify an operation."""

    observed: Token | None = Field(
        None, description="Supersede just what that read returned; else whatever is held here."
    )
    expect: Token | None = Field(
        None, description="As observed, and refuse unless the key still holds exactly that."
    )
    expires_at_us: Annotated[int, Field(ge=0, lt=1 << 62)] | None = Field(
        None, description="When readers stop seeing it, in microseconds since 1970."
    )
    metadata: dict[str, Any] | None = Field(None, description="Further metadata of the entry.")

    def options(self, plain: Plain) -> Options | None:
        """Return the operation's options; raises ``InvalidToken`` or ``InvalidValue``."""
        token, conditional = self.observed, self.expect is not None
        if conditional:
            if token is not None:
                raise InvalidValue("observed and expect together", hint="give one of them")
            token = self.expect
        if token is None and self.expires_at_us is None and not self.metadata:
            return None
        return Options(
            observed=None if token is None else Observed.parse(token).dots,
            conditional=conditional,
            expires_at_us=self.expires_at_us,
            metadata=plain(self.metadata) if self.metadata else {},
        )


class Change(_Qualified):
    """An operation on one key. Subclasses name it, and its arguments."""

    operation: str

    def arguments(self, plain: Plain) -> tuple[Any, ...]:
        """Return the arguments, in the mutator's order."""
        return ()

    def at(self, space: tuple[str, ...], datatype: str, key: str, plain: Plain) -> Operation:
        """Return the operation at a place."""
        return Operation(
            space,
            DATATYPES[datatype].code,
            key,
            self.operation,
            self.arguments(plain),
            self.options(plain),
        )


class PutValue(_Qualified):
    """A value to be written over what is held."""

    value: Value

    def at(self, space: tuple[str, ...], datatype: str, key: str, plain: Plain) -> Operation:
        """Return the operation at a place."""
        code = DATATYPES[datatype].code
        return Operation(space, code, key, "set", (plain(self.value),), self.options(plain))


class Delete(Change):
    """Remove what was observed; what is written concurrently survives."""

    operation: Literal["delete"]


class SetValue(Change):
    """Write a value."""

    operation: Literal["set"]
    value: Value

    def arguments(self, plain: Plain) -> tuple[Any, ...]:
        """Return the value."""
        return (plain(self.value),)


class Enable(Change):
    """Raise the flag."""

    operation: Literal["enable"]


class Disable(Change):
    """Lower the flag."""

    operation: Literal["disable"]


class _Counting(Change):
    """An operation with an amount."""

    amount: Amount

    def arguments(self, plain: Plain) -> tuple[Any, ...]:
        """Return the amount."""
        return (self.amount,)


class Increment(_Counting):
    """Count up."""

    operation: Literal["increment"]
    amount: Amount = 1


class Decrement(_Counting):
    """Count down."""

    operation: Literal["decrement"]
    amount: Amount = 1


class Reset(Change):
    """Take back what was observed; a concurrent increment survives whole."""

    operation: Literal["reset"]


class Mint(_Counting):
    """Raise the bound: create rights, held by the node that is asked."""

    operation: Literal["mint"]


class Burn(_Counting):
    """Lower the bound by rights that the node holds."""

    operation: Literal["burn"]


class Consume(_Counting):
    """Spend rights that the node holds."""

    operation: Literal["consume"]
    amount: Amount = 1


class Release(_Counting):
    """Give back what the node had spent."""

    operation: Literal["release"]
    amount: Amount = 1


class Transfer(_Counting):
    """Hand rights over to another replica."""

    operation: Literal["transfer"]
    to_replica: ReplicaText = Field(description="Its id, as members tell it.")

    def arguments(self, plain: Plain) -> tuple[Any, ...]:
        """Return the amount and the replica."""
        return (self.amount, int(self.to_replica, 16))


class _OfElement(Change):
    """An operation on one element."""

    element: Value

    def arguments(self, plain: Plain) -> tuple[Any, ...]:
        """Return the element."""
        return (plain(self.element),)


class Add(_OfElement):
    """Put an element in."""

    operation: Literal["add"]


class Remove(_OfElement):
    """Take an element out."""

    operation: Literal["remove"]


class Discard(_OfElement):
    """Take an element out, under the name that sets have for it elsewhere."""

    operation: Literal["discard"]


class AddAll(Change):
    """Put several elements in."""

    operation: Literal["update"]
    elements: Annotated[list[Value], Field(strict=False)]

    def arguments(self, plain: Plain) -> tuple[Any, ...]:
        """Return the elements."""
        return ([plain(element) for element in self.elements],)


class Clear(Change):
    """Take every element out that was observed."""

    operation: Literal["clear"]


class SetMember(Change):
    """Write a plain value at a path."""

    operation: Literal["set"]
    path: Path
    value: Value

    def arguments(self, plain: Plain) -> tuple[Any, ...]:
        """Return path and value."""
        return (self.path, plain(self.value))


class UpdateMembers(Change):
    """Write a plain value under each name; those not named are kept."""

    operation: Literal["update"]
    values: dict[str, Value]
    path: Path = Field(default=[], description="Where they lie; at the top if not given.")

    def arguments(self, plain: Plain) -> tuple[Any, ...]:
        """Return the values and their path."""
        values = {name: plain(value) for name, value in self.values.items()}
        return (values, self.path) if self.path else (values,)


class ApplyToMember(Change):
    """Carry out an operation of a typed member, such as a counter within the map."""

    operation: Literal["apply"]
    path: Path
    datatype: Literal[MEMBER_TYPES]  # type: ignore[valid-type]
    name: str = Field(description="The operation of that datatype.")
    arguments_: Annotated[list[Value], Field(strict=False)] = Field(
        default=[], alias="arguments", description="Its arguments, in order."
    )

    def arguments(self, plain: Plain) -> tuple[Any, ...]:
        """Return path, datatype, operation and its arguments."""
        inner = [plain(argument) for argument in self.arguments_]
        return (self.path, self.datatype, self.name, *inner)


class DeleteMember(Change):
    """Remove what was observed at a path and below it; without a path, everything."""

    operation: Literal["delete"]
    path: Path = Field(default=[], description="What is removed; everything if not given.")

    def arguments(self, plain: Plain) -> tuple[Any, ...]:
        """Return the path, if there is one."""
        return (self.path,) if self.path else ()


class Append(Change):
    """Append one entry."""

    operation: Literal["append"]
    value: Value

    def arguments(self, plain: Plain) -> tuple[Any, ...]:
        """Return the value."""
        return (plain(self.value),)


class Extend(Change):
    """Append several entries, in their order."""

    operation: Literal["extend"]
    values: Annotated[list[Value], Field(strict=False)]

    def arguments(self, plain: Plain) -> tuple[Any, ...]:
        """Return the values."""
        return ([plain(value) for value in self.values],)


class RemoveEntries(Change):
    """Remove entries by their dots, as siblings show them."""

    operation: Literal["remove"]
    dots: Annotated[list[DotText], Field(strict=False)]

    def arguments(self, plain: Plain) -> tuple[Any, ...]:
        """Return the dots."""
        pairs = [dot.split(":") for dot in self.dots]
        return ([pack_dot(int(replica, 16), int(number)) for replica, number in pairs],)


class UpdateDocument(Change):
    """Add an update made by a Yjs (or pycrdt) document."""

    operation: Literal["update"]
    update: Value = Field(description='Bytes; in JSON {"$bytes": base64}.')

    def arguments(self, plain: Plain) -> tuple[Any, ...]:
        """Return the update."""
        return (plain(self.update),)


_REGISTER: Final = (SetValue, Delete)
_FLAG: Final = (Enable, Disable, Delete)
_SET: Final = (Add, AddAll, Remove, Discard, Clear, Delete)

OPERATIONS: Final[Mapping[str, tuple[type[Change], ...]]] = {
    "register": _REGISTER,
    "multi_value": _REGISTER,
    "flag": _FLAG,
    "flag_disable_wins": _FLAG,
    "g_counter": (Increment, Delete),
    "counter": (Increment, Decrement, Reset, Delete),
    "bounded_counter": (Mint, Burn, Consume, Release, Transfer, Delete),
    "set": _SET,
    "set_remove_wins": _SET,
    "log": (Append, Extend, RemoveEntries, Delete),
    "document": (UpdateDocument, Delete),
    "map": (SetMember, UpdateMembers, ApplyToMember, DeleteMember),
}
"""The models of each datatype's operations."""

BODIES: Final[Mapping[str, Any]] = {
    datatype: Annotated[reduce(or_, models), Field(discriminator="operation")]
    for datatype, models in OPERATIONS.items()
}
"""The body that carries out an operation on a key of each datatype."""


class Step(Body):
    """One operation of a transaction, and where it happens."""

    space: Labels
    datatype: str
    key: str = Field(min_length=1)
    do: Any

    def operation(self, plain: Plain) -> Operation:
        """Return the operation."""
        change: Change = self.do
        return change.at(tuple(self.space), self.datatype, self.key, plain)


def _step(datatype: str) -> type[Step]:
    title = "".join(word.capitalize() for word in datatype.split("_"))
    fields: dict[str, Any] = {"datatype": (Literal[datatype], ...), "do": (BODIES[datatype], ...)}
    about = f"An operation on a {datatype}, and where it happens."
    return create_model(f"{title}Step", __base__=Step, __doc__=about, **fields)


_STEPS: Final[Any] = reduce(or_, [_step(datatype) for datatype in DATATYPES])

STEPS: Final[Any] = Annotated[_STEPS, Field(discriminator="datatype")]
"""A step of a transaction, told apart by its datatype."""
