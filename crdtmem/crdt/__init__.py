"""The datatypes, in one table.

A new datatype is a module of this package and one line here; the conformance
suite, the wire and the stores then know it. Names are what people write, codes
what batches carry: neither is ever given to another datatype.
"""

from __future__ import annotations

from typing import Final

from crdtmem.crdt.base import OWN_DOT, DataType, FlatType, NestedType, Reader, WriteView
from crdtmem.crdt.bounded import BoundedCounter
from crdtmem.crdt.counter import Counter, GrowOnlyCounter
from crdtmem.crdt.document import Document
from crdtmem.crdt.flag import DisableWinsFlag, EnableWinsFlag
from crdtmem.crdt.log import Log
from crdtmem.crdt.map import Map
from crdtmem.crdt.register import MultiValue, Register
from crdtmem.crdt.set import AddWinsSet, RemoveWinsSet
from crdtmem.table import Shape

__all__ = [
    "DATATYPES",
    "DATATYPES_BY_CODE",
    "NESTED",
    "OWN_DOT",
    "SHAPES",
    "DataType",
    "FlatType",
    "NestedType",
    "Reader",
    "WriteView",
]

_MEMBERS: Final[dict[str, DataType]] = {
    "register": Register(),
    "multi_value": MultiValue(),
    "flag": EnableWinsFlag(),
    "flag_disable_wins": DisableWinsFlag(),
    "g_counter": GrowOnlyCounter(),
    "counter": Counter(),
    "bounded_counter": BoundedCounter(),
    "set": AddWinsSet(),
    "set_remove_wins": RemoveWinsSet(),
    "log": Log(),
    "document": Document(),
}

DATATYPES: Final[dict[str, DataType]] = {**_MEMBERS, "map": Map(_MEMBERS)}
"""Every datatype by name. A map may hold each of the others."""

DATATYPES_BY_CODE: Final[dict[int, DataType]] = {
    datatype.code: datatype for datatype in DATATYPES.values()
}
"""Every datatype by the code that batches carry."""

SHAPES: Final[dict[int, Shape]] = {
    code: Shape(nested=datatype.nested, conflicting=datatype.conflicting)
    for code, datatype in DATATYPES_BY_CODE.items()
}
"""How each datatype lies in a table, by code."""

NESTED: Final[dict[int, bool]] = {
    code: datatype.nested for code, datatype in DATATYPES_BY_CODE.items()
}
"""Whether each datatype has fields, by code."""

# Two lines of the table with one code would read each other's entries.
assert len(DATATYPES_BY_CODE) == len(DATATYPES)
assert all(name == datatype.name for name, datatype in DATATYPES.items())
