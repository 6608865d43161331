"""Export: what a memory holds, as the operations that would write it again.

Problem: an export must be readable by people and other programs, keep who wrote
what, where and when, and be importable anywhere: also into a memory that already
holds something, also twice.

Idea: one record per live entry, and in it the *operation* that writes such an
entry: ``set`` of a register, ``add`` of an element, ``append`` to a log. Import is
then the ordinary write path. Counters are the exception: their entries are
running totals, which mean nothing elsewhere, so a counter is one record that
counts its value. An operation id drawn from the record's own dot makes a
repeated import count once.

As JSON, bytes are written ``{"$bytes": base64}``, and a dict that happens to have
such a name ``{"$dict": …}``; NaN and the infinities ``{"$float": "nan"}``.

Invariants: exporting changes nothing; importing into an empty memory gives equal
values, siblings included; times, dots and regions are told, not re-created, since
every replica stamps only its own.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from crdtmem.batch import SpaceName
from crdtmem.codec import thaw
from crdtmem.crdt import DATATYPES, DATATYPES_BY_CODE, DataType
from crdtmem.crdt.base import field_element
from crdtmem.crdt.log import canonical_order
from crdtmem.crdt.member import parse_field
from crdtmem.entries import Entry, Field, Slot, as_siblings
from crdtmem.errors import InvalidValue
from crdtmem.limits import Limits
from crdtmem.policy import SYSTEM_SPACE
from crdtmem.reading import SpaceReader, describe
from crdtmem.replica import Replica
from crdtmem.transaction import Operation, Options, Transaction, check_space

__all__ = ["export_records", "from_json", "record_transaction", "to_json"]

Record = dict[str, Any]
_Made = tuple[str, tuple[Any, ...], Entry, bool]
"""An operation, its arguments, the entry that it stands for, and whether it has siblings."""

_TAGS: Final = ("$bytes", "$dict", "$float")
_FIELDS: Final = frozenset(
    {
        "author",
        "dot",
        "expires_at_us",
        "metadata",
        "region",
        "sibling",
        "time_us",
        "trust",
        "arguments",
        "key",
        "operation",
        "space",
        "type",
    }
)


def export_records(
    replica: Replica, space: SpaceName | None, now_us: int
) -> Iterator[dict[str, Any]]:
    """Yield a record per live entry, of one space or of all, by space, type and key.

    May be left off and resumed while writes go on: each key is exported whole, as
    it is when its turn comes.
    """
    for name, code in sorted(replica.state.tables):
        if name == SYSTEM_SPACE or (space is not None and name != space):
            continue
        kind = DATATYPES_BY_CODE[code]
        slots = replica.state.tables[name, code].slots
        for key in sorted(slots):
            reader = SpaceReader(now_us, replica.policy(name))
            place = slots.get(key)
            if place is None or not kind.exists(place, reader):
                continue
            for made in list(_operations(kind, place, reader)):
                yield _record(name, kind.name, key, made)


def _record(space: SpaceName, datatype: str, key: str, made: _Made) -> Record:
    operation, arguments, entry, sibling = made
    view = describe(entry)
    record: Record = {
        "space": list(space),
        "type": datatype,
        "key": key,
        "operation": operation,
        "arguments": [thaw(argument) for argument in arguments],
        "author": view.author,
        "region": view.region,
        "time_us": view.physical_us,
        "dot": view.dot,
    }
    if sibling:
        record["sibling"] = True
    if view.trust:
        record["trust"] = view.trust
    if view.expires_at_us is not None:
        record["expires_at_us"] = view.expires_at_us
    # The id of the operation that wrote it says nothing outside of this cluster.
    metadata = {name: item for name, item in view.metadata.items() if name != "i"}
    if metadata:
        record["metadata"] = metadata
    return record


def _operations(kind: DataType, place: Any, reader: SpaceReader) -> Iterator[_Made]:
    """Yield what would write this place again."""
    if kind.name == "map":
        yield from _of_map(place, reader)
    elif kind.nested:
        yield from _of_fields(kind, place, reader)
    else:
        yield from _of_slot(kind, place, reader)


def _of_slot(kind: DataType, slot: Slot, reader: SpaceReader) -> Iterator[_Made]:
    live = sorted(reader.live(slot), key=canonical_order)
    if kind.name in ("register", "multi_value"):
        for entry in live:
            yield "set", (entry[1],), entry, len(live) > 1
    elif kind.name in ("flag", "flag_disable_wins"):
        yield "enable", (), live[-1], False
    else:
        yield from _of_counter(kind, slot, reader)


def _of_counter(kind: DataType, slot: Slot, reader: SpaceReader) -> Iterator[_Made]:
    latest = max(as_siblings(slot), key=canonical_order)
    value = kind.value(slot, reader)
    if kind.name == "bounded_counter":
        yield "mint", (value["available"] + value["consumed"],), latest, False
        if value["consumed"]:
            yield "consume", (value["consumed"],), latest, False
    else:
        yield ("decrement" if value < 0 else "increment"), (abs(value),), latest, False


def _of_fields(kind: DataType, place: Mapping[Field, Slot], reader: SpaceReader) -> Iterator[_Made]:
    if kind.name in ("set", "set_remove_wins"):
        for field in sorted(place, key=str):
            if kind.exists({field: place[field]}, reader):
                entry = max(reader.live(place[field]), key=canonical_order)
                yield "add", (field_element(field),), entry, False
        return
    entries = [entry for slot in place.values() for entry in reader.live(slot)]
    for entry in sorted(entries, key=canonical_order):
        if kind.name == "log":
            yield "append", (entry[1],), entry, False
        else:  # A document's compacted update is the one item of a tuple.
            yield "update", entry[1] if type(entry[1]) is tuple else (entry[1],), entry, False


def _of_map(place: Mapping[Field, Slot], reader: SpaceReader) -> Iterator[_Made]:
    """Yield the operations of every member, each in the way of its own datatype."""
    members: dict[tuple[tuple[str, ...], int], Any] = {}
    for field, slot in place.items():
        member = parse_field(field)
        if member is None:
            continue
        at = (member.path, member.datatype)
        if member.field is None:
            members[at] = slot
        else:
            members.setdefault(at, {})[member.field] = slot
    for (path, code), inner in sorted(members.items(), key=lambda item: item[0]):
        kind = DATATYPES_BY_CODE.get(code)
        if kind is None or not kind.exists(inner, reader):
            continue
        for operation, arguments, entry, sibling in _operations(kind, inner, reader):
            if kind.name == "register":
                yield "set", (path, *arguments), entry, sibling
            else:
                yield "apply", (path, kind.name, operation, *arguments), entry, sibling


# ------------------------------------------------------------------ reading it back


def record_transaction(records: Iterable[Record], limits: Limits) -> Transaction:
    """Return the transaction that writes some records again: of one author and trust.

    Its operation id is drawn from the records' dots, so that importing the same
    records in the same groups twice counts once. Raises ``InvalidValue`` for a
    record that is none.
    """
    listed = [_check_record(record) for record in records]
    first = listed[0]
    identity = hashlib.blake2b(digest_size=16)
    transaction = Transaction(author=first.get("author", ""), trust=first.get("trust", 0))
    for record in listed:
        kind = DATATYPES[record["type"]]
        metadata = dict(record.get("metadata", {}))
        metadata.pop("i", None)
        if "dot" in record:
            metadata.setdefault("o", record["dot"])
        options = Options(
            observed=frozenset() if record.get("sibling") else None,
            expires_at_us=record.get("expires_at_us"),
            metadata=metadata,
        )
        identity.update(repr((record.get("dot"), record["operation"])).encode())
        transaction.add(
            Operation(
                check_space(record["space"], limits),
                kind.code,
                record["key"],
                record["operation"],
                tuple(record["arguments"]),
                options,
            )
        )
    if all("dot" in record for record in listed):
        transaction.operation_id = identity.digest()
    return transaction


def _check_record(record: Any) -> Record:
    fine = (
        type(record) is dict
        and record.keys() <= _FIELDS
        and type(record.get("space")) is list
        and record.get("type") in DATATYPES
        and type(record.get("key")) is str
        and type(record.get("operation")) is str
        and not record["operation"].startswith("_")
        and type(record.get("arguments")) is list
        and type(record.get("author", "")) is str
        and type(record.get("trust", 0)) is int
        and type(record.get("dot", "")) is str
        and type(record.get("metadata", {})) is dict
        and type(record.get("expires_at_us", 0)) is int
    )
    if not fine:
        raise InvalidValue(
            f"{record!r:.120} is no exported record",
            hint="a record has space, type, key, operation and arguments, as export writes them",
        )
    return record  # type: ignore[no-any-return]


def to_json(value: Any) -> Any:
    """Return a value in a form that JSON can carry."""
    kind = type(value)
    if kind is bytes:
        return {"$bytes": base64.b64encode(value).decode("ascii")}
    if kind is float and not math.isfinite(value):
        return {"$float": str(value)}
    if kind is list or kind is tuple:
        return [to_json(item) for item in value]
    if kind is dict:
        body = {name: to_json(item) for name, item in value.items()}
        return {"$dict": body} if any(tag in value for tag in _TAGS) else body
    return value


def from_json(value: Any) -> Any:
    """Return the value that ``to_json`` was given; raises ``InvalidValue``."""
    kind = type(value)
    if kind is list:
        return [from_json(item) for item in value]
    if kind is not dict:
        return value
    if len(value) == 1:
        ((tag, body),) = value.items()
        try:
            if tag == "$bytes":
                return base64.b64decode(body, validate=True)
            if tag == "$float" and body in ("nan", "inf", "-inf"):
                return float(body)
            if tag == "$dict":
                return {name: from_json(item) for name, item in body.items()}
        except (TypeError, ValueError, AttributeError) as error:
            raise InvalidValue(
                f"{value!r:.80} is no {tag}: {error}", hint='write what is meant as {"$dict": …}'
            ) from error
    return {name: from_json(item) for name, item in value.items()}
