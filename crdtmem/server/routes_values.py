"""Routes to values: read a key, write it, delete it, list keys; for every datatype.

Each datatype has paths of its own, so that the description says of each which operations
it has and with which fields.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any, Final

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from crdtmem.batch import pack_keys
from crdtmem.causality import Observed
from crdtmem.codec import pack
from crdtmem.control_frames import decode_body, encode_body
from crdtmem.crdt import DATATYPES
from crdtmem.entries import unpack_dot
from crdtmem.errors import InvalidToken, InvalidValue, MalformedFrame
from crdtmem.operations import encode_context, encode_transaction, encode_write_options
from crdtmem.policy import SYSTEM_SPACE
from crdtmem.reading import Reading
from crdtmem.replica import Committed
from crdtmem.server.answers import Keys, ReadAnswer, Written
from crdtmem.server.exchange import Exchange
from crdtmem.server.negotiation import json_form
from crdtmem.server.operations import BODIES, Change, PutValue
from crdtmem.server.routing import Route
from crdtmem.transaction import Operation, Options, Transaction

__all__ = [
    "READ_HEADERS",
    "READ_REFUSALS",
    "ROUTES",
    "WRITE_HEADERS",
    "WRITE_REFUSALS",
    "DeleteQuery",
    "PageQuery",
    "ReadQuery",
    "commit",
    "cursor_of",
    "position_of",
    "reading_value",
]

READ_HEADERS: Final = ("X-Context", "X-Timeout-Ms")
WRITE_HEADERS: Final = (
    *READ_HEADERS,
    "X-Author",
    "X-Trust",
    "X-Durability",
    "Idempotency-Key",
)
READ_REFUSALS: Final = frozenset({412, 429})
WRITE_REFUSALS: Final = frozenset({202, 404, 409, 412, 413, 429, 507})

_READING: Final = (
    "What is not there is no error: `exists` is false. `contested` says that concurrent values are "
    "kept; `observed` lets a later write refer to just what was seen."
)
_WRITING: Final = (
    "Durable on this node when it is answered. Without `observed` or `expect` it supersedes "
    "whatever this node holds of it at that moment. 202 says that it was taken, and is not yet as "
    "widely durable as `X-Durability` asks."
)
_MOST_KEYS: Final = 10_000
_USUAL_KEYS: Final = 1_000
_WORD_BITS: Final = 64
_REGISTERS: Final = frozenset(DATATYPES[name].code for name in ("register", "multi_value"))


class ReadQuery(BaseModel):
    """How much of a key is shown."""

    model_config = ConfigDict(extra="forbid")

    siblings: bool = Field(False, description="Also show every live entry, with its author.")


class DeleteQuery(BaseModel):
    """What a delete refers to."""

    model_config = ConfigDict(extra="forbid")

    observed: str | None = Field(None, description="Remove just what that read returned.")
    expect: str | None = Field(None, description="Refuse unless the key still holds just that.")


class PageQuery(BaseModel):
    """Which page of a list."""

    model_config = ConfigDict(extra="forbid")

    cursor: str | None = Field(None, description="Where the page before this one ended.")
    limit: int = Field(_USUAL_KEYS, ge=1, le=_MOST_KEYS, description="Most items of a page.")


# ------------------------------------------------------------------ cursors


def cursor_of(position: Any) -> str:
    """Return the printable form of a position in a list."""
    return base64.urlsafe_b64encode(encode_body(position)).decode("ascii").rstrip("=")


def position_of(cursor: str | None, *kinds: type) -> Any:
    """Return the position that a cursor names; raises ``InvalidToken``."""
    if cursor is None:
        return None
    try:
        data = base64.b64decode(
            cursor.encode("ascii") + b"=" * (-len(cursor) % 4), altchars=b"-_", validate=True
        )
    except (ValueError, binascii.Error) as error:
        raise InvalidToken("a cursor that no page gave", hint="pass it unchanged") from error
    try:
        position = decode_body(data)
    except MalformedFrame as error:
        raise InvalidToken("a cursor that no page gave", hint="pass it unchanged") from error
    if type(position) not in kinds:
        raise InvalidToken("a cursor of another list", hint="pass it unchanged")
    return position


# ------------------------------------------------------------------ reading


def reading_value(reading: Reading, *, siblings: bool) -> dict[str, Any]:
    """Return a reading as an answer."""
    value = {
        "value": reading.value,
        "exists": reading.exists,
        "contested": reading.contested,
        "resolver": reading.resolver,
        "unknown_resolver": reading.unknown_resolver,
        "also": list(reading.also),
        "observed": str(reading.observed),
    }
    if siblings:
        value["siblings"] = [sibling.as_value() for sibling in reading.siblings]
    return value


async def _read_key(exchange: Exchange) -> web.StreamResponse:
    """Read one key, once ``X-Context`` has been joined."""
    siblings = exchange.query().siblings if exchange.target.query else False
    body = (
        exchange.space,
        DATATYPES[exchange.route.datatype].code,
        exchange.key,
        encode_context(exchange.at_least()),
        exchange.timeout_ms(),
    )
    reading: Reading = await exchange.ask("read", body)
    answer = reading_value(reading, siblings=siblings)
    if not siblings and not exchange.msgpack:
        # Nothing else of it can hold what JSON lacks.
        answer["value"] = json_form(answer["value"])
    return exchange.reply(answer, context=str(reading.context), safe=not siblings)


async def _list_keys(exchange: Exchange) -> web.StreamResponse:
    """Return a page of keys."""
    page = exchange.query()
    after = position_of(page.cursor, str)
    code = DATATYPES[exchange.route.datatype].code
    context = await exchange.joined()
    # One more than asked for tells whether there is another page.
    keys = await exchange.gather("keys", (exchange.space, code, after or "", page.limit + 1))
    more = len(keys) > page.limit
    keys = keys[: page.limit]
    cursor = cursor_of(keys[-1]) if more else None
    return exchange.reply({"keys": keys, "cursor": cursor}, context=context, safe=True)


# ------------------------------------------------------------------ writing


async def commit(exchange: Exchange, operations: list[Operation]) -> web.StreamResponse:
    """Commit operations as one transaction, under the headers of a write."""
    options = exchange.write_options()
    transaction = Transaction(
        author=options.author, trust=options.trust, operation_id=options.operation_id
    )
    plain = len(operations) == 1 and _is_plain(operations[0])
    if plain:
        _add_run(transaction, operations[0])
    else:
        transaction.steps += operations
    sent = (encode_write_options(options), _as_sent(encode_transaction(transaction)))
    committed: Committed = await exchange.ask("commit", sent)
    context = str(committed.context)
    # A run of writes tells no results: that of its one write is its dot.
    results = [committed.first] if plain and not committed.repeated else committed.results
    answer = {
        "context": context,
        "results": [_result(result) for result in results],
        "first": str(unpack_dot(committed.first)) if committed.count else None,
        "count": committed.count,
        "repeated": committed.repeated,
    }
    return exchange.reply(answer, context=context, safe=True)


def _is_plain(operation: Operation) -> bool:
    """Tell whether an operation can be written as a run: a quarter of a write's cost less."""
    return (
        operation.name == "set"
        and operation.options is None
        and operation.datatype in _REGISTERS
        # Of that space, what may be written is told by the keys of operations.
        and operation.space != SYSTEM_SPACE
    )


def _add_run(transaction: Transaction, operation: Operation) -> None:
    transaction.put(operation.space, operation.datatype, operation.key, operation.arguments[0])
    run = transaction.run(operation.space, operation.datatype)
    run.packed_keys, run.packed_values = pack_keys(run.keys), pack(run.values)


def _as_sent(transaction: list[Any]) -> tuple[Any, ...]:
    """Return an encoded transaction as it would have come over a socket: arrays as tuples."""
    *shared, steps = transaction
    sent: list[tuple[Any, ...]] = []
    for step in steps:
        *place, options = step
        if type(options) is bytes:
            # A run: its columns are packed.
            sent.append(step)
            continue
        if options is not None and options[0] is not None:
            dots, *rest = options
            options = (tuple(dots), *rest)
        sent.append((*place, options))
    return (*shared, tuple(sent))


def _result(result: Any) -> Any:
    """Return an operation's result; dots, which are wider than any number of it, as text."""
    if type(result) is int and result >> _WORD_BITS:
        return str(unpack_dot(result))
    if type(result) is list or type(result) is tuple:
        return [_result(item) for item in result]
    return result


async def _change_key(exchange: Exchange) -> web.StreamResponse:
    """Carry out one operation on one key."""
    change: Change = await exchange.body()
    datatype = exchange.route.datatype
    return await commit(
        exchange, [change.at(exchange.space, datatype, exchange.key, exchange.plain)]
    )


async def _put_key(exchange: Exchange) -> web.StreamResponse:
    """Write one register."""
    put: PutValue = await exchange.body()
    datatype = exchange.route.datatype
    return await commit(exchange, [put.at(exchange.space, datatype, exchange.key, exchange.plain)])


async def _delete_key(exchange: Exchange) -> web.StreamResponse:
    """Remove what was observed of one key."""
    query = exchange.query()
    if query.observed is not None and query.expect is not None:
        raise InvalidValue("observed and expect together", hint="give one of them")
    token = query.observed if query.expect is None else query.expect
    options = None
    if token is not None:
        dots = Observed.parse(token).dots
        options = Options(observed=dots, conditional=query.expect is not None)
    code = DATATYPES[exchange.route.datatype].code
    operation = Operation(exchange.space, code, exchange.key, "delete", (), options)
    return await commit(exchange, [operation])


# ------------------------------------------------------------------ the table


def _routes_of(datatype: str) -> list[Route]:
    keys, path = f"/v1/spaces/{{space}}/{datatype}", f"/v1/spaces/{{space}}/{datatype}/{{key}}"
    shared: dict[str, Any] = {"tag": datatype, "datatype": datatype}
    writing: dict[str, Any] = {
        **shared,
        "answer": Written,
        "headers": WRITE_HEADERS,
        "refusals": WRITE_REFUSALS,
    }
    routes = [
        Route(
            "GET", keys, f"list_{datatype}", f"List the keys of a space's {datatype}s.", _list_keys,
            answer=Keys, query=PageQuery, headers=READ_HEADERS, refusals=READ_REFUSALS, **shared,
        ),
        Route(
            "GET", path, f"read_{datatype}", f"Read a {datatype}.", _read_key,
            description=_READING,
            answer=ReadAnswer, query=ReadQuery, headers=READ_HEADERS, refusals=READ_REFUSALS,
            **shared,
        ),
        Route(
            "POST", path, f"change_{datatype}", f"Carry out an operation on a {datatype}.",
            _change_key, body=BODIES[datatype], description=_WRITING, **writing,
        ),
        Route(
            "DELETE", path, f"delete_{datatype}", f"Remove what is held of a {datatype}.",
            _delete_key, query=DeleteQuery, description=_WRITING, **writing,
        ),
    ]  # fmt: skip
    if datatype in ("register", "multi_value"):
        routes.append(
            Route(
                "PUT", path, f"put_{datatype}", f"Write a {datatype}.", _put_key,
                body=PutValue, description=_WRITING, **writing,
            )
        )  # fmt: skip
    return routes


ROUTES: Final = tuple(route for datatype in DATATYPES for route in _routes_of(datatype))
