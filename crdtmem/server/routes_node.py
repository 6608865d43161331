"""Routes to the node and its cluster: how it fares, who is there, what an operator may ask."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from crdtmem.server.answers import Open
from crdtmem.server.exchange import Exchange
from crdtmem.server.routing import Route

__all__ = ["ROUTES"]


async def status(exchange: Exchange) -> web.StreamResponse:
    """Tell how the node fares."""
    return exchange.reply(await exchange.ask("status", ()))


ROUTES: Final = (
    Route("GET", "/v1/status", "status", "How the node fares.", status, tag="node", answer=Open),
)
