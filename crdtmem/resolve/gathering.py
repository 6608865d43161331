"""Resolvers that show something of all the siblings.

Both return what does not depend on the order of the siblings: ``keep_all`` puts
them in dot order, ``union`` in the total order of values.
"""

from __future__ import annotations

from typing import Any

from crdtmem.entries import Entry
from crdtmem.resolve.order import order_key

__all__ = ["keep_all", "union"]


def keep_all(entries: tuple[Entry, ...]) -> Any:
    """Return all values as a list in dot order: always a list, also of one."""
    return tuple([entry[1] for entry in sorted(entries, key=lambda entry: entry[0])])


def union(entries: tuple[Entry, ...]) -> Any:
    """Return what all siblings hold together; a single sibling as it is.

    Where all are maps, a map of all their names, with the union of the values
    under each. Otherwise a list of the distinct items, in the total order of
    values: a list gives its items, anything else is one item.
    """
    return _union([entry[1] for entry in entries])


def _union(values: list[Any]) -> Any:
    distinct = {order_key(value): value for value in values}
    if len(distinct) == 1:
        return values[0]
    if all(type(value) is dict for value in values):
        names = sorted({name for value in values for name in value})
        return {name: _union([value[name] for value in values if name in value]) for name in names}
    items: dict[tuple[Any, ...], Any] = {}
    for value in values:
        for item in value if type(value) is tuple else (value,):
            items.setdefault(order_key(item), item)
    return tuple([items[key] for key in sorted(items)])
