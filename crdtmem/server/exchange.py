"""One request and its answer: what a route's handler works with.

Problem: every operation reads the same headers, checks bodies and queries against models,
asks verbs, and writes JSON or MessagePack; done in each handler, each would do it a little
differently.

Idea: an ``Exchange`` reads what the route declares, and nothing else. Models are compiled
validators that read the bytes of a JSON body directly; headers are a table of parsers.

Headers in, where a route reads them: ``X-Context`` (joined before the request is carried
out), ``X-Timeout-Ms`` (how long that and durability may take), ``X-Author``, ``X-Trust``,
``X-Durability``, ``Idempotency-Key`` (becomes the replicated operation id: a write that is
sent again with it counts once, through whichever node). Out: ``X-Context``.

Invariants: a body is read only as far as it may be long, and only for as long as it may
take; what is not declared is refused, not ignored; values leave as they were stored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl

from aiohttp import web
from pydantic import ValidationError

from crdtmem.asking import Handler
from crdtmem.causality import Context
from crdtmem.errors import CrdtmemError, InvalidValue, UnknownName
from crdtmem.handles import WriteOptions
from crdtmem.operations import decode_context, encode_context
from crdtmem.server.connection import Connection
from crdtmem.server.negotiation import (
    JSON,
    MSGPACK,
    decode_msgpack,
    encode,
    is_json_body,
    prefers_msgpack,
    value_of_json,
)
from crdtmem.server.problems import Refusal
from crdtmem.server.question import ask
from crdtmem.server.routing import Found, Route, space_of, text_of

if TYPE_CHECKING:
    from crdtmem.server.http import HttpFace

__all__ = ["CONTEXT", "DURABILITIES", "HEADERS", "Exchange"]

CONTEXT: Final = "X-Context"
HEADERS: Final = {"Cache-Control": "no-store", "Server": "crdtmem"}
"""Headers of every answer."""

DURABILITIES: Final = ("local", "region", "majority", "all")

_LONGEST_WAIT_MS: Final = 24 * 3_600_000
_USUAL_WAIT_MS: Final = 10_000
_QUERY_FIELDS: Final = 16
_OPERATION_ID_BYTES: Final = 64
_FAULTS_SHOWN: Final = 10
_UNKNOWN_CONDITIONS: Final = ("If-Match", "If-None-Match", "If-Unmodified-Since")
"""Nothing here has an entity tag: a write that insists on one must not go on without."""

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


def _itself(value: Any) -> Any:
    return value


class Exchange:
    """One request being answered. ``plain`` turns a value of its body into what is stored."""

    __slots__ = ("face", "plain", "request", "route", "target")

    def __init__(self, face: HttpFace, request: web.BaseRequest, found: Found) -> None:
        self.face = face
        self.request = request
        self.target = found
        self.route: Route = found.route
        self.plain: Callable[[Any], Any] = value_of_json

    # ------------------------------------------------------------------ what was asked

    @property
    def space(self) -> tuple[str, ...]:
        """The labels of the space in the path."""
        return space_of(self.target.variables[0])

    @property
    def key(self) -> str:
        """The key in the path."""
        return text_of(self.target.variables[1])

    def query(self) -> Any:
        """Return the query as the route's model; raises ``Refusal`` or ``InvalidValue``."""
        try:
            fields = parse_qsl(
                self.target.query,
                keep_blank_values=True,
                strict_parsing=bool(self.target.query),
                errors="strict",
                max_num_fields=_QUERY_FIELDS,
            )
        except ValueError as error:
            raise Refusal(
                400, "malformed_query", f"the query is malformed: {error}", hint="write NAME=VALUE"
            ) from error
        given = dict(fields)
        if len(given) < len(fields):
            raise Refusal(
                400, "malformed_query", "the query names a parameter twice", hint="name each once"
            )
        assert self.route.query is not None
        try:
            return self.route.query.model_validate_strings(given)
        except ValidationError as error:
            raise _misfit("query", error) from error

    def no_query(self) -> None:
        """Refuse a query where the route has none."""
        if self.target.query and self.route.query is None:
            raise Refusal(
                400, "malformed_query", "this operation takes no query", hint="see /openapi.json"
            )

    def no_body(self) -> None:
        """Refuse a body where the route has none: what it says would go unheard."""
        if self.route.body is None and self.request.can_read_body:
            raise Refusal(
                400, "malformed_request", "this operation takes no body", hint="see /openapi.json"
            )

    async def body(self) -> Any:
        """Return the body as the route's model; raises ``Refusal`` or ``InvalidValue``."""
        data = await self._received()
        reader = self.route.reader
        assert reader is not None
        content_type = self.request.headers.get("Content-Type")
        if not data and not self.route.body_required:
            # Some clients name a type for what is not there.
            content_type, data = JSON, b"{}"
        headers = self.request.headers
        coded = headers.get("Transfer-Encoding", "chunked").lower() != "chunked"
        if coded or headers.get("Content-Encoding", "identity") != "identity":
            raise Refusal(
                415,
                "unsupported_media_type",
                "a compressed body is not read here",
                hint="send it as it is; how far it would swell cannot be known",
            )
        try:
            if is_json_body(content_type or ""):
                return reader.validate_json(data)
            self.plain = _itself
            return reader.validate_python(decode_msgpack(data))
        except ValidationError as error:
            raise _misfit("body", error) from error

    async def _received(self) -> bytes:
        """Return the whole body, within its bounds of size and time."""
        request, limit = self.request, self.face.body_bytes
        content = request.content
        if content.is_eof():
            # Almost always: it came in one piece with its head.
            data: bytes = content.read_nowait(-1)
            if len(data) > limit:
                raise _too_long(limit)
            return data
        if (request.content_length or 0) > limit:
            raise _too_long(limit)
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(_CONTINUE)
        body = bytearray()
        try:
            async with asyncio.timeout(self.face.receive_s):
                while chunk := await content.readany():
                    body += chunk
                    if len(body) > limit:
                        raise _too_long(limit)
        except TimeoutError as error:
            raise Refusal(
                408,
                "request_timeout",
                f"the body did not arrive within {self.face.receive_s:g} s",
                hint="send it faster, or in smaller requests",
                Connection="close",
            ) from error
        return bytes(body)

    # ------------------------------------------------------------------ headers

    def at_least(self) -> Context | None:
        """Return the context that is to be joined first, if one was given."""
        token = self.request.headers.get(CONTEXT)
        return None if token is None else Context.parse(token)

    def timeout_ms(self) -> int:
        """Return how long what is waited for may take."""
        text = self.request.headers.get("X-Timeout-Ms")
        return (
            _USUAL_WAIT_MS if text is None else _number(text, "X-Timeout-Ms", 0, _LONGEST_WAIT_MS)
        )

    def write_options(self) -> WriteOptions:
        """Return what qualifies a write, from all of the headers of a write."""
        headers = self.request.headers
        for name in _UNKNOWN_CONDITIONS:
            if name in headers:
                raise InvalidValue(
                    f"{name} is no condition that is known here",
                    hint="read the key, and pass what that returned as observed in expect",
                )
        durability = headers.get("X-Durability", "local")
        if durability not in DURABILITIES:
            raise InvalidValue(
                f"a durability of {durability!r:.40}", hint=f"use {', '.join(DURABILITIES)}"
            )
        trust = headers.get("X-Trust")
        key = headers.get("Idempotency-Key")
        return WriteOptions(
            author=headers.get("X-Author", ""),
            trust=0 if trust is None else _number(trust, "X-Trust", -(1 << 31), (1 << 31) - 1),
            durability=durability,
            timeout_ms=self.timeout_ms(),
            after=self.at_least(),
            operation_id=None if key is None else _operation_id(key),
        )

    # ------------------------------------------------------------------ asking and answering

    async def ask(
        self, verb: str, body: Any, on_part: Callable[[Any], Awaitable[None]] | None = None
    ) -> Any:
        """Ask a verb, and return its answer; raises what it answers."""
        handler: Handler = self.face.handlers[verb]
        return await ask(handler, body, on_part, self._rest)

    def _rest(self) -> None:
        """Give back what the request holds: it waits for other nodes, not for this one."""
        connection = self.request.protocol
        assert isinstance(connection, Connection)
        connection.give_back()

    async def gather(self, verb: str, body: Any) -> list[Any]:
        """Ask a verb that answers in parts, and return them joined."""
        found: list[Any] = []

        async def take(part: Any) -> None:
            found.extend(part)

        await self.ask(verb, body, take)
        return found

    async def joined(self) -> str:
        """Wait for ``X-Context``, if it was sent; return the token of what has been joined."""
        # Both are looked at whether or not there is anything to wait for.
        at_least, timeout_ms = self.at_least(), self.timeout_ms()
        if at_least is not None:
            await self.ask("wait", (encode_context(at_least), timeout_ms))
        found = await self.ask("context", ())
        return str(found if isinstance(found, Context) else decode_context(found))

    @property
    def msgpack(self) -> bool:
        """Whether the client prefers MessagePack."""
        accept = self.request.headers.get("Accept")
        return accept is not None and prefers_msgpack(accept)

    def reply(
        self,
        plain: Any,
        *,
        status: int = 200,
        context: str | None = None,
        safe: bool = False,
    ) -> web.Response:
        """Return an answer in the form that the client prefers; ``safe``: see ``encode``."""
        msgpack = self.msgpack
        named = {**HEADERS, "Content-Type": MSGPACK if msgpack else JSON}
        if context is not None:
            named[CONTEXT] = context
        body = encode(plain, msgpack=msgpack, safe=safe)
        return web.Response(body=body, status=status, headers=named)


def _too_long(limit: int) -> Refusal:
    return Refusal(
        413,
        "body_too_large",
        f"a body takes at most {limit} bytes",
        hint="split it into several requests",
        Connection="close",
    )


def _number(text: str, name: str, lowest: int, highest: int) -> int:
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 12):
        raise InvalidValue(f"{name} is {text!r:.40}", hint="write a whole number")
    if not lowest <= (number := int(text)) <= highest:
        raise InvalidValue(f"{name} is {number}", hint=f"it lies between {lowest} and {highest}")
    return number


def _operation_id(key: str) -> bytes:
    # A header's text is its bytes; quotes around it are how some write a header's string.
    if len(key) > 1 and key[0] == key[-1] == '"':
        key = key[1:-1]
    identity = key.encode("utf-8", "surrogateescape")
    if not 1 <= len(identity) <= _OPERATION_ID_BYTES:
        raise InvalidValue(
            f"an Idempotency-Key of {len(identity)} bytes",
            hint=f"draw 1 to {_OPERATION_ID_BYTES} bytes once per write, and keep them for retries",
        )
    return identity


def _misfit(what: str, error: ValidationError) -> CrdtmemError:
    """Say what does not fit a model, without quoting what was sent at length."""
    faults = [
        {"where": [str(part)[:100] for part in fault["loc"]], "what": fault["msg"][:300]}
        for fault in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    first = faults[0]
    where = ".".join(first["where"])
    if error.errors(include_url=False)[0]["type"] == "union_tag_invalid":
        # As the verb itself calls an operation, or a datatype, that there is not.
        return UnknownName(
            f"{where + ': ' if where else ''}{first['what']}",
            hint="/openapi.json names the operations of each datatype",
        )
    return InvalidValue(
        f"the {what} does not fit: {where + ': ' if where else ''}{first['what']}",
        hint="/openapi.json says what each operation takes",
        faults=faults[:_FAULTS_SHOWN],
    )
