"""The change feed as Server-Sent Events: a stream that any language's HTTP client can read.

One event per part of the feed (see ``crdtmem.changes``): whole transactions, and as ``id``
the cursor from which to go on after them. A reader that comes back says the last ``id`` it
saw, as ``Last-Event-ID``, which browsers' and most libraries' readers do by themselves, and
misses nothing. Three kinds of event:

* ``changes``: ``{"cursor", "changes": […]}``. In pieces of a very large batch but the last
  the cursor is null and there is no ``id``: nobody can go on in the middle.
* ``lagging``: ``{"lagging": n}``: the reader is too slow. It is told so once, and then goes
  on out of the log, losing nothing.
* ``problem``: why the feed has ended. After ``history_gap`` one reads the state again, and
  goes on from ``resume``.

The first event has no changes, and says where the feed begins. A comment every few seconds
keeps proxies from taking silence for death, and finds readers that are gone.

Invariants: an event is written when the reader has room for it; a feed that ends says why,
or its connection was lost and ``Last-Event-ID`` is good.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Final

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from crdtmem.causality import Context
from crdtmem.changes import Change
from crdtmem.errors import CrdtmemError
from crdtmem.operations import decode_context, encode_context
from crdtmem.server.exchange import HEADERS, Exchange
from crdtmem.server.negotiation import encode
from crdtmem.server.problems import problem_of
from crdtmem.server.routing import Route, space_of

__all__ = [
    "EVENT_STREAM",
    "ROUTES",
    "FeedQuery",
    "MemberQuery",
]

EVENT_STREAM: Final = "text/event-stream"

_ABOUT: Final = """\
Server-Sent Events. `changes` holds `{"cursor", "changes": [{"space", "datatype", "key", "dot",
"removed", "author", "region", "time_us"}]}`: whole transactions, never values; its `id` is the
cursor from which to go on, as `Last-Event-ID`, on any node. The first has no changes, and says
where the feed begins. `lagging` says once that the reader is too slow, and loses nothing.
`problem` says why the feed ended: after `history_gap` read the state again, and go on from
`resume`."""
_USUAL_BATCHES: Final = 1_000
_MOST_BATCHES: Final = 100_000
_SILENCE_S: Final = 15.0
_HEADERS: Final = {
    "Content-Type": EVENT_STREAM,
    # Says to the usual proxy that this is not to be collected before it is passed on.
    "X-Accel-Buffering": "no",
}


class FeedQuery(BaseModel):
    """Of which space, and from where on."""

    model_config = ConfigDict(extra="forbid")

    space: str | None = Field(None, description="Labels joined by commas; all if not named.")
    after: str | None = Field(
        None, description="The context from which to go on; Last-Event-ID, if sent, wins."
    )
    limit_batches: int = Field(
        _USUAL_BATCHES, ge=1, le=_MOST_BATCHES, description="How far its reader may fall behind."
    )


class MemberQuery(BaseModel):
    """Nothing may be asked for but the stream itself."""

    model_config = ConfigDict(extra="forbid")


class _Events:
    """Writes events, from two tasks, one at a time."""

    def __init__(self, exchange: Exchange) -> None:
        self._request = exchange.request
        self._turn = asyncio.Lock()
        self.answer = web.StreamResponse(headers={**HEADERS, **_HEADERS})

    async def send(self, name: str, value: Any, cursor: str | None = None) -> None:
        """Write one event, when the reader has room."""
        # No line break is in it: within text of JSON it is written \\n.
        lines = [b"event: ", name.encode(), b"\ndata: ", encode(value, safe=True)]
        if cursor is not None:
            lines += (b"\nid: ", cursor.encode())
        await self._write(b"".join([*lines, b"\n\n"]))

    async def breathe(self) -> None:
        """Write a comment now and then, until the reader is gone."""
        while self._request.transport is not None:
            await asyncio.sleep(_SILENCE_S)
            with contextlib.suppress(ConnectionError):
                await self._write(b": still here\n\n")

    async def _write(self, data: bytes) -> None:
        async with self._turn:
            if not self.answer.prepared:
                await self.answer.prepare(self._request)
            await self.answer.write(data)


async def _changes(exchange: Exchange) -> web.StreamResponse:
    """Stream what is published, from a cursor on or from now on."""
    query = exchange.query()
    token = exchange.request.headers.get("Last-Event-ID") or query.after
    after = None if token is None else Context.parse(token)
    space = None if query.space is None else space_of(query.space)
    body = (space, query.limit_batches, encode_context(after))
    events = _Events(exchange)

    async def write(part: Any) -> None:
        where, rest = part
        if where == "lagging":
            await events.send("lagging", {"lagging": rest})
            return
        cursor = None if where is None else str(decode_context(where))
        found = [dict(zip(Change.__slots__, change, strict=True)) for change in rest]
        await events.send("changes", {"cursor": cursor, "changes": found}, cursor)

    return await _serve(exchange, events, "subscribe", body, write)


async def _member_changes(exchange: Exchange) -> web.StreamResponse:
    """Stream what becomes of members."""
    exchange.query()
    events = _Events(exchange)

    async def write(part: Any) -> None:
        await events.send("members", list(part))

    return await _serve(exchange, events, "member_changes", (), write)


async def _serve(
    exchange: Exchange, events: _Events, verb: str, body: Any, write: Any
) -> web.StreamResponse:
    async def work() -> None:
        breathing = asyncio.ensure_future(events.breathe())
        try:
            await exchange.ask(verb, body, write)
        except CrdtmemError as error:
            if not events.answer.prepared:
                raise
            _, problem, _ = problem_of(error)
            await events.send("problem", problem)
        finally:
            breathing.cancel()

    await exchange.face.stream(exchange, work(), events.answer)
    return events.answer


ROUTES: Final = (
    Route(
        "GET", "/v1/changes", "changes", "Stream what is published.", _changes,
        description=_ABOUT, tag="feeds", query=FeedQuery, media=EVENT_STREAM,
        headers=("Last-Event-ID",),
        refusals=frozenset({410, 429}),
    ),
    Route(
        "GET", "/v1/members/changes", "member_changes", "Stream what becomes of members.",
        _member_changes, tag="feeds", query=MemberQuery, media=EVENT_STREAM,
    ),
)  # fmt: skip
