"""The HTTP face of a node: it listens, finds the route of a request, and answers.

Problem: agents in any language should reach a node's memory with what they have, which is
HTTP; and nothing that arrives there may stop the node, grow it, or get more than a client
of the control socket gets.

Idea: aiohttp's low-level server parses; a request goes through one function to the handler
of its route, without a chain of middleware. Handlers ask *verbs*, as every other face does
(``crdtmem.verbs``): permissions, limits and meaning are theirs.

A request is refused before its route is looked up where it may come from a web page: one of
another origin, or one whose host's name merely points to this machine. A browser on this
machine is a way around "loopback only" that has been used against many local services.

Invariants: every answer outside of 2xx is a problem (see ``problems``); an exception that
is none of ours is logged, and answered with 500 and nothing of its inside; stopping answers
what is under way and ends streams.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Coroutine, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from aiohttp import HttpVersion11, web

from crdtmem.admission import SMALL_BYTES
from crdtmem.asking import Handler
from crdtmem.errors import Closed, ConfigError, CrdtmemError, LimitExceeded, Overloaded
from crdtmem.server.connection import Connection, Connections
from crdtmem.server.docs import page_of
from crdtmem.server.exchange import HEADERS, Exchange
from crdtmem.server.negotiation import encode
from crdtmem.server.openapi import describe
from crdtmem.server.problems import MEDIA_TYPE, Refusal, problem_of, problem_of_refusal
from crdtmem.server.routes import ROUTES
from crdtmem.server.routing import Router
from crdtmem.settings import Settings
from crdtmem.settings_parts import is_loopback, parse_address

if TYPE_CHECKING:
    from crdtmem.node import Node

__all__ = ["HttpFace", "faces_of"]

LINE_BYTES: Final = 64 * 1024
"""Longest request line: eight labels and a key of 1 KiB each, every byte percent-encoded."""

FIELD_BYTES: Final = 64 * 1024
"""Longest header: the context of a thousand members."""

HEADERS_MOST: Final = 64
"""Most headers of a request."""

_UNWEIGHED: Final = ("/v1/status", "/v1/members", "/v1/admin/", "/v1/socket", "/openapi", "/docs")
"""Paths that are answered whatever others hold, if what they bring is small: an operator's,
and one that has a share of its own."""

_LINGER_S: Final = 1.0
_HOSTS_KEPT: Final = 64
_log = logging.getLogger("crdtmem.server")


class HttpFace:
    """The HTTP API of one node: see ``crdtmem.node.Face``."""

    name = "http"

    def __init__(self, node: Node) -> None:
        settings = node.settings.http
        self.node = node
        self.handlers: Mapping[str, Handler] = node.service.handlers
        self.router = Router(ROUTES)
        self.body_bytes = node.settings.limits.frame_bytes
        self.receive_s = settings.receive_ms / 1_000
        self.settings = settings
        self.closing = asyncio.Event()
        self.streams: set[asyncio.Task[Any]] = set()
        self._hosts: set[str] = set()
        self._connections: Connections | None = None
        self._server: asyncio.Server | None = None
        self._address = ("", 0)

    @cached_property
    def description(self) -> bytes:
        """The description of the API, for programs."""
        return encode(describe(self.router.routes))

    @cached_property
    def page(self) -> bytes:
        """The description of the API, for people."""
        return page_of(json.loads(self.description)).encode()

    # ------------------------------------------------------------------ life

    @property
    def url(self) -> str:
        """Where it is reached."""
        host, port = self._address
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"

    @property
    def connections(self) -> list[Any]:
        """The connections that are open."""
        return [] if self._connections is None else list(self._connections.connections)

    async def start(self) -> None:
        """Bind and listen. Raises ``ConfigError`` where that cannot be done."""
        host, port = parse_address(self.settings.listen, lowest_port=0)
        if not port and host == "localhost":
            # Of both families it would take two ports, and one could be told.
            host = "127.0.0.1"
        settings = self.settings
        self._connections = Connections(
            self.handle,
            admission=self.node.admission,
            most_connections=settings.connections,
            receive_s=self.receive_s,
            stalled_s=settings.stalled_ms / 1_000,
            keepalive_timeout=settings.idle_ms / 1_000,
            lingering_time=_LINGER_S,
            access_log=None,
            auto_decompress=False,
            max_line_size=LINE_BYTES,
            max_field_size=FIELD_BYTES,
            max_headers=HEADERS_MOST,
        )
        try:
            self._server = await asyncio.get_running_loop().create_server(
                self._connections, host, port, backlog=1_024
            )
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {settings.listen} for HTTP: {error.strerror or error}",
                hint="choose another http.listen, or port 0 for any that is free",
            ) from error
        self._address = self._server.sockets[0].getsockname()[:2]
        self._connections.sweep()

    def stop_accepting(self) -> None:
        """Accept no more clients; those that are connected stay."""
        self.closing.set()
        if self._server is not None:
            self._server.close()

    def end_connections(self) -> None:
        """End the streams; their readers come back, and are told of the new replica."""
        for task in list(self.streams):
            task.cancel()

    async def close(self, *, timeout_s: float = 2.0) -> None:
        """Answer what can be answered, close every connection. Idempotent."""
        self.stop_accepting()
        self.end_connections()
        if self._connections is not None:
            connections, self._connections = self._connections, None
            connections.rest()
            # Those that rest between two requests have nothing to be waited for.
            connections.pre_shutdown()
            await connections.shutdown(timeout_s)
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None

    # ------------------------------------------------------------------ requests

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        connection = request.protocol
        assert isinstance(connection, Connection)
        connection.begin()
        try:
            size_bytes = _weight(request, self.body_bytes)
            if size_bytes > SMALL_BYTES or not request.raw_path.startswith(_UNWEIGHED):
                connection.take_in(size_bytes)
            return await self._answer(request)
        except Refusal as refusal:
            return _problem(*problem_of_refusal(refusal))
        except CrdtmemError as error:
            return _problem(*problem_of(error))
        except web.HTTPException as error:
            # What aiohttp refuses by itself: an upgrade that is none, for one.
            said = Refusal(error.status, "malformed_request", error.text or error.reason)
            return _problem(*problem_of_refusal(said))
        except ConnectionError as error:
            # The client is gone; nobody reads this.
            return _problem(*problem_of(Closed(f"the connection was lost: {error}")))
        except RecursionError:
            return _problem(
                *problem_of(LimitExceeded("a value nested too deep", hint="flatten it"))
            )
        except Exception as error:  # noqa: BLE001 - whatever a request provokes ends with it
            _log.error("a request failed unexpectedly", exc_info=error)
            return _problem(
                *problem_of(CrdtmemError("the node failed to answer", hint="see the node's log"))
            )
        finally:
            connection.finish()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self._check_sender(request)
        target = request.raw_path
        if not target.startswith("/"):
            # The absolute form, which a client of a proxy sends; its host counts.
            if "://" in target and not _is_local(target):
                raise _misdirected(target)
            target = request.rel_url.raw_path_qs
        found = self.router.find(request.method, target)
        exchange = Exchange(self, request, found)
        if found.query and found.route.query is None:
            exchange.no_query()
        exchange.no_body()
        return await found.route.handler(exchange)

    def _check_sender(self, request: web.BaseRequest) -> None:
        """Refuse what a web page of elsewhere made a browser of this machine send."""
        host = request.headers.get("Host", "")
        if not host and request.version < (1, 0):
            # A line that is nothing but a path: whoever sent it meant another protocol.
            raise Refusal(
                400, "malformed_request", "no version of HTTP is named", hint="use HTTP/1.1"
            )
        if host not in self._hosts:
            if host and not _is_local(f"//{host}"):
                raise _misdirected(host)
            if len(self._hosts) < _HOSTS_KEPT:
                self._hosts.add(host)
        origin = request.headers.get("Origin")
        if origin is not None and not _is_local(origin):
            raise Refusal(
                403,
                "foreign_origin",
                f"pages of {origin!r:.100} have no business here",
                hint="send no Origin, or that of a page of this machine",
            )

    async def stream(
        self, exchange: Exchange, work: Coroutine[Any, Any, None], answer: web.StreamResponse
    ) -> None:
        """Carry out work that writes an answer in parts.

        Where it fails before its first part, its error is raised; later, and where the node
        stops or takes a new id, the connection is cut: a part must not look like the whole.
        """
        connection = exchange.request.protocol
        assert isinstance(connection, Connection)
        try:
            if exchange.request.version < HttpVersion11:
                raise Refusal(
                    400,
                    "old_protocol",
                    "before HTTP/1.1 nobody can tell a part of an answer from the whole",
                    hint="use a client of HTTP/1.1",
                )
            connection.begin_stream()
        except (Refusal, Overloaded):
            work.close()
            raise
        task = asyncio.ensure_future(work)
        self.streams.add(task)
        try:
            if self.closing.is_set():
                task.cancel()
            await asyncio.wait({task})
        finally:
            self.streams.discard(task)
            task.cancel()
            connection.end_stream()
        error: BaseException | None = None
        if task.cancelled():
            error = Closed("the node is stopping, or goes on anew", hint="come back")
        elif (error := task.exception()) is None:
            return
        if not answer.prepared:
            raise error
        if not isinstance(error, CrdtmemError | ConnectionError):
            _log.error("a stream failed unexpectedly", exc_info=error)
        transport = exchange.request.transport
        if transport is not None:
            transport.abort()


def _weight(request: web.BaseRequest, most_bytes: int) -> int:
    """Return how many bytes a request may come to hold."""
    if not request.can_read_body:
        return 0
    length = request.content_length
    return most_bytes if length is None else min(length, most_bytes)


def _misdirected(host: str) -> Refusal:
    return Refusal(
        421,
        "misdirected_request",
        f"no host {host!r:.100} is served here",
        hint="use 127.0.0.1, [::1] or localhost",
    )


def _is_local(url: str) -> bool:
    try:
        name = urlsplit(url).hostname
    except ValueError:
        return False
    return name is not None and is_loopback(name)


def _problem(status: int, problem: dict[str, Any], headers: dict[str, str]) -> web.Response:
    named = {**HEADERS, "Content-Type": MEDIA_TYPE, **headers}
    answer = web.Response(body=encode(problem), status=status, headers=named)
    if headers.get("Connection") == "close":
        answer.force_close()
    return answer


def faces_of(settings: Settings) -> list[Callable[[Node], HttpFace]]:
    """Return the faces that the settings ask for, to be handed to ``Node.start``."""
    return [HttpFace] if settings.http.listen else []
