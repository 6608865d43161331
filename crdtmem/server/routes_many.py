"""Routes to more than one value: spaces, policies, transactions, reads, conflicts, exports.

A transaction is one commit; several reads are one look: they are answered from one moment,
once ``X-Context`` has been joined.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from crdtmem.batch import SpaceName
from crdtmem.causality import Context
from crdtmem.control_frames import ANSWER_BYTES, encode_body
from crdtmem.crdt import DATATYPES
from crdtmem.errors import CrdtmemError, InvalidToken, LimitExceeded
from crdtmem.operations import encode_context
from crdtmem.policy import DEFAULT_POLICY, SYSTEM_SPACE, Policy, policy_key
from crdtmem.reading import Reading
from crdtmem.server.answers import (
    Conflicts,
    ContextAnswer,
    Names,
    PolicyAnswer,
    Reads,
    Written,
)
from crdtmem.server.exchange import CONTEXT, HEADERS, Exchange
from crdtmem.server.negotiation import encode
from crdtmem.server.operations import STEPS, Body, Labels
from crdtmem.server.routes_values import (
    READ_HEADERS,
    READ_REFUSALS,
    WRITE_HEADERS,
    WRITE_REFUSALS,
    commit,
    cursor_of,
    position_of,
    reading_value,
)
from crdtmem.server.routing import Route, space_of
from crdtmem.transaction import Operation
from crdtmem.verbs import conflict_position

__all__ = [
    "NDJSON",
    "ROUTES",
    "ConflictsQuery",
    "ContextQuery",
    "PutPolicy",
    "ReadMany",
    "ReadOne",
    "SpaceQuery",
    "Transact",
]

NDJSON: Final = "application/x-ndjson"

_MOST_READS: Final = 1_000
_MOST_CONFLICTS: Final = 1_000
_USUAL_CONFLICTS: Final = 100
_CONFLICT_FIELDS: Final = (
    "space", "datatype", "key", "field", "resolver", "value", "siblings"
)  # fmt: skip
_REGISTER: Final = DATATYPES["register"].code


class _Query(BaseModel):
    model_config = ConfigDict(extra="forbid")


class SpaceQuery(_Query):
    """Of which space; of all if it is not named."""

    space: str | None = Field(None, description="Labels joined by commas, each percent-encoded.")


class ConflictsQuery(SpaceQuery):
    """Which page of the conflicts."""

    cursor: str | None = Field(None, description="Where the page before this one ended.")
    limit: int = Field(_USUAL_CONFLICTS, ge=1, le=_MOST_CONFLICTS, description="Most conflicts.")


class ContextQuery(_Query):
    """What is waited for."""

    at_least: str | None = Field(None, description="Wait until this context has been joined.")
    timeout_ms: int = Field(10_000, ge=0, le=86_400_000, description="How long at most.")


class PutPolicy(Body):
    """A space's policy, to replace what it has."""

    resolver: str = Field("latest", description="What makes one value of several.")
    resolver_version: int = Field(1, ge=1, lt=1 << 63)
    trust_ordered: bool = Field(False, description="No write supersedes one of higher trust.")
    quota_keys: Annotated[int, Field(ge=0, lt=1 << 63)] | None = Field(
        None, description="Most keys that a local write may leave the space with."
    )
    quota_entries: Annotated[int, Field(ge=0, lt=1 << 63)] | None = Field(
        None, description="Most live entries that a local write may leave the space with."
    )


class Transact(Body):
    """Operations that become visible all at once, everywhere."""

    operations: Annotated[list[STEPS], Field(strict=False, min_length=1)]


class ReadOne(Body):
    """One key to be read."""

    space: Labels
    datatype: Literal[tuple(DATATYPES)] = "register"  # type: ignore[valid-type]
    key: str = Field(min_length=1)


class ReadMany(Body):
    """Keys to be read at one moment."""

    reads: Annotated[list[ReadOne], Field(strict=False, max_length=_MOST_READS)]
    siblings: bool = Field(False, description="Also show every live entry, with its author.")


def _space(text: str | None) -> SpaceName | None:
    """Return the space that a query names, if any."""
    return None if text is None else space_of(text)


# ------------------------------------------------------------------ spaces


async def _list_spaces(exchange: Exchange) -> web.StreamResponse:
    """Name the spaces that hold anything."""
    context = await exchange.joined()
    return exchange.reply({"spaces": await exchange.ask("spaces", ())}, context=context)


async def _read_policy(exchange: Exchange) -> web.StreamResponse:
    """Tell a space's policy, once ``X-Context`` has been joined."""
    body = (
        SYSTEM_SPACE,
        _REGISTER,
        policy_key(exchange.space),
        encode_context(exchange.at_least()),
        exchange.timeout_ms(),
    )
    reading: Reading = await exchange.ask("read", body)
    policy = Policy.from_value(reading.value) if reading.exists else DEFAULT_POLICY
    return exchange.reply(
        {"policy": policy.as_value(), "is_default": not reading.exists},
        context=str(reading.context),
    )


async def _put_policy(exchange: Exchange) -> web.StreamResponse:
    """Replace a space's policy, in every region."""
    put: PutPolicy = await exchange.body()
    policy = Policy(**put.model_dump())
    key = policy_key(exchange.space)
    return await commit(
        exchange, [Operation(SYSTEM_SPACE, _REGISTER, key, "set", (policy.as_value(),))]
    )


# ------------------------------------------------------------------ several at once


async def _transact(exchange: Exchange) -> web.StreamResponse:
    """Commit several operations as one."""
    body: Transact = await exchange.body()
    return await commit(exchange, [step.operation(exchange.plain) for step in body.operations])


async def _read_many(exchange: Exchange) -> web.StreamResponse:
    """Read several keys at one moment."""
    body: ReadMany = await exchange.body()
    # From here on nothing is waited for: all readings are of one state.
    context = await exchange.joined()
    readings = []
    size_bytes = 0
    for one in body.reads:
        code = DATATYPES[one.datatype].code
        reading = await exchange.ask("read", (tuple(one.space), code, one.key, None, 0))
        shown = reading_value(reading, siblings=body.siblings)
        # Known before all of it is at hand: a few requests would else take the node's memory.
        size_bytes += len(encode_body(shown))
        if size_bytes > ANSWER_BYTES:
            raise LimitExceeded(
                f"what these keys hold takes over {ANSWER_BYTES} bytes",
                hint="ask for fewer keys at once",
            )
        readings.append(shown)
    return exchange.reply({"context": context, "readings": readings}, context=context)


async def _list_conflicts(exchange: Exchange) -> web.StreamResponse:
    """Return a page of the places that hold concurrent values: of so many, or so many bytes."""
    page = exchange.query()
    after = position_of(page.cursor, tuple)
    if after is not None:
        try:
            conflict_position(after)
        except CrdtmemError as error:
            raise InvalidToken("a cursor of another list", hint="pass it unchanged") from error
    context = await exchange.joined()
    rows: list[dict[str, Any]] = []

    async def take(part: list[Any]) -> None:
        rows.extend(dict(zip(_CONFLICT_FIELDS, row, strict=True)) for row in part)

    last = await exchange.ask("conflicts", (_space(page.space), after, page.limit), take)
    cursor = None if last is None else cursor_of(last)
    return exchange.reply({"conflicts": rows, "cursor": cursor}, context=context)


async def _read_context(exchange: Exchange) -> web.StreamResponse:
    """Tell what the node has joined, once it has joined what was asked for."""
    query = exchange.query()
    if query.at_least is not None:
        wanted = encode_context(Context.parse(query.at_least))
        await exchange.ask("wait", (wanted, query.timeout_ms))
    token = await exchange.joined()
    return exchange.reply({"context": token}, context=token)


# ------------------------------------------------------------------ export


async def _export(exchange: Exchange) -> web.StreamResponse:
    """Stream a record per live entry, as lines of JSON.

    What goes wrong on the way cuts the answer short, so that nobody takes a part for all.
    """
    space = _space(exchange.query().space)
    context = await exchange.joined()
    answer = web.StreamResponse(headers={**HEADERS, "Content-Type": NDJSON, CONTEXT: context})

    async def write(records: list[dict[str, Any]]) -> None:
        if not answer.prepared:
            await answer.prepare(exchange.request)
        lines = [encode(record) for record in records]
        await answer.write(b"\n".join([*lines, b""]))

    async def work() -> None:
        await exchange.ask("export", (space,), write)

    await exchange.face.stream(exchange, work(), answer)
    if not answer.prepared:
        # There was nothing to export.
        await answer.prepare(exchange.request)
    return answer


# ------------------------------------------------------------------ the table

ROUTES: Final = (
    Route(
        "GET", "/v1/spaces", "list_spaces", "List the spaces that hold anything.", _list_spaces,
        tag="spaces", answer=Names, headers=READ_HEADERS, refusals=READ_REFUSALS,
    ),
    Route(
        "GET", "/v1/spaces/{space}/policy", "read_policy", "Read a space's policy.", _read_policy,
        tag="spaces", answer=PolicyAnswer, headers=READ_HEADERS, refusals=READ_REFUSALS,
    ),
    Route(
        "PUT", "/v1/spaces/{space}/policy", "put_policy", "Replace a space's policy.", _put_policy,
        description="In every region. What is not given takes its default.",
        tag="spaces", answer=Written, body=PutPolicy,
        headers=WRITE_HEADERS, refusals=WRITE_REFUSALS,
    ),
    Route(
        "POST", "/v1/transactions", "transact", "Commit several operations as one.", _transact,
        description="All become visible at once, in every region, or none does. An operation sees "
        "what those before it did.",
        tag="many", answer=Written, body=Transact, headers=WRITE_HEADERS, refusals=WRITE_REFUSALS,
    ),
    Route(
        "POST", "/v1/reads", "read_many", "Read several keys at one moment.", _read_many,
        description="In the order in which they were asked for.",
        tag="many", answer=Reads, body=ReadMany, headers=READ_HEADERS, refusals=READ_REFUSALS,
    ),
    Route(
        "GET", "/v1/conflicts", "list_conflicts", "List what holds concurrent values.",
        _list_conflicts, description="A page may hold fewer than `limit` where they are large.",
        tag="many", answer=Conflicts, query=ConflictsQuery, headers=READ_HEADERS,
        refusals=READ_REFUSALS,
    ),
    Route(
        "GET", "/v1/context", "read_context", "Tell, or wait for, what the node has joined.",
        _read_context, tag="many", answer=ContextAnswer, query=ContextQuery,
        headers=READ_HEADERS, refusals=READ_REFUSALS,
    ),
    Route(
        "GET", "/v1/export", "export", "Stream a record per live entry.", _export,
        description="A line of JSON each: `space`, `type`, `key`, the `operation` and `arguments` "
        "that would write it again, `author`, `region`, `time_us`, `dot`. An answer that was cut "
        "short has no last chunk.",
        tag="many", query=SpaceQuery, media=NDJSON, headers=READ_HEADERS, refusals=READ_REFUSALS,
    ),
)  # fmt: skip
