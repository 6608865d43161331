"""Routes to the description of the API itself."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from crdtmem.server.docs import PAGE_HEADERS
from crdtmem.server.exchange import HEADERS, Exchange
from crdtmem.server.negotiation import JSON
from crdtmem.server.routing import Route

__all__ = ["ROUTES"]


async def _openapi(exchange: Exchange) -> web.StreamResponse:
    """Return the description for programs."""
    return web.Response(
        body=exchange.face.description,
        headers={**HEADERS, "Content-Type": JSON},
    )


async def _docs(exchange: Exchange) -> web.StreamResponse:
    """Return the description for people."""
    return web.Response(body=exchange.face.page, headers={**HEADERS, **PAGE_HEADERS})


ROUTES: Final = (
    Route(
        "GET", "/openapi.json", "openapi", "This description, for programs.", _openapi,
        tag="about", media=JSON,
    ),
    Route(
        "GET", "/docs", "docs", "This description, for people.", _docs,
        tag="about", media="text/html",
    ),
)  # fmt: skip
