"""A memory over plain HTTP: what another language's client of the API would be, as a ``Backend``.

It shares no code with the server but the forms of values. Operations go one by one to the
path of their key, several at once as a transaction; lists are fetched in small pages;
problems are made the errors that their codes name.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import secrets
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final
from urllib.parse import quote

import aiohttp
import msgpack
from yarl import URL

from crdtmem.batch import SpaceName
from crdtmem.causality import Context, Observed
from crdtmem.changes import Change, ChangeReader, Lagging, Part
from crdtmem.crdt import DATATYPES_BY_CODE
from crdtmem.entries import Stamp, pack_dot
from crdtmem.errors import Closed, CrdtmemError, InvalidValue, error_from_code
from crdtmem.exporting import from_json, to_json
from crdtmem.handles import Conflict, WriteOptions
from crdtmem.limits import Limits
from crdtmem.reading import Reading
from crdtmem.replica import Committed
from crdtmem.session import MemoryFace
from crdtmem.transaction import CountRun, Operation, Options, PutRun, Transaction
from crdtmem.wall import now_us

__all__ = ["HttpMemory", "error_of", "path_of"]

_FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "set": ("value",),
    "add": ("element",),
    "remove": ("element",),
    "discard": ("element",),
    "append": ("value",),
    "extend": ("values",),
    "transfer": ("amount", "to_replica"),
    **dict.fromkeys(("increment", "decrement", "mint", "burn"), ("amount",)),
    **dict.fromkeys(("consume", "release"), ("amount",)),
    **dict.fromkeys(("enable", "disable", "reset", "clear", "delete"), ()),
    "log.remove": ("dots",),
    "set.update": ("elements",),
    "set_remove_wins.update": ("elements",),
    "document.update": ("update",),
    "map.set": ("path", "value"),
    "map.update": ("values", "path"),
    "map.delete": ("path",),
}
"""What an operation's arguments are called, in their order."""

_FORM: Final = {"type", "title", "status", "detail", "code", "hint", "state_left"}
_DOT: Final = re.compile(r"[0-9a-f]{16}:[0-9]+")
_PAGE: Final = 2_000
_JSON: Final = "application/json"
_MSGPACK: Final = "application/msgpack"


def path_of(space: SpaceName, *rest: str) -> str:
    """Return the path of a space, or of what lies in it."""
    labels = ",".join(quote(label, safe="") for label in space)
    return "/".join(["/v1/spaces", labels, *(quote(name, safe="") for name in rest)])


def error_of(problem: Mapping[str, Any]) -> CrdtmemError:
    """Return the error that a problem was made of."""
    details = {name: value for name, value in problem.items() if name not in _FORM}
    return error_from_code(problem["code"], problem["detail"], problem["hint"], details)


class HttpMemory(MemoryFace):
    """A node's memory over HTTP, in JSON or in MessagePack."""

    def __init__(self, base: str, *, msgpack: bool = False) -> None:
        super().__init__(WriteOptions())
        self.base = base
        self._http = aiohttp.ClientSession()
        self._msgpack = msgpack
        self._status: dict[str, Any] = {}

    @classmethod
    async def connect(cls, base: str, *, msgpack: bool = False) -> HttpMemory:
        """Return a memory of a node that answers."""
        memory = cls(base, msgpack=msgpack)
        memory._status = await memory.ask("GET", "/v1/status")
        return memory

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close()

    # ------------------------------------------------------------------ requests

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, Any] | None = None,
    ) -> Any:
        """Send a request and return the value of its answer; raises what a problem tells."""
        named = {"Accept": _MSGPACK if self._msgpack else _JSON, **(headers or {})}
        data = None
        if body is not None:
            named["Content-Type"] = named["Accept"]
            data = io.BytesIO(self._encode(body if self._msgpack else to_json(body)))
        asked = "&".join(f"{name}={quote(str(value))}" for name, value in (query or {}).items())
        url = URL(f"{self.base}{path}{'?' if asked else ''}{asked}", encoded=True)
        async with self._http.request(method, url, data=data, headers=named) as answer:
            return self._decode(answer.status, answer.content_type, await answer.read())

    @contextlib.asynccontextmanager
    async def stream(self, path: str) -> AsyncIterator[AsyncIterator[tuple[str, Any, str | None]]]:
        """Yield the events of a stream."""
        async with self._http.get(self.base + path, timeout=_ENDLESS) as answer:
            assert answer.status == 200
            yield _events_of(answer)

    async def lines(self, path: str) -> list[str]:
        """Return the lines of an answer, as they came."""
        async with self._http.get(self.base + path) as answer:
            assert answer.content_type == "application/x-ndjson"
            return (await answer.text()).splitlines()

    def _encode(self, body: Any) -> bytes:
        _require_plain(body)
        try:
            packed: bytes = msgpack.packb(body) if self._msgpack else json.dumps(body).encode()
        except (TypeError, ValueError, OverflowError) as error:
            raise InvalidValue(f"no form carries this: {error}") from error
        return packed

    def _decode(self, status: int, kind: str, data: bytes) -> Any:
        if kind == "application/problem+json":
            problem = json.loads(data)
            assert problem["status"] == status
            raise error_of(from_json(problem))
        assert status == 200, (status, data)
        if kind == _MSGPACK:
            assert self._msgpack
            return msgpack.unpackb(data)
        assert (kind, self._msgpack) == (_JSON, False)
        return from_json(json.loads(data))

    # ------------------------------------------------------------------ Backend

    @property
    def limits(self) -> Limits:
        """The usual limits: HTTP does not tell a node's own."""
        return Limits()

    @property
    def region(self) -> str:
        """The region that the node stands in."""
        return str(self._status["region"])

    @property
    def replica_id(self) -> int:
        """The node's replica id."""
        return int(self._status["replica"], 16)

    def now_us(self) -> int:
        """Return this process's wall-clock time in microseconds."""
        return now_us()

    def draw_number(self) -> int:
        """Return a number of 64 random bits."""
        return secrets.randbits(64)

    async def _commit(self, transaction: Transaction, options: WriteOptions) -> Committed:
        operations = list(_operations(transaction))
        headers = _headers(transaction, options)
        if len(operations) == 1:
            (one,) = operations
            path = path_of(one.space, DATATYPES_BY_CODE[one.datatype].name, one.key)
            answer = await self.ask("POST", path, self._body(one), headers=headers)
        else:
            steps = [
                {
                    "space": one.space,
                    "datatype": DATATYPES_BY_CODE[one.datatype].name,
                    "key": one.key,
                    "do": self._body(one),
                }
                for one in operations
            ]
            sent = {"operations": steps}
            answer = await self.ask("POST", "/v1/transactions", sent, headers=headers)
        first = answer["first"]
        return Committed(
            Context.parse(answer["context"]),
            _results(answer["results"]),
            0 if first is None else _dot(first),
            answer["count"],
            answer["repeated"],
        )

    def _body(self, operation: Operation) -> dict[str, Any]:
        """Return what carries an operation out."""
        datatype, name = DATATYPES_BY_CODE[operation.datatype].name, operation.name
        arguments = list(operation.arguments)
        body: dict[str, Any] = {"operation": name}
        if (datatype, name) == ("map", "apply"):
            path, member, inner, *rest = arguments
            body |= {"path": path, "datatype": member, "name": inner, "arguments": rest}
        else:
            names = _FIELDS.get(f"{datatype}.{name}", _FIELDS.get(name, ("value", "more")))
            body |= dict(zip(names, arguments, strict=False))
        if "to_replica" in body:
            body["to_replica"] = f"{body['to_replica']:016x}"
        return {**body, **self._qualified(operation.options)}

    def _qualified(self, options: Options | None) -> dict[str, Any]:
        body: dict[str, Any] = {}
        if options is None:
            return body
        if options.observed is not None:
            body["expect" if options.conditional else "observed"] = str(Observed(options.observed))
        if options.expires_at_us is not None:
            body["expires_at_us"] = options.expires_at_us
        if options.metadata:
            body["metadata"] = options.metadata
        return body

    async def read(
        self,
        space: SpaceName,
        datatype: int,
        key: str,
        *,
        at_least: Context | None = None,
        timeout_ms: int = 10_000,
    ) -> Reading:
        """Read one key."""
        headers = {"X-Timeout-Ms": str(timeout_ms)}
        if at_least is not None:
            headers["X-Context"] = str(at_least)
        path = path_of(space, DATATYPES_BY_CODE[datatype].name, key)
        said = await self.ask("GET", path, headers=headers, query={"siblings": "true"})
        reading = Reading(
            said["value"],
            tuple([_entry(sibling) for sibling in said["siblings"]]),
            contested=said["contested"],
            resolver=said["resolver"],
            also=tuple(said["also"]),
            exists=said["exists"],
            unknown_resolver=said["unknown_resolver"],
            vector=(await self.joined()).vector,
        )
        assert str(reading.observed) == said["observed"]
        return reading

    async def _pages(self, path: str, name: str, limit: int, **query: Any) -> list[Any]:
        found: list[Any] = []
        cursor: str | None = None
        while True:
            asked = {**query, "limit": limit, **({} if cursor is None else {"cursor": cursor})}
            page = await self.ask("GET", path, query=asked)
            found += page[name]
            cursor = page["cursor"]
            if cursor is None:
                return found

    async def keys(self, space: SpaceName, datatype: int) -> list[str]:
        """Return the keys of one datatype in a space, sorted."""
        path = path_of(space, DATATYPES_BY_CODE[datatype].name)
        return await self._pages(path, "keys", _PAGE)

    async def conflicts(self, space: SpaceName | None = None) -> list[Conflict]:
        """Return the places that hold concurrent values now, of one space or of all."""
        query = {} if space is None else {"space": ",".join(quote(label) for label in space)}
        rows = await self._pages("/v1/conflicts", "conflicts", 1, **query)
        return [Conflict(**{**row, "space": tuple(row["space"])}) for row in rows]

    async def spaces(self) -> list[SpaceName]:
        """Return the spaces that hold anything, sorted."""
        return [tuple(labels) for labels in (await self.ask("GET", "/v1/spaces"))["spaces"]]

    async def joined(self) -> Context:
        """Return what the node has joined and published now."""
        return Context.parse((await self.ask("GET", "/v1/context"))["context"])

    async def wait_for(self, context: Context, *, timeout_ms: int = 10_000) -> Context:
        """Return once the node has joined ``context``."""
        query = {"at_least": str(context), "timeout_ms": timeout_ms}
        return Context.parse((await self.ask("GET", "/v1/context", query=query))["context"])

    async def changes(
        self,
        space: SpaceName | None = None,
        *,
        after: Context | None = None,
        limit_batches: int = 10_000,
    ) -> HttpFeed:
        """Open a feed of what is published."""
        query: dict[str, Any] = {"limit_batches": limit_batches}
        if space is not None:
            query["space"] = ",".join(quote(label) for label in space)
        headers = {} if after is None else {"Last-Event-ID": str(after)}
        answer = await self._http.get(
            f"{self.base}/v1/changes", params=query, headers=headers, timeout=_ENDLESS
        )
        if answer.status != 200:
            self._decode(answer.status, answer.content_type, await answer.read())
        feed = HttpFeed(answer)
        first = await feed.following()
        assert isinstance(first, Part)
        assert first.cursor is not None
        feed.cursor = first.cursor
        return feed


_ENDLESS: Final = aiohttp.ClientTimeout(total=None)


class HttpFeed(ChangeReader):
    """A change feed out of Server-Sent Events."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        super().__init__(Context())
        self._answer = answer
        self._events = _events_of(answer)

    async def following(self) -> Part | Lagging:
        """Wait for the next event."""
        kind, data, cursor = await anext(self._events)
        if kind == "problem":
            raise error_of(data)
        if kind == "lagging":
            return Lagging(data["lagging"])
        assert cursor == data["cursor"]
        changes = [
            Change(**{**change, "space": tuple(change["space"])}) for change in data["changes"]
        ]
        return Part(None if cursor is None else Context.parse(cursor), changes)

    async def close(self) -> None:
        """End the feed."""
        self._answer.close()


async def _events_of(answer: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, Any, str | None]]:
    """Yield the kind, the data and the id of every event."""
    event: dict[str, str] = {}
    async for raw in answer.content:
        line = raw.decode().removesuffix("\n")
        if line and not line.startswith(":"):
            name, _, value = line.partition(": ")
            event[name] = value
        elif event and not line:
            yield event["event"], from_json(json.loads(event["data"])), event.get("id")
            event = {}
    raise Closed("the stream has ended", hint="open it again")


# ---------------------------------------------------------------------- forms


def _require_plain(value: Any) -> None:
    """Refuse what JSON's encoder would change: only text names what a dict holds."""
    if isinstance(value, dict):
        if not all(type(name) is str for name in value):
            raise InvalidValue("a map's names are texts")
        for item in value.values():
            _require_plain(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _require_plain(item)


def _operations(transaction: Transaction) -> list[Operation]:
    """Return every step of a transaction as an operation."""
    found: list[Operation] = []
    for step in transaction.steps:
        if isinstance(step, PutRun):
            name = "increment" if type(step) is CountRun else "set"
            found += [
                Operation(step.space, step.datatype, key, name, (value,))
                for key, value in zip(step.keys, step.values, strict=True)
            ]
        else:
            found.append(step)
    return found


def _headers(transaction: Transaction, options: WriteOptions) -> dict[str, str]:
    headers = {
        "X-Trust": str(transaction.trust),
        "X-Durability": options.durability,
        "X-Timeout-Ms": str(options.timeout_ms),
    }
    if transaction.author:
        headers["X-Author"] = transaction.author
    if options.after is not None:
        headers["X-Context"] = str(options.after)
    if transaction.operation_id is not None:
        headers["Idempotency-Key"] = transaction.operation_id.decode()
    return headers


def _dot(text: str) -> int:
    replica, _, sequence = text.partition(":")
    return pack_dot(int(replica, 16), int(sequence))


def _results(value: Any) -> Any:
    if isinstance(value, list):
        return [_results(item) for item in value]
    return _dot(value) if isinstance(value, str) and _DOT.fullmatch(value) else value


def _entry(sibling: Mapping[str, Any]) -> tuple[int, Any, Stamp]:
    dot = _dot(sibling["dot"])
    stamp = Stamp(
        dot >> 64,
        sibling["order"],
        sibling["time_us"],
        sibling["author"],
        sibling["region"],
        sibling["trust"],
        sibling.get("expires_at_us"),
        sibling.get("metadata", {}),
    )
    return dot, sibling["value"], stamp
