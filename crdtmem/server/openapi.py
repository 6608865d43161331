"""The description of the API: OpenAPI 3.1, written from the table of routes and its models.

Problem: generators of clients, fuzzers and people need to know what the API takes and
answers, exactly; a description written by hand is wrong within a month.

Idea: nothing is written here but form. Paths, headers, bodies, queries and answers come
from ``ROUTES``; their schemas from the very models that validate requests, by pydantic; and
the document is held against openapi-pydantic's models, so that it is one. What every operation
may be refused with is one rule below.

Invariants: what is not described is not served, and the other way round: both are made of
one table, and a test asks for every status that is described and no other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any, Final, Literal

from openapi_pydantic import OpenAPI
from pydantic import TypeAdapter

from crdtmem import __version__
from crdtmem.server.answers import Problem
from crdtmem.server.exchange import DURABILITIES
from crdtmem.server.feed import EVENT_STREAM
from crdtmem.server.negotiation import JSON, MSGPACK
from crdtmem.server.problems import MEDIA_TYPE
from crdtmem.server.routing import Route

__all__ = ["describe", "statuses_of"]

_ABOUT: Final = """\
The memory of one node, and of its cluster. A **space** in a path is its labels joined by
commas, each percent-encoded; a **key** is one percent-encoded segment. Bodies and answers
are JSON or MessagePack, by `Content-Type` and `Accept`. What JSON lacks is written
`{"$bytes": base64}`, `{"$float": "nan"}`, and a map that has such a name `{"$dict": map}`.

Every write and read of a value answers `X-Context`: send it, to any node, and what is read
there is no older. Send an `Idempotency-Key` with a write, and it counts once however often
it is sent. All that is refused is a problem (RFC 9457) with a stable `code`.

What is described here is stable: within `/v1`, fields and operations are only added."""

_ALWAYS: Final = frozenset({400, 403, 421, 429, 500, 503})
_WITH_BODY: Final = frozenset({408, 413, 415})
_TAKEN: Final = "Durable here, not yet as widely as asked; it keeps spreading."
_REFS: Final = "#/components/schemas/{model}"

_TOKEN: Final = {"type": "string", "pattern": r"^c1\.[A-Za-z0-9_-]*$"}
_HEADERS: Final[Mapping[str, tuple[str, dict[str, Any]]]] = {
    "X-Context": ("Joined before the request is carried out.", _TOKEN),
    "X-Timeout-Ms": (
        "How long what is waited for may take.",
        {"type": "integer", "minimum": 0, "maximum": 86_400_000, "default": 10_000},
    ),
    "X-Author": ("Who writes.", {"type": "string"}),
    "X-Trust": (
        "How far the author is trusted; higher is more.",
        {"type": "integer", "minimum": -(1 << 31), "maximum": (1 << 31) - 1, "default": 0},
    ),
    "X-Durability": (
        "How widely it must be durable before it is answered.",
        {"type": "string", "enum": list(DURABILITIES), "default": "local"},
    ),
    "Idempotency-Key": (
        "The operation's id: a write that is sent again with it counts once, anywhere.",
        {"type": "string", "minLength": 1, "maxLength": 64},
    ),
    "Last-Event-ID": (
        "The id of the last event that was seen; empty where there was none.",
        {"type": "string", "pattern": r"^(c1\.[A-Za-z0-9_-]*)?$"},
    ),
}
_STREAMED: Final[Mapping[str, dict[str, Any]]] = {
    JSON: {"type": "object"},
    # Of such a type the schema is that of one event.
    EVENT_STREAM: {
        "type": "object",
        "properties": {
            "event": {"type": "string", "description": "Its kind."},
            "data": {"type": "string", "description": "What is told, as JSON."},
            "id": {"type": "string", "description": "The cursor: send it as Last-Event-ID."},
        },
        "required": ["event", "data"],
    },
}
_VARIABLES: Final[Mapping[str, tuple[str, dict[str, Any]]]] = {
    "space": (
        "Labels joined by commas.",
        {"type": "string", "minLength": 1, "pattern": "^[^,]+(,[^,]+){0,7}$"},
    ),
    "key": ("The key.", {"type": "string", "minLength": 1}),
}


def statuses_of(route: Route) -> list[int]:
    """Return every status that an operation may answer with."""
    found = {route.status} | _ALWAYS | route.refusals
    if route.body is not None:
        found |= _WITH_BODY
    if "{" in route.path:
        found |= {404}
    return sorted(found)


def describe(routes: Iterable[Route]) -> dict[str, Any]:
    """Return the description of some routes as plain values."""
    listed = list(routes)
    schemas = _Schemas(listed)
    paths: dict[str, dict[str, Any]] = {}
    for route in listed:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas)
    refused = sorted({code for route in listed for code in statuses_of(route)} - {101, 200})
    document = {
        "openapi": "3.1.1",
        "info": {"title": "crdtmem", "version": __version__, "description": _ABOUT},
        "tags": [{"name": tag} for tag in dict.fromkeys(route.tag for route in listed)],
        "paths": paths,
        "components": {
            "schemas": schemas.shared,
            "responses": {f"Problem{code}": _problem(code, schemas) for code in refused},
        },
    }
    # It is given as it is: the models would write every bound as a float.
    OpenAPI.model_validate(document)
    return document


class _Schemas:
    """The schemas of all models, made together, so that what they share is there once."""

    def __init__(self, routes: list[Route]) -> None:
        models: dict[tuple[str, str], Any] = {("answer", "problem"): Problem}
        for route in routes:
            parts = {"body": route.body, "query": route.query, "answer": route.answer}
            models |= {(kind, route.name): model for kind, model in parts.items() if model}
        self._made, rest = TypeAdapter.json_schemas(
            [(key, _mode(key[0]), TypeAdapter(model)) for key, model in models.items()],
            ref_template=_REFS,
        )
        self._all: dict[str, Any] = rest.get("$defs", {})
        queries = {route.query.__name__ for route in routes if route.query is not None}
        self.shared = {name: schema for name, schema in self._all.items() if name not in queries}

    def of(self, kind: str, name: str) -> dict[str, Any]:
        """Return the schema of a body or an answer."""
        return self._made[(kind, name), _mode(kind)]

    def query(self, name: str) -> dict[str, Any]:
        """Return the schema of a query, which is not shared."""
        schema = self.of("query", name)
        reference = str(schema.get("$ref", ""))
        return self._all[reference.rpartition("/")[2]] if reference else schema


def _mode(kind: str) -> Literal["validation", "serialization"]:
    return "serialization" if kind == "answer" else "validation"


def _operation(route: Route, schemas: _Schemas) -> dict[str, Any]:
    parameters = [
        _parameter(name, "path", *_VARIABLES[name], required=True)
        for name in _VARIABLES
        if f"{{{name}}}" in route.path
    ]
    if route.query is not None:
        schema = schemas.query(route.name)
        required = schema.get("required", ())
        parameters += [
            _parameter(
                name,
                "query",
                field.get("description", ""),
                _given(field),
                required=name in required,
            )
            for name, field in schema.get("properties", {}).items()
        ]
    parameters += [
        _parameter(name, "header", *_HEADERS[name], required=False) for name in route.headers
    ]
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.summary,
        "tags": [route.tag],
        "parameters": parameters,
        "responses": {str(code): _response(route, code, schemas) for code in statuses_of(route)},
    }
    if route.description:
        operation["description"] = route.description
    if route.body is not None:
        operation["requestBody"] = {
            "content": _both(schemas.of("body", route.name)),
            "required": route.body_required,
        }
    return operation


def _given(field: Mapping[str, Any]) -> dict[str, Any]:
    """Return a field's schema without null: in a query what is not given is left out."""
    options = [option for option in field.get("anyOf", ()) if option.get("type") != "null"]
    rest = {
        name: item for name, item in field.items() if name not in ("anyOf", "title", "description")
    }
    if rest.get("default", 0) is None:
        del rest["default"]
    return {**rest, **options[0]} if options else rest


def _parameter(
    name: str, where: str, about: str, schema: Mapping[str, Any], *, required: bool
) -> dict[str, Any]:
    found = {"name": name, "in": where, "description": about, "schema": dict(schema)}
    return {**found, "required": True} if required else found


def _both(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {media: {"schema": schema} for media in (JSON, MSGPACK)}


def _problem(code: int, schemas: _Schemas) -> dict[str, Any]:
    about = _TAKEN if code == 202 else HTTPStatus(code).phrase
    problem = {"schema": schemas.of("answer", "problem")}
    return {"description": about, "content": {MEDIA_TYPE: problem}}


def _response(route: Route, code: int, schemas: _Schemas) -> dict[str, Any]:
    if code != route.status:
        return {"$ref": f"#/components/responses/Problem{code}"}
    response: dict[str, Any] = {"description": HTTPStatus(code).phrase}
    if route.answer is not None:
        response["content"] = _both(schemas.of("answer", route.name))
    elif route.media and code == 200:
        schema = _STREAMED.get(route.media, {"type": "string"})
        response["content"] = {route.media: {"schema": schema}}
    if "X-Context" in route.headers:
        token = {"description": "What the node had joined.", "schema": _TOKEN}
        response["headers"] = {"X-Context": token}
    return response
