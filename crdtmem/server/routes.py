"""All routes of the API, in one table: what is not here is not there."""

from __future__ import annotations

from typing import Final

from crdtmem.server import (
    feed,
    routes_about,
    routes_many,
    routes_node,
    routes_values,
    websocket,
)
from crdtmem.server.routing import Route

__all__ = ["ROUTES"]

ROUTES: Final[tuple[Route, ...]] = (
    *routes_values.ROUTES,
    *routes_many.ROUTES,
    *feed.ROUTES,
    *websocket.ROUTES,
    *routes_node.ROUTES,
    *routes_about.ROUTES,
)
