"""Routes: one table from which requests find their handler, and the API its description.

Problem: a description of an API that is kept beside its router drifts from it.

Idea: a ``Route`` says everything about one operation: method, path, who handles it, which
model its body and its query must fit, what it answers. ``Router`` finds routes by walking
a path's segments through a tree of dicts; ``openapi`` writes the description of the same
table.

Paths are taken as they were sent. Segments are parted first and decoded then, so that a
slash within a key (``%2F``) is a part of the key; a dot segment is a name like any other;
what is not UTF-8 behind its percent signs is refused. (aiohttp's own router decodes a path
before it is matched, replaces what is not UTF-8, and tries patterns one by one.)

Invariants: finding a route changes nothing and takes time in proportion to the path; a
path that is known under other methods says which.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote_to_bytes

from aiohttp import web
from pydantic import BaseModel, TypeAdapter

from crdtmem.server.problems import Refusal

if TYPE_CHECKING:
    from crdtmem.server.exchange import Exchange

__all__ = ["Found", "Route", "Router", "space_of", "text_of"]

RouteHandler = Callable[["Exchange"], Awaitable[web.StreamResponse]]

_VARIABLE: Final = "{}"
_LABELS_MOST: Final = 8
_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True, slots=True)
class Route:
    """One operation of the API. ``name`` is its ``operationId``: stable, like its path.

    ``headers`` names what it reads (see ``exchange``); ``refusals`` are the statuses that it
    may give beyond those that every operation may; ``media`` is the type of an answer that
    is neither JSON nor MessagePack; ``datatype`` is that of values under its path;
    ``body_required`` says whether a body may be left out.
    """

    method: str
    path: str
    name: str
    summary: str
    handler: RouteHandler
    tag: str
    answer: Any = None
    body: Any = None
    body_required: bool = True
    query: type[BaseModel] | None = None
    headers: tuple[str, ...] = ()
    refusals: frozenset[int] = frozenset()
    media: str = ""
    datatype: str = ""
    status: int = 200
    description: str = ""
    reader: TypeAdapter[Any] | None = field(init=False, default=None)
    """The compiled validator of the body."""

    @property
    def streams(self) -> bool:
        """Whether its answer is written in parts, and has no end that is known."""
        return self.media not in ("", "application/json", "text/html")

    def __post_init__(self) -> None:
        if self.body is not None:
            object.__setattr__(self, "reader", TypeAdapter(self.body))


@dataclass(slots=True)
class Found:
    """A route, with the segments (as sent) that stand for its variables, and the query."""

    route: Route
    variables: tuple[str, ...]
    query: str


class Router:
    """Finds routes."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._tree: dict[str, Any] = {}
        self.routes = tuple(routes)
        for route in self.routes:
            node = self._tree
            for segment in route.path.split("/")[1:]:
                node = node.setdefault(_VARIABLE if segment.startswith("{") else segment, {})
            # No segment holds a slash, so this is no segment's name.
            methods = node.setdefault("/", {})
            assert route.method not in methods, f"{route.method} {route.path} is there twice"
            methods[route.method] = route

    def find(self, method: str, target: str) -> Found:
        """Return what a request asks for; raises ``Refusal`` (404, 405)."""
        path, _, query = target.partition("?")
        variables: list[str] = []
        node: dict[str, Any] | None = self._tree
        for segment in path.split("/")[1:]:
            if node is None:
                break
            step = node.get(segment) if segment != _VARIABLE else None
            if step is None and segment:
                step = node.get(_VARIABLE)
                variables.append(segment)
            node = step
        methods = None if node is None else node.get("/")
        if methods is None or not path.startswith("/"):
            raise Refusal(
                404,
                "unknown_path",
                f"there is nothing at {path!r:.200}",
                hint="see /openapi.json or /docs; a datatype is one of those named there",
            )
        route = methods.get(method)
        if route is None and method == "HEAD" and "GET" in methods and not methods["GET"].streams:
            route = methods["GET"]
        if route is None:
            allowed = ", ".join(sorted(methods))
            raise Refusal(
                405,
                "method_not_allowed",
                f"{method:.40} is no operation of this path",
                hint=f"use {allowed}",
                Allow=allowed,
            )
        return Found(route, tuple(variables), query)


def text_of(segment: str) -> str:
    """Return the text that a segment or label stands for; raises ``Refusal`` (400)."""
    if "%" not in segment and segment.isascii():
        return segment
    if _ESCAPE.search(segment):
        raise _malformed(segment)
    try:
        return unquote_to_bytes(segment.encode("utf-8", "surrogateescape")).decode("utf-8")
    except UnicodeError as error:
        raise _malformed(segment) from error


def space_of(segment: str) -> tuple[str, ...]:
    """Return the labels that a segment names; raises ``Refusal`` (400)."""
    labels = tuple([text_of(label) for label in segment.split(",")])
    if "" in labels or len(labels) > _LABELS_MOST:
        raise Refusal(
            400,
            "malformed_path",
            f"{segment!r:.100} names no space",
            hint=f"join 1 to {_LABELS_MOST} labels by commas, such as team,notes",
        )
    return labels


def _malformed(segment: str) -> Refusal:
    return Refusal(
        400,
        "malformed_path",
        f"{segment!r:.100} is not percent-encoded UTF-8",
        hint="encode each label and key as UTF-8, then percent-encode it",
    )
